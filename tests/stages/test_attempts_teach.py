"""Attempts at a real teacher: cut off, asked to stop, and taken for lost while they live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages import attempted, test_teach
from ukd_dist import heartbeat, manifest
from ukd_dist.attempts import ATTEMPTS, attempt_directory, new_attempt, reached
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import PreemptedError
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.commits import commit
from ukd_dist.stages.teacher_attempt import Work, train_teacher

STUDY = test_teach.STUDY.replace("{{grid: {{fold: [null, 0, 1]}}}}", "{{seed: 0}}").replace(
    "modality: rgb, epochs: 1", "modality: rgb, dropout: 0.3, epochs: 4", 1
)
ALONE = """
import sys
from pathlib import Path
from ukd_dist import pipeline
from ukd_dist.stages.teacher_attempt import Work, train_teacher
study = pipeline.load(Path(sys.argv[1]))
train_teacher(Work(study.root, study.name, study.teachers[0], checkpoint_seconds=0.0), int(sys.argv[2]))
"""


def study(shards: ShardSet, root: Path) -> Experiment:
    found = parse(STUDY.format(root=root), "study.yaml", [])
    test_teach.shard(shards, RunDirectory(root).shards)
    return found


def member(study: Experiment) -> Path:
    return RunDirectory(study.root).teacher(study.teachers[0].id)


def made(study: Experiment) -> dict[str, str]:
    """sha256 of what a finished teacher holds, but of its history, which holds seconds."""
    found = manifest.read(member(study))
    assert found is not None
    manifest.verify(member(study), found)
    return {name: file.sha256 for name, file in found.files.items() if name != "history.jsonl"}


def everything(directory: Path) -> dict[Path, tuple[str, int]]:
    files = [path for path in directory.rglob("*") if path.is_file() and ATTEMPTS not in path.parts]
    return {path: (manifest.sha256_of(path), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def undisturbed(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = study(shards, tmp_path_factory.mktemp("undisturbed"))
    attempted.train(found, found.teachers[0])
    return made(found)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begin(found: Experiment, number: int) -> subprocess.Popen[bytes]:
    """An attempt in a process of its own that writes a checkpoint after every step."""
    path = found.root / "study.yaml"
    path.write_text(found.to_yaml())
    return subprocess.Popen([sys.executable, "-c", ALONE, str(path), str(number)], stderr=subprocess.PIPE)


def within_an_epoch(attempt: Path) -> bool:
    return "-step-" in reached(attempt)


def test_an_attempt_that_lost_its_machine_within_an_epoch_is_continued_to_the_same_bytes(
    undisturbed: dict[str, str], shards: ShardSet, tmp_path: Path
) -> None:
    found = study(shards, tmp_path)
    attempt = attempt_directory(member(found), new_attempt(member(found)))
    with begin(found, 1) as process:
        wait_until(lambda: within_an_epoch(attempt))
        process.kill()
    left = reached(attempt)

    attempted.train(found, found.teachers[0])

    assert left != ""
    assert made(found) == undisturbed
    assert [line["epoch"] for line in read_history(member(found))] == [1, 2, 3, 4]
    assert not (member(found) / ATTEMPTS).exists()


def test_an_attempt_that_wakes_after_its_successor_commits_nothing(
    undisturbed: dict[str, str], shards: ShardSet, tmp_path: Path
) -> None:
    found = study(shards, tmp_path)
    attempt = attempt_directory(member(found), new_attempt(member(found)))
    with begin(found, 1) as stale:
        try:
            wait_until(lambda: within_an_epoch(attempt))
            stale.send_signal(signal.SIGSTOP)
            number = new_attempt(member(found))
            digest = train_teacher(Work(found.root, found.name, found.teachers[0]), number)
            commit(member(found), number, digest)
            committed = everything(member(found))
            time.sleep(heartbeat.BEAT_SECONDS)
        finally:
            stale.send_signal(signal.SIGCONT)
        _, said = stale.communicate(timeout=60)

    assert everything(member(found)) == committed
    assert made(found) == undisturbed
    assert stale.returncode != 0
    assert b"attempts/1 was taken for lost, and another attempt took its place" in said


def test_a_teacher_that_gets_sigterm_ends_after_its_step_and_goes_on_from_there(
    undisturbed: dict[str, str], shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.0)
    found = study(shards, tmp_path)
    attempt = attempt_directory(member(found), new_attempt(member(found)))

    def send() -> None:
        wait_until(lambda: (beat := heartbeat.read_beat(attempt)) and beat.phase == "training")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(PreemptedError, match="asked to stop after epoch") as caught:
        train_teacher(Work(found.root, found.name, found.teachers[0]), 1)
    sender.join()

    beat = heartbeat.read_beat(attempt)
    assert beat is not None
    assert f"after epoch {beat.epoch}, step {beat.step}" in caught.value.problem
    assert reached(attempt) != ""
    attempted.train(found, found.teachers[0])
    assert made(found) == undisturbed
