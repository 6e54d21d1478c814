"""`ukd plan`: what it predicts of storage and time is what a real run took."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.stages import fake_store, taught_run
from ukd_dist.cli import app
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.context import Context
from ukd_dist.stages.packing import Node
from ukd_dist.stages.plan import plan
from ukd_dist.stages.reduce import reduce
from ukd_dist.training.inference import WEIGHTS


def size(*paths: Path) -> int:
    return sum(file.stat().st_size for path in paths for file in (path, *path.rglob("*")) if file.is_file())


def test_predicted_bytes_are_those_of_finished_teachers(taught: Experiment) -> None:
    run, predicted = RunDirectory(taught.root), plan(taught)
    directories = [run.teacher(member.id) for member in taught.teachers]
    checkpoints = size(*(directory / "checkpoint" for directory in directories))
    weights = size(*(directory / WEIGHTS for directory in directories))
    real = {"all": size(*directories)}
    real |= {"weights": real["all"] - checkpoints}
    real |= {"logits": real["weights"] - weights}
    assert predicted.teacher_bytes == {keep: pytest.approx(bytes, rel=0.1) for keep, bytes in real.items()}
    assert predicted.teacher_bytes["all"] == pytest.approx(real["all"], rel=0.02)
    assert sum(group.sizes.checkpoints * group.members for group in predicted.groups) == pytest.approx(
        checkpoints, rel=0.02
    )
    assert predicted.training_bytes <= predicted.groups[0].sizes.checkpoints * predicted.at_once


def test_predicted_time_is_that_of_the_histories(taught: Experiment) -> None:
    run, predicted = RunDirectory(taught.root), plan(taught, [Node(cpus=1)])
    real = sum(line["seconds"] for m in taught.teachers for line in read_history(run.teacher(m.id)))
    trained = sum((g.epoch_seconds or 0) * taught_run.EPOCHS * g.members for g in predicted.groups)
    assert trained == pytest.approx(real, rel=0.25)
    assert predicted.left_seconds == 0
    assert predicted.whole_seconds is not None
    assert predicted.whole_seconds > trained
    assert [group.pace for group in predicted.groups] == ["4 trainings here"] * 3
    assert [group.finished for group in predicted.groups] == [2, 1, 1]


def test_a_teacher_that_is_not_trained_is_predicted_by_others_of_its_network_and_clip(
    taught: Experiment, tmp_path: Path
) -> None:
    shutil.copytree(taught.root, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    first, *others = taught.teachers
    known = read_history(run.teacher(first.id))
    for other in others:
        shutil.rmtree(run.teacher(other.id))
    more = taught_run.experiment(run.root, "teachers.fleet.0.grid.seed=[0, 1, 2]")
    predicted = plan(more, [Node(cpus=1)])
    each = sum(line["seconds"] for line in known) / len(known)
    assert [group.epoch_seconds for group in predicted.groups] == [pytest.approx(each)] * 3
    assert [(group.members, group.finished) for group in predicted.groups] == [(3, 1), (1, 0), (1, 0)]
    assert predicted.left_seconds == pytest.approx(
        sum(g.seconds * (g.members - g.finished) for g in predicted.groups if g.seconds)
    )
    assert predicted.left_seconds is not None
    assert predicted.left_seconds < (predicted.whole_seconds or 0)


def test_epochs_that_are_done_are_not_predicted_again(taught: Experiment, tmp_path: Path) -> None:
    shutil.copytree(taught.root, tmp_path / "run")
    experiment = taught_run.experiment(tmp_path / "run")
    directory = RunDirectory(experiment.root).teacher(experiment.teachers[0].id)
    (directory / "manifest.json").unlink()
    lines = (directory / "history.jsonl").read_text().splitlines(keepends=True)
    (directory / "history.jsonl").write_text(lines[0])
    predicted = plan(experiment, [Node(cpus=1)])
    group = predicted.groups[0]
    assert group.seconds is not None
    assert group.epoch_seconds is not None
    assert predicted.left_seconds == pytest.approx(group.seconds - group.epoch_seconds)


def test_another_clip_is_not_predicted_by_these(taught: Experiment) -> None:
    predicted = plan(taught_run.experiment(taught.root, "data.clip.frames=16"))
    assert {group.epoch_seconds for group in predicted.groups} == {None}
    assert predicted.whole_seconds is predicted.left_seconds is None
    assert "nothing was measured of slowfast_tiny rgb" in predicted.notes[0]
    assert "--measure" in predicted.notes[0]
    assert predicted.at_once > 0


def test_measured_steps_stand_in_for_histories(taught: Experiment, tmp_path: Path) -> None:
    other = taught_run.experiment(taught.root, "data.clip.frames=16", "teachers.fleet=[{seed: 0}]")
    (group,) = plan(other, measured=True).groups
    assert group.pace == "3 steps on this machine's cpu"
    assert group.epoch_seconds is not None
    assert 0 < group.epoch_seconds < 120
    (nowhere,) = plan(
        taught_run.experiment(tmp_path / "run", "teachers.fleet=[{seed: 0}]"), measured=True
    ).groups
    assert nowhere.pace == "3 steps on this machine's cpu, random clips: nothing decoded"


def test_a_plan_changes_nothing_and_makes_no_root(tmp_path: Path) -> None:
    predicted = plan(taught_run.experiment(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
    assert predicted.free_bytes > 0
    assert "no shards yet" in predicted.notes[-1]


def test_a_large_network_is_counted_without_being_made(tmp_path: Path) -> None:
    clip = "data.clip={frames: 64, stride: 1, size: 224, short_side: [224, 288]}"
    seeds = ", ".join(map(str, range(1000)))
    fleet = f"teachers.fleet=[{{arch: slowfast_r50_4x16, grid: {{seed: [{seeds}]}}}}]"
    predicted = plan(taught_run.experiment(tmp_path / "run", clip, fleet), [Node(16, 4)] * 4)
    (group,) = predicted.groups
    # Parameters of SlowFast R50 by its paper: 34.5 million with 400 classes, of which 0.9 million classify.
    assert group.sizes.weights == pytest.approx(4 * 33.6e6, rel=0.01)
    # Two checkpoints of weights and momentum each.
    assert group.sizes.checkpoints == pytest.approx(4 * group.sizes.weights, rel=0.01)
    assert predicted.teacher_bytes["weights"] == pytest.approx(1000 * group.sizes.kept("weights"))


def test_folds_train_on_fewer_rows(taught: Experiment) -> None:
    fleet = "teachers.fleet=[{grid: {fold: [null, 0]}}]"
    folds = taught_run.experiment(taught.root, "data.folds={count: 2}", fleet)
    whole, part = (group.epoch_seconds for group in plan(folds).groups)
    assert part == pytest.approx((whole or 0) / 2)


def test_a_teacher_of_two_ranks_takes_two_slots_and_half_the_time(taught: Experiment) -> None:
    fleet = "teachers.fleet=[{seed: 0}, {seed: 0, workers: 2}]"
    alone, together = plan(taught_run.experiment(taught.root, fleet), [Node(cpus=2), Node(cpus=3)]).groups
    assert (alone.at_once, together.at_once) == (5, 2)
    assert (alone.cpus, together.cpus) == (1, 2)
    assert together.epoch_seconds == pytest.approx((alone.epoch_seconds or 0) / 2)


def test_shards_elsewhere_have_to_be_there_first(tmp_path: Path) -> None:
    elsewhere = taught_run.experiment(tmp_path / "run", "data={shards: /elsewhere, modalities: [rgb]}")
    with pytest.raises(UsageError, match="bring them there with `ukd shard`"):
        plan(elsewhere)


def test_the_command_tells_people_and_programs_the_same(taught: Experiment) -> None:
    path = str(RunDirectory(taught.root).experiment)
    told = CliRunner().invoke(app, ["plan", path, "--node", "cpus=2,count=3"])
    assert told.exit_code == 0, told.stderr
    assert "nodes: 3 x (2 CPUs, 0 GPUs); at most 4 teachers at once" in told.stdout
    answer = CliRunner().invoke(app, ["plan", path, "--node", "cpus=2,count=3", "--json"])
    document = json.loads(answer.stdout)
    assert document["at_once"] == 4
    assert [group["at_once"] for group in document["groups"]] == [6, 6, 6]
    assert set(document["teacher_bytes"]) == {"all", "weights", "logits"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    with RayCluster(Cluster(cpus_per_node=1), tmp_path / "logs") as cluster:
        yield cluster


@pytest.mark.cluster
def test_predicted_bytes_are_those_of_finished_targets(cluster: RayCluster, tmp_path: Path) -> None:
    store = fake_store.build(tmp_path / "run", 20, 300, 7)
    targets = "{ukd: {method: pkd}, avg1: {method: avg1, space: probs, temperature: 5}, best: {method: best}}"
    experiment = store.experiment(targets, reduce_rows=1024)
    run = RunDirectory(experiment.root)
    reduce(Context(run, experiment, cluster, Progress(Console(quiet=True))))
    real = size(*(run.target(target.id) for target in experiment.targets))
    assert plan(experiment).target_bytes == pytest.approx(real, rel=0.1)
