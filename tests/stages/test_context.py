"""What is done already: the shards that a stage names as its input, and directories of this or other work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages import fake_run
from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context, shards_digest

WORK: dict[str, Any] = {"kind": "teacher", "settings": {"arch": "x3d_tiny"}, "inputs": {"shards": "aa"}}
OTHER: dict[str, Any] = {**WORK, "inputs": {"shards": "bb"}}


def context(root: Path, *, replace: bool = False) -> Context:
    study = fake_run.experiment(root)
    return Context(RunDirectory(root), study, RayCluster(study.cluster, root), Progress(), replace)


def test_the_shards_are_known_by_their_manifests_digest(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    fake_run.shard(run)
    found = manifest.read(run.shards)
    assert found is not None
    assert shards_digest(run) == found.digest()


def test_without_shards_a_stage_says_which_command_makes_them(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    wanted = f"{run.shards} holds no finished shards; expected a manifest; make them with `ukd shard`"
    with pytest.raises(UsageError) as absent:
        shards_digest(run)
    run.shards.mkdir()
    with pytest.raises(UsageError) as unfinished:
        shards_digest(run)
    assert (str(absent.value), str(unfinished.value)) == (wanted, wanted)


def test_shards_with_a_damaged_manifest_are_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    fake_run.shard(run)
    path = run.shards / manifest.FILENAME
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=rf"^manifest {path} is damaged \(.*; remove {run.shards} to make it"):
        shards_digest(run)


def test_only_the_same_work_is_finished(tmp_path: Path) -> None:
    directory = tmp_path / "member"
    assert not context(tmp_path).finished(directory, **WORK)
    directory.mkdir()
    assert not context(tmp_path).finished(directory, **WORK)
    manifest.commit(directory, **WORK, files=[])
    assert context(tmp_path).finished(directory, **WORK)


@pytest.mark.parametrize("begun", ["", "checkpoint/epoch-0003"], ids=["finished", "begun"])
def test_other_work_is_refused_or_replaced(tmp_path: Path, begun: str) -> None:
    directory = tmp_path / "member"
    made = directory / begun
    made.mkdir(parents=True)
    manifest.commit(made, **{**OTHER, "kind": "checkpoint" if begun else "teacher"}, files=[])

    with pytest.raises(MismatchError, match=rf"^{made} was made with inputs.shards = bb; expected aa"):
        context(tmp_path).finished(directory, **WORK)
    assert made.is_dir()
    assert not context(tmp_path, replace=True).finished(directory, **WORK)
    assert not directory.exists()
