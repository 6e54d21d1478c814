from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.config import Cluster
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.sources import read_source
from ukd_dist.errors import DataError, UsageError
from ukd_dist.experiment import Experiment, parse
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.shard import shard, shard_settings
from ukd_dist.status import rejected

STUDY = """
name: study
root: {root}
data:
  source: arid
  videos: {drawn}/videos
  splits: {{split0: {{train: {drawn}/lists/split0_train.txt, test: {drawn}/lists/split0_test.txt}}}}
  modalities: [rgb]
  encoding: {{short_side: 32, samples_per_shard: 8}}
teachers: {{fleet: [{{arch: slowfast_tiny, modality: rgb}}]}}
targets: {{ukd: {{method: pkd}}}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none}}]}}
"""


def study(root: Path, drawn: Path, *overrides: str) -> Experiment:
    return parse(STUDY.format(root=root, drawn=drawn), "study.yaml", list(overrides))


def context(experiment: Experiment, cluster: RayCluster) -> Context:
    return Context(RunDirectory(experiment.root), experiment, cluster, Progress())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(Cluster(), tmp_path_factory.mktemp("logs")) as ray:
        yield ray


@pytest.fixture
def damaged(videos: Path, tmp_path: Path) -> Path:
    """The drawn videos, of which one is empty and one is cut off."""
    drawn = tmp_path / "drawn"
    shutil.copytree(videos, drawn)
    paths = sorted((drawn / "videos").glob("*/*.mp4"))
    paths[0].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:20_000])
    return drawn


@pytest.mark.cluster
def test_more_damaged_videos_than_allowed_stop_the_stage_and_are_listed(
    damaged: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    experiment = study(tmp_path / "run", damaged)

    with pytest.raises(
        DataError, match=r"2 of 33 videos cannot be used.* at most 1.0% \(data.max_rejected\)"
    ):
        shard(context(experiment, cluster))

    assert manifest.read(tmp_path / "run/shards") is None
    assert sum(rejected(RunDirectory(tmp_path / "run")).values()) == 2


@pytest.mark.cluster
def test_damaged_videos_are_left_out_with_their_reasons_and_rows_stay_whole(
    damaged: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    experiment = study(tmp_path / "run", damaged, "data.max_rejected=0.1")

    shard(context(experiment, cluster))

    shards = ShardSet(tmp_path / "run/shards")
    lines = [json.loads(line) for line in (shards.directory / "rejects.jsonl").read_text().splitlines()]
    assert sorted(line["reason"] for line in lines) == ["no_frames", "unreadable"]
    kept = [key for rows in shards.rows.values() for key in rows.keys]
    assert len(kept) == 31
    assert not {line["key"] for line in lines} & set(kept)
    for split, rows in shards.rows.items():
        assert [s.row for s in shards.samples if s.split == split] == list(range(len(rows)))


@pytest.mark.cluster
def test_validation_videos_have_tars_and_rows_of_their_own_and_the_others_keep_theirs(
    videos: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    whole = study(tmp_path / "whole", videos)
    parted = study(tmp_path / "parted", videos, "data.validation={share: 0.5}")
    shard(context(whole, cluster))
    shard(context(parted, cluster))

    before, after = ShardSet(tmp_path / "whole/shards"), ShardSet(tmp_path / "parted/shards")
    recorded = [manifest.read(shards.directory) for shards in (before, after)]
    assert [found and found.settings.get("validation") for found in recorded] == [
        None,
        {"share": 0.5, "by": "group", "seed": 0},
    ]
    assert [found and list(found.summary["samples"]) for found in recorded] == [
        ["train", "test"],
        ["train", "validation", "test"],
    ]
    assert before.splits == ("train", "test")
    assert after.splits == ("train", "validation", "test")
    assert {split: len(rows) for split, rows in after.rows.items()} == {
        "train": 11,
        "validation": 11,
        "test": 11,
    }
    assert sorted(after.rows["train"].keys + after.rows["validation"].keys) == sorted(
        before.rows["train"].keys
    )
    (held_out,) = {s.group for s in after.samples if s.split == "validation"}
    assert held_out not in {s.group for s in after.samples if s.split == "train"}
    assert len(after.read("validation", 10, "rgb.mp4")) > 1000
    for name in ("test-000000.tar", "test-000001.tar"):
        assert (after.directory / name).read_bytes() == (before.directory / name).read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("codec", ["vp9", "copy", "jpeg"])
def test_tars_that_are_there_are_not_made_again_and_the_bytes_are_the_same(
    videos: Path, tmp_path: Path, cluster: RayCluster, codec: str
) -> None:
    stored = [f"data.codec={codec}", *(["data.encoding.short_side=null"] if codec == "copy" else [])]
    whole, cut = (study(tmp_path / name, videos, *stored) for name in ("whole", "cut"))
    shard(context(whole, cluster))
    shard(context(cut, cluster))
    directory = tmp_path / "cut/shards"
    kept = directory / "train-000001.tar"
    written_ns = kept.stat().st_mtime_ns
    undo_the_end(directory)

    shard(context(cut, cluster))

    assert kept.stat().st_mtime_ns == written_ns
    assert contents(directory) == contents(tmp_path / "whole/shards")
    assert ShardSet(directory).codec == codec


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        ([], {}),
        (["data.encoding.jpeg_qscale=5"], {}),
        (["data.codec=jpeg"], {"jpeg_qscale": 2}),
        (["data.encoding.flow=farneback"], {"flow": "farneback"}),
    ],
)
def test_settings_that_make_no_difference_to_earlier_shards_are_not_recorded(
    videos: Path, tmp_path: Path, overrides: list[str], recorded: dict[str, object]
) -> None:
    data = study(tmp_path, videos, *overrides).data
    earlier = {"short_side": 32, "crf_rgb": 24, "crf_flow": 12, "flow_bound": 20.0, "samples_per_shard": 8}
    assert shard_settings(data, read_source(data))["encoding"] == {**earlier, **recorded}


def test_a_preferred_distribution_that_prefers_nothing_is_refused_before_any_work(
    videos: Path, tmp_path: Path
) -> None:
    experiment = study(tmp_path / "run", videos, "targets.ukd.h=0.05")

    with (
        RayCluster(Cluster(), tmp_path) as unused,
        pytest.raises(UsageError, match=r"h is 0.05"),
    ):
        shard(context(experiment, unused))

    assert not unused.started
    assert not (tmp_path / "run").exists()


def undo_the_end(directory: Path) -> None:
    """Leave a shards directory as a kill would: its plan is there, its manifest and a tar's index are not."""
    found = manifest.read(directory)
    assert found is not None
    plan = json.dumps({"settings": found.settings, "inputs": found.inputs}, sort_keys=True)
    (directory / "plan.json").write_text(plan)
    for name in ("manifest.json", "samples.csv", "train-000000.idx", "test-000000.tar"):
        (directory / name).unlink()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
