"""A coordinator that is stopped: its members write checkpoints first, and go on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages import attempted, test_teach
from tests.stages.test_attempts_teach import wait_until
from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory, reached, read_attempts
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment
from ukd_dist.heartbeat import Beat, read_beat
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.training.checkpoints import Position

pytestmark = pytest.mark.cluster
STUDY = test_teach.STUDY.replace("fold: [null, 0, 1]", "seed: [0, 1, 2]").replace(
    "modality: rgb, epochs: 1", "modality: rgb, dropout: 0.3, epochs: 80", 1
)
ONE_NODE = "cluster: {local_nodes: 1, cpus_per_node: 2, metrics_port: null}\n"
SECONDS = 120.0


def study(shards: ShardSet, root: Path) -> Experiment:
    """Three teachers for a node with room for two; the file is beside the shards."""
    root.mkdir(exist_ok=True)
    text = STUDY.format(root=root) + ONE_NODE
    test_teach.shard(shards, RunDirectory(root).shards)
    (root / "study.yaml").write_text(text)
    return parse(text, "study.yaml", [])


def directories(found: Experiment) -> list[Path]:
    return [RunDirectory(found.root).teacher(teacher.id) for teacher in found.teachers]


def made(found: Experiment) -> list[dict[str, str]]:
    """sha256 of what each finished teacher holds, but of its history, which holds seconds."""
    manifests = [manifest.read(directory) for directory in directories(found)]
    assert None not in manifests
    return [
        {name: file.sha256 for name, file in of.files.items() if name != "history.jsonl"}
        for of in manifests
        if of is not None
    ]


@pytest.fixture(scope="module")
def undisturbed(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    found = study(shards, tmp_path_factory.mktemp("undisturbed"))
    for teacher in found.teachers:
        attempted.train(found, teacher)
    return made(found)


def teaching(found: Experiment) -> list[str]:
    return [sys.executable, "-m", "ukd_dist.cli", "teach", str(found.root / "study.yaml")]


def training(directory: Path) -> Beat | None:
    """The beat of a first attempt that is past its first epoch."""
    beat = read_beat(attempt_directory(directory, 1))
    return beat if beat and beat.epoch else None


def cancel(found: Experiment, _: int) -> None:
    subprocess.run([sys.executable, "-m", "ukd_dist.cli", "cancel", str(found.root)], check=True)


def press_ctrl_c(_: Experiment, session: int) -> None:
    """As a terminal does: every process in the foreground gets it, Ray's included."""
    os.killpg(session, signal.SIGINT)


@pytest.mark.parametrize("stop", [cancel, press_ctrl_c])
def test_members_of_a_stopped_run_go_on_from_where_they_were_stopped_to_the_same_bytes(
    undisturbed: list[dict[str, str]],
    shards: ShardSet,
    tmp_path: Path,
    stop: Callable[[Experiment, int], None],
) -> None:
    found = study(shards, tmp_path / "run")
    *began, waiting = directories(found)
    with subprocess.Popen(
        teaching(found),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs, of which these tests may be one, ignore Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        wait_until(lambda: all(training(directory) for directory in began), SECONDS)
        stop(found, run.pid)
        _, said = run.communicate(timeout=60)

    assert run.returncode == 1, said
    assert "waiting for a checkpoint of each member that runs (2)" in said
    stopped = [read_attempts(directory) for directory in began]
    for directory, (attempt,) in zip(began, stopped, strict=True):
        beat = read_beat(attempt_directory(directory, 1))
        assert beat is not None
        assert attempt.outcome == "interrupted", said
        assert attempt.message == f"asked to stop after epoch {beat.epoch}, step {beat.step}"
        assert attempt.reached == Position(beat.epoch, beat.step).name
    assert read_attempts(waiting) == []
    assert reached(attempt_directory(waiting, 1)) == ""

    again = subprocess.run(teaching(found), capture_output=True, text=True, timeout=SECONDS, check=False)

    assert again.returncode == 0, again.stderr
    assert made(found) == undisturbed
    for directory, (attempt,) in zip(began, stopped, strict=True):
        first, second = read_attempts(directory)
        assert (first, second.began_from) == (attempt, attempt.reached)
