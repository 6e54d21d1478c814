"""Attempts at a teacher that are cut off while they write logits: the next one goes on with them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.stages import attempted
from tests.stages.test_attempts_teach import STUDY, begin, made, member, wait_until
from tests.stages.test_teach import shard
from ukd_dist import heartbeat
from ukd_dist.attempts import ATTEMPTS, attempt_directory, new_attempt
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import PreemptedError
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages import capture
from ukd_dist.stages.capture import CAPTURE
from ukd_dist.stages.commits import commit
from ukd_dist.stages.teacher_attempt import Work, train_teacher

BATCHES = (8 * 6 + 2 + 2) // 2  # of two clips: six views of eight training rows, the centre of all others


def study(shards: ShardSet, root: Path) -> Experiment:
    views = "data.views={kind: random, clips: 6}"
    found = parse(STUDY.format(root=root), "study.yaml", [views, "teachers.defaults.epochs=1"])
    shard(shards, RunDirectory(root).shards)
    return found


@pytest.fixture(scope="module")
def undisturbed(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = study(shards, tmp_path_factory.mktemp("undisturbed"))
    attempted.train(found, found.teachers[0])
    return made(found)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is told, and every third block of rows is a file."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(capture, "_CLIPS", 3 * 2 * 6)


def go_on(found: Experiment) -> int:
    """One more attempt, committed; returns the batches of logits that it made."""
    number = new_attempt(member(found))
    digest = train_teacher(Work(found.root, found.name, found.teachers[0]), number)
    beat = heartbeat.read_beat(attempt_directory(member(found), number))
    commit(member(found), number, digest)
    assert beat is not None
    assert beat.phase == "logits"
    return beat.step + 1


def test_an_attempt_that_lost_its_machine_is_continued_with_the_logits_that_it_captured(
    undisturbed: dict[str, str], shards: ShardSet, tmp_path: Path, watched: None
) -> None:
    found = study(shards, tmp_path)
    captured = attempt_directory(member(found), new_attempt(member(found))) / CAPTURE
    with begin(found, 1) as process:
        wait_until(lambda: list(captured.glob("train/*.safetensors")))
        process.kill()

    assert go_on(found) <= BATCHES - 6, "six batches are the views of the two rows of a block"
    assert made(found) == undisturbed
    assert not (member(found) / ATTEMPTS).exists()


def test_an_attempt_that_is_asked_to_stop_keeps_the_logits_of_every_row_that_it_ended(
    undisturbed: dict[str, str], shards: ShardSet, tmp_path: Path, watched: None
) -> None:
    found = study(shards, tmp_path)
    attempt = attempt_directory(member(found), new_attempt(member(found)))

    def send() -> None:
        wait_until(lambda: (b := heartbeat.read_beat(attempt)) and (b.phase, b.step >= 7) == ("logits", True))
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(PreemptedError, match=r"asked to stop after \d+ batches of logits"):
        train_teacher(Work(found.root, found.name, found.teachers[0]), 1)
    sender.join()
    beat = heartbeat.read_beat(attempt)
    assert beat is not None

    ended = beat.step - beat.step % 6 if beat.step <= 24 else beat.step
    assert go_on(found) == BATCHES - ended
    assert made(found) == undisturbed
