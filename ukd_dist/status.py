"""What a run directory says of its progress; needs no cluster and disturbs none."""

from __future__ import annotations

import fcntl
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ukd_dist import manifest
from ukd_dist.attempts import (
    attempt_directory,
    attempt_numbers,
    newest_attempt,
    read_attempts,
    with_history,
)
from ukd_dist.experiment import Experiment
from ukd_dist.heartbeat import HEARTBEAT, last_beat, read_beat
from ukd_dist.metrics import Committed
from ukd_dist.rundir import ERROR, REJECTS, RunDirectory, read_error, read_history, read_json_lines
from ukd_dist.scaling import as_begun
from ukd_dist.training_config import Training

State = Literal["done", "running", "interrupted", "failed", "pending"]
STATES: tuple[State, ...] = ("done", "running", "interrupted", "failed", "pending")


@dataclass(frozen=True)
class MemberStatus:
    """One line of `ukd status`.

    Attributes:
        kind: shards, teacher, target or student.
        id: Its id; `shards` for the shards.
        state: What it is doing.
        epoch: Finished epochs.
        epochs: Of how many; 0 for what has none.
        accuracy: Top-1 on training clips of the last epoch.
        seconds: Training time so far.
        error: What ended it, where it failed, or its last attempt.
        attempt: Number of its newest attempt that began; 0 where there is none, or it was trained without.
        host: Where that runs, or ran.
        eta_seconds: Time that its remaining steps will take; None where it does not run.
        outcomes: What became of its attempts that ended, in their order.
    """

    kind: str
    id: str
    state: State
    epoch: int = 0
    epochs: int = 0
    accuracy: float | None = None
    seconds: float = 0.0
    error: str = ""
    attempt: int = 0
    host: str = ""
    eta_seconds: float | None = None
    outcomes: tuple[str, ...] = ()


def read_status(run: RunDirectory, experiment: Experiment) -> list[MemberStatus]:
    """The state of all that the experiment asks for, its study included once begun, by stages."""
    held, experiment = is_held(run), as_begun(run, experiment)
    return [
        MemberStatus("shards", "shards", _state(run.shards, held)),
        *(_member("teacher", t.id, run.teacher(t.id), t.settings, held) for t in experiment.teachers),
        *(MemberStatus("teacher", t, _state(run.teacher(t), held)) for t in experiment.imported),
        *(MemberStatus("target", t.id, _state(run.target(t.id), held)) for t in experiment.targets),
        *(_member("student", s.id, run.student(s.id), s.settings, held) for s in experiment.students),
    ]


def states_of(kind: str, members: Sequence[MemberStatus]) -> dict[str, int]:
    """Members of a kind in each state, states without any included."""
    counts = Counter(member.state for member in members if member.kind == kind)
    return {state: counts[state] for state in STATES}


def remaining_seconds(members: Sequence[MemberStatus]) -> float:
    """Time that the teachers' epochs to come will take, at the pace so far and as many at once as run now.

    NaN where no epoch is finished yet.
    """
    teachers = [member for member in members if member.kind == "teacher" and member.epochs]
    done = sum(member.epoch for member in teachers)
    left = sum(member.epochs - member.epoch for member in teachers if member.state != "done")
    at_once = max(1, sum(member.state == "running" for member in teachers))
    pace = sum(member.seconds for member in teachers) / done if done else math.nan
    return left * pace / at_once if left else 0.0


def committed_metrics(run: RunDirectory, experiment: Experiment) -> list[Committed]:
    """What the run directory states to Prometheus, the same whoever asks and however often processes died."""
    members = read_status(run, experiment)
    trained = {kind: [member for member in members if member.kind == kind] for kind in ("teacher", "student")}
    outcomes = Counter(outcome for member in members for outcome in member.outcomes)
    disk = shutil.disk_usage(run.root)
    return [
        Committed("ukd_teachers", "teach", states_of("teacher", members)),
        Committed("ukd_students", "distill", states_of("student", members)),
        Committed("ukd_attempts_total", "", outcomes),
        Committed("ukd_member_epochs_total", "", {k: sum(m.epoch for m in of) for k, of in trained.items()}),
        Committed("ukd_member_epochs_asked", "", {k: sum(m.epochs for m in of) for k, of in trained.items()}),
        Committed("ukd_remaining_seconds", "teach", {"": remaining_seconds(members)}),
        Committed("ukd_progress_timestamp_seconds", "", latest_steps(run, members)),
        Committed("ukd_disk_free_bytes", "", {"": disk.free}),
        Committed("ukd_disk_size_bytes", "", {"": disk.total}),
        Committed("ukd_rejected_samples_total", "shard", rejected(run)),
        Committed("ukd_rejected_limit_ratio", "shard", {"": experiment.data.max_rejected}),
    ]


def latest_steps(run: RunDirectory, members: Sequence[MemberStatus]) -> dict[str, float]:
    """When teachers and students that run made their latest steps, each in seconds since 1970."""
    directory_of = {"teacher": run.teacher, "student": run.student}
    latest: dict[str, float] = {}
    for member in members:
        if member.state == "running" and member.kind in directory_of:
            attempt = newest_attempt(directory_of[member.kind](member.id))
            moment = last_beat(attempt) if attempt else None
            if moment is not None:
                latest[member.kind] = max(moment, latest.get(member.kind, 0.0))
    return latest


def rejected(run: RunDirectory) -> dict[str, int]:
    """Videos that sharding rejected, by reason."""
    return dict(Counter(line["reason"] for line in read_json_lines(run.shards / REJECTS, ["reason"])))


def is_held(run: RunDirectory) -> bool:
    """Whether a coordinator works on the root now."""
    try:
        with (run.root / "coordinator.lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _member(kind: str, member_id: str, directory: Path, settings: Training, held: bool) -> MemberStatus:
    lines = read_history(with_history(directory))
    ended, state = read_attempts(directory), _state(directory, held)
    last = ended[-1] if ended else None
    attempt, host, eta_seconds = last.attempt if last else 0, last.host if last else "", None
    if state != "done" and (newest := newest_attempt(directory)) and (beat := read_beat(newest)):
        attempt, host = int(newest.name), beat.host
        eta_seconds = beat.eta_seconds if state == "running" else None
    return MemberStatus(
        kind,
        member_id,
        state,
        epoch=len(lines),
        epochs=settings.epochs,
        accuracy=lines[-1]["accuracy"] if lines else None,
        seconds=sum(line["seconds"] for line in lines),
        error=read_error(directory) or (last.message if last and state != "done" else ""),
        attempt=attempt,
        host=host,
        eta_seconds=eta_seconds,
        outcomes=tuple(line.outcome for line in ended),
    )


def _state(directory: Path, held: bool) -> State:
    if (directory / manifest.FILENAME).is_file():
        return "done"
    if (directory / ERROR).is_file():
        return "failed"
    numbers = attempt_numbers(directory)
    began = [(attempt_directory(directory, number) / HEARTBEAT).is_file() for number in numbers]
    if (numbers and not any(began)) or not directory.is_dir():
        return "pending"
    if not held:
        return "interrupted"
    return "running" if not numbers or began[-1] else "pending"  # its next attempt waits for its turn
