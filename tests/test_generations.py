"""Members that start from others' weights, on a Ray node: after them, and not without them; a student too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.test_initial import checkpoint, shard, study
from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import IncompleteError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import distill
from ukd_dist.stages.initial import directory_of
from ukd_dist.stages.teach import teach
from ukd_dist.training.inference import WEIGHTS

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(Cluster(cpus_per_node=1), tmp_path_factory.mktemp("ray") / "logs") as cluster:
        yield cluster


def context(experiment: Experiment, cluster: RayCluster) -> Context:
    return Context(RunDirectory(experiment.root), experiment, cluster, Progress())


def test_members_are_trained_after_those_that_they_start_from_and_not_without_them(
    shards: ShardSet, cluster: RayCluster, tmp_path: Path
) -> None:
    run = shard(shards, RunDirectory(tmp_path / "run"))
    first = "{seed: 0}, {seed: 1, lr: 1.0e+30}"
    parent, broken = study(run.root, "none", f"teachers.fleet=[{first}]").teachers
    orphan_child = f"{{seed: 2, init: 'member:{broken.id}'}}, {{seed: 3, init: 'member:{parent.id}'}}"
    wanted = study(run.root, "none", "teachers.quorum=2", f"teachers.fleet=[{orphan_child}, {first}]")
    orphan, child, _, _ = wanted.teachers

    with pytest.raises(IncompleteError) as failed:
        teach(context(wanted, cluster))

    assert failed.value.problem.startswith(f"2 of 4 teachers failed, first {broken.id}: the loss is ")
    assert failed.value.problem.endswith(f"missing: {broken.id}, {orphan.id}")
    assert not run.teacher(orphan.id).exists()
    made = manifest.read(directory_of(run, child.settings))
    before, after = manifest.read(run.teacher(parent.id)), manifest.read(run.teacher(child.id))
    assert made is not None
    assert before is not None
    assert after is not None
    assert made.inputs == {"checkpoint": before.files[WEIGHTS].sha256}
    assert after.inputs["init"] == made.files[WEIGHTS].sha256


def test_whoever_starts_from_a_member_that_is_trained_again_starts_from_its_new_weights(
    shards: ShardSet, cluster: RayCluster, tmp_path: Path
) -> None:
    run = shard(shards, RunDirectory(tmp_path / "run"))
    (parent,) = study(run.root, "none", "teachers.fleet=[{seed: 0, lr: 0.01}]").teachers
    fleet = f"teachers.fleet=[{{seed: 0, lr: 0.01}}, {{seed: 1, init: 'member:{parent.id}'}}]"
    wanted = study(run.root, "none", fleet, "teachers.keep=logits")
    child = wanted.teachers[1]
    teach(context(wanted, cluster))
    before = manifest.read(run.teacher(parent.id))
    shutil.rmtree(run.shards)
    shard(shards, run, classes=("Walk", "Wave", "Jump"))

    teach(replace(context(wanted, cluster), replace=True))

    after, made = manifest.read(run.teacher(parent.id)), manifest.read(directory_of(run, child.settings))
    began = manifest.read(run.teacher(child.id))
    assert before is not None
    assert after is not None
    assert made is not None
    assert began is not None
    assert before.files[WEIGHTS] != after.files[WEIGHTS]
    assert made.inputs == {"checkpoint": after.files[WEIGHTS].sha256}
    assert began.inputs["init"] == made.files[WEIGHTS].sha256
    assert after.present == began.present
    assert WEIGHTS not in after.present


def test_a_student_starts_from_a_checkpoint_on_every_rank(
    shards: ShardSet, cluster: RayCluster, tmp_path: Path
) -> None:
    run = shard(shards, RunDirectory(tmp_path / "run"))
    path = checkpoint(tmp_path / "theirs.pth")
    still = (
        "students.runs.0={name: still, epochs: 1, lr: 1.0e-12, weight_decay: 0, batch_size: 4, targets: none}"
    )
    defaults = f"students.defaults={{arch: slowfast_tiny, modality: rgb, init: {path}}}"
    wanted = study(run.root, "none", still, defaults)
    (student,) = wanted.students

    distill(context(wanted, cluster))

    theirs = torch.load(path, weights_only=True)["state_dict"]
    ours = load_file(run.student(student.id) / WEIGHTS)
    convolutions = [name for name in ours if "conv" in name and name.endswith("weight")]
    assert convolutions
    for name in convolutions:
        torch.testing.assert_close(ours[name], theirs[name.replace("body.", "module.", 1)], atol=1e-7, rtol=0)
