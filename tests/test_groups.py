"""Trainings of two ranks, a teacher's among single ones and a student's: stopped, and with one killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.stages import test_teach
from tests.stages.test_attempts_teach import wait_until
from tests.test_interrupted_fleet import directories, made, teaching, training
from tests.tiny_run import rank_logs, starts
from ukd_dist.attempts import attempt_directory, reached, read_attempts
from ukd_dist.cancellation import cancel
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment
from ukd_dist.heartbeat import read_beat
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.training.checkpoints import Position

pytestmark = pytest.mark.cluster
STUDY = test_teach.STUDY.replace(
    "{{grid: {{fold: [null, 0, 1]}}}}", "{{seed: 0}}, {{seed: 1, workers: 2}}"
).replace("modality: rgb, epochs: 1", "modality: rgb, dropout: 0.3, epochs: 60", 1)
STUDY = STUDY.replace("targets: none, epochs: 1", "targets: none, epochs: 60, batch_size: 2, workers: 2")
TWO_NODES = "cluster: {local_nodes: 2, cpus_per_node: 1, metrics_port: null, network_interface: lo}\n"
SECONDS = 180.0


def study(shards: ShardSet, root: Path) -> Experiment:
    root.mkdir(exist_ok=True)
    text = STUDY.format(root=root) + TWO_NODES
    test_teach.shard(shards, RunDirectory(root).shards)
    (root / "study.yaml").write_text(text)
    return parse(text, "study.yaml", [])


@pytest.fixture(scope="module")
def undisturbed(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    found = study(shards, tmp_path_factory.mktemp("undisturbed"))
    done = subprocess.run(teaching(found), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return found


def test_a_teacher_of_two_ranks_is_finished_as_its_neighbour_is(undisturbed: Experiment) -> None:
    single, group = directories(undisturbed)
    assert [line.outcome for line in (*read_attempts(single), *read_attempts(group))] == ["done", "done"]
    assert {line["ranks"] for line in read_history(single)} == {1}
    assert {line["ranks"] for line in read_history(group)} == {2}
    assert len({start["node"] for log in rank_logs(group) for start in starts(log)}) == 2


@pytest.mark.slow
def test_a_teacher_of_two_ranks_that_is_stopped_and_then_loses_one_ends_with_the_same_bytes(
    undisturbed: Experiment, shards: ShardSet, tmp_path: Path
) -> None:
    found = study(shards, tmp_path / "run")
    _, group = directories(found)
    with subprocess.Popen(teaching(found), stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: training(group), SECONDS)
        cancel(RunDirectory(found.root), SECONDS)
        _, said = run.communicate(timeout=60)
    (stopped,) = read_attempts(group)
    beat = read_beat(attempt_directory(group, 1))
    assert beat is not None
    assert len(beat.nodes) == 2
    assert (stopped.outcome, stopped.reached) == ("interrupted", Position(beat.epoch, beat.step).name), said

    with subprocess.Popen(teaching(found), stderr=subprocess.PIPE, text=True) as run:
        wait_until(
            lambda: (newest := read_beat(attempt_directory(group, 2))) and newest.trained > 10, SECONDS
        )
        os.kill(starts(rank_logs(group)[1])[-1]["pid"], signal.SIGKILL)
        _, said = run.communicate(timeout=SECONDS)

    assert run.returncode == 0, said
    first, lost, done = read_attempts(group)
    assert (first, lost.outcome, done.outcome) == (stopped, "lost", "done"), said
    assert lost.began_from == stopped.reached
    assert done.began_from == lost.reached > stopped.reached
    assert made(found) == made(undisturbed)


def test_a_student_of_two_ranks_that_is_stopped_leaves_a_checkpoint_of_the_step_in_hand(
    shards: ShardSet, tmp_path: Path
) -> None:
    found = study(shards, tmp_path / "run")
    student = RunDirectory(found.root).student(found.students[0].id)
    attempt = attempt_directory(student, 1)
    *python, _, experiment = teaching(found)
    distilling = [*python, "distill", experiment]
    with subprocess.Popen(distilling, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: training(student), SECONDS)
        cancel(RunDirectory(found.root), SECONDS)
        _, said = run.communicate(timeout=60)
    beat = read_beat(attempt)
    assert beat is not None
    assert run.returncode == 1
    assert f"waiting for a checkpoint of {student.name}" in said
    assert reached(attempt) == Position(beat.epoch, beat.step).name
