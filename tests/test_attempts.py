"""Numbers, records and heartbeats of attempts, and what a run directory says of them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stages import fake_run
from ukd_dist import heartbeat
from ukd_dist.attempts import (
    Attempt,
    attempt_directory,
    attempt_numbers,
    new_attempt,
    note_interrupted,
    read_attempts,
    record,
    with_history,
)
from ukd_dist.errors import DataError, TrainingError
from ukd_dist.heartbeat import Beat, Heart, ask_to_stop, read_beat
from ukd_dist.rundir import HISTORY, RunDirectory, coordinating
from ukd_dist.status import MemberStatus, read_status

LINE = Attempt(attempt=1, host="h", node="n", started="a", ended="b", outcome="lost", reached="epoch-0002")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every beat is written."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.0)


def test_no_number_is_given_twice(tmp_path: Path) -> None:
    assert [new_attempt(tmp_path), new_attempt(tmp_path)] == [1, 2]
    record(tmp_path, [replace(LINE, attempt=7)])
    assert new_attempt(tmp_path) == 8
    assert attempt_numbers(tmp_path) == [1, 2, 8]


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_attempts(tmp_path) == []
    lines = [LINE, replace(LINE, attempt=2, memory_gib=4.0, gpus=0.5, message="cut off")]
    record(tmp_path, lines)
    assert read_attempts(tmp_path) == lines


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"attempt": 1, "outcome": "lost", "weather": "fine"}\n')
    with pytest.raises(DataError, match=rf"^{path} is damaged \(.*weather.*; remove {path}$"):
        read_attempts(tmp_path)


def test_an_attempt_whose_coordinator_ended_is_recorded_once_it_began(tmp_path: Path) -> None:
    with Heart(attempt_directory(tmp_path, new_attempt(tmp_path)), "node", epochs=3):
        pass
    new_attempt(tmp_path)
    note_interrupted(tmp_path)
    note_interrupted(tmp_path)
    (line,) = read_attempts(tmp_path)
    assert (line.attempt, line.outcome, line.node, line.reached) == (1, "interrupted", "node", "")


def test_epochs_are_read_from_the_newest_attempt_until_the_member_is_finished(tmp_path: Path) -> None:
    assert with_history(tmp_path) == tmp_path
    for number in (1, 2, 3):
        new_attempt(tmp_path)
        if number < 3:  # the third has not begun
            (attempt_directory(tmp_path, number) / HISTORY).touch()
    assert with_history(tmp_path) == attempt_directory(tmp_path, 2)
    (tmp_path / "manifest.json").touch()
    assert with_history(tmp_path) == tmp_path


def test_a_heart_says_where_it_beats_and_how_far_it_is(eager: None, tmp_path: Path) -> None:
    attempt = attempt_directory(tmp_path, new_attempt(tmp_path))
    assert read_beat(attempt) is None
    with Heart(attempt, "node", epochs=3) as heart:
        begun = read_beat(attempt)
        assert begun is not None
        assert (begun.pid, begun.node, begun.phase, begun.eta_seconds) == (
            os.getpid(),
            "node",
            "starting",
            None,
        )
        heart.begin("epoch-0001")
        heart.step(1, 5, 10)
    found = read_beat(attempt)
    assert found is not None
    assert (found.place, found.began_from, found.trained) == (("training", 1, 5), "epoch-0001", 1)
    assert found.memory_bytes > 2**20


def test_a_heart_says_at_once_where_its_training_began(tmp_path: Path) -> None:
    attempt = attempt_directory(tmp_path, new_attempt(tmp_path))
    with Heart(attempt, "node", epochs=3) as heart:
        heart.begin("epoch-0001")
    found = read_beat(attempt)
    assert found is not None
    assert found.began_from == "epoch-0001"


def test_the_time_that_is_left_is_that_of_the_steps_that_are_left() -> None:
    beat = Beat("h", "n", 1, epoch=1, step=5, steps=10, epochs=4, trained=5, seconds=20.0)
    assert beat.eta_seconds == 25 * 4.0


def test_a_heart_is_asked_to_stop_by_a_file_or_by_sigterm(eager: None, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for ask in (ask_to_stop, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        attempt = attempt_directory(tmp_path, new_attempt(tmp_path))
        with Heart(attempt, "node", epochs=3) as heart:
            heart.beat()
            assert not heart.stop_asked()
            ask(attempt)
            heart.beat()
            assert heart.stop_asked()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("gone", [False, True])
def test_a_heart_stops_once_another_attempt_took_its_place(eager: None, gone: bool, tmp_path: Path) -> None:
    attempt = attempt_directory(tmp_path, new_attempt(tmp_path))
    with Heart(attempt, "node", epochs=3) as heart:
        if gone:
            (attempt / "heartbeat.json").unlink()
            attempt.rmdir()
        else:
            new_attempt(tmp_path)
        with pytest.raises(TrainingError, match=f"{attempt} was taken for lost, and another attempt took"):
            heart.beat()


# --- Status ------------------------------------------------------------------------------------------------


def status(root: Path, *, held: bool = True) -> MemberStatus:
    study, run = fake_run.experiment(root), RunDirectory(root)
    if not held:
        return read_status(run, study)[1]
    with coordinating(study):
        return read_status(run, study)[1]


def first(root: Path) -> Path:
    return RunDirectory(root).teacher(fake_run.experiment(root).teachers[0].id)


def test_a_member_waits_until_its_attempt_begins(tmp_path: Path) -> None:
    new_attempt(first(tmp_path))
    assert status(tmp_path).state == "pending"
    assert status(tmp_path, held=False).state == "pending"


def test_a_member_tells_its_attempt_its_host_and_the_time_that_is_left(eager: None, tmp_path: Path) -> None:
    attempt = attempt_directory(first(tmp_path), new_attempt(first(tmp_path)))
    with Heart(attempt, "node", epochs=10) as heart:
        heart.begin("")
        heart.step(0, 1, 4)
    found, beat = status(tmp_path), read_beat(attempt)
    assert beat is not None
    assert (found.state, found.attempt, found.host) == ("running", 1, beat.host)
    assert found.eta_seconds == beat.eta_seconds
    interrupted = status(tmp_path, held=False)
    assert (interrupted.state, interrupted.eta_seconds) == ("interrupted", None)


def test_a_member_that_waits_for_its_next_attempt_says_what_ended_the_last_one(tmp_path: Path) -> None:
    member = first(tmp_path)
    with Heart(attempt_directory(member, new_attempt(member)), "node", epochs=10):
        pass
    record(member, [replace(LINE, message="its node died")])
    new_attempt(member)
    found = status(tmp_path)
    assert (found.state, found.error, found.attempt, found.host) == ("pending", "its node died", 1, "h")
