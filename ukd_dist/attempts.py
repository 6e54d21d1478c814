"""Numbered attempts at one member, and the record that the coordinator keeps of them.

    teachers/<id>/attempts/<n>/    all that attempt n writes: checkpoint/, history.jsonl, files, its heartbeat
    teachers/<id>/attempts.jsonl   a line an attempt that ended, written by the coordinator alone

The coordinator makes an attempt's directory before it starts it, so that no number is given twice. An attempt
that is cut off from the cluster may write on for a while: in its own directory, where nobody looks once it
has a successor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ukd_dist.errors import DataError
from ukd_dist.heartbeat import HEARTBEAT, read_beat
from ukd_dist.manifest import FILENAME, write_atomically
from ukd_dist.rundir import CHECKPOINTS, HISTORY, read_json_lines

ATTEMPTS, RECORD = "attempts", "attempts.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One line of the record.

    Attributes:
        attempt: Its number.
        host: Where it ran; empty where it never began.
        node: Ray's id of the node.
        started: When the coordinator gave it to Ray, ISO 8601; empty where that coordinator ended.
        ended: When the coordinator saw its end.
        outcome: `done`, a class of failure (cluster/failures.py), `hung`, `crashed`, or `interrupted`: its
            coordinator ended before it.
        message: What is said of a failure.
        began_from: Checkpoint that it went on from, or empty.
        reached: Newest checkpoint that it left, or empty.
        memory_gib: Host memory that was reserved for it, or for each of its ranks, GiB.
        gpus: GPUs that were.
    """

    attempt: int
    host: str
    node: str
    started: str
    ended: str
    outcome: str
    message: str = ""
    began_from: str = ""
    reached: str = ""
    memory_gib: float | None = None
    gpus: float = 0.0


def attempt_directory(member: Path, number: int) -> Path:
    """Where one attempt writes."""
    return member / ATTEMPTS / str(number)


def attempt_numbers(member: Path) -> list[int]:
    """Numbers of the attempts whose directories are there, in order."""
    try:
        return sorted(int(path.name) for path in (member / ATTEMPTS).iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []


def new_attempt(member: Path) -> int:
    """Make the directory of the next attempt; returns its number."""
    recorded = [line.attempt for line in read_attempts(member)]
    number = 1 + max([0, *recorded, *attempt_numbers(member)])
    attempt_directory(member, number).mkdir(parents=True)
    return number


def note_interrupted(member: Path) -> None:
    """Record the attempts whose coordinator ended before them; those that never began leave no trace."""
    known = read_attempts(member)
    found = list(known)
    for number in attempt_numbers(member):
        directory = attempt_directory(member, number)
        beat = read_beat(directory)
        if beat is not None and number not in {line.attempt for line in known}:
            ended = datetime.fromtimestamp((directory / HEARTBEAT).stat().st_mtime, UTC)
            found.append(
                Attempt(
                    attempt=number,
                    host=beat.host,
                    node=beat.node,
                    started="",
                    ended=ended.isoformat(timespec="seconds"),
                    outcome="interrupted",
                    began_from=beat.began_from,
                    reached=reached(directory),
                )
            )
    if found != known:
        record(member, found)


def newest_attempt(member: Path) -> Path | None:
    """Directory of the newest attempt, or None where there is none."""
    numbers = attempt_numbers(member)
    return attempt_directory(member, numbers[-1]) if numbers else None


def with_history(member: Path) -> Path:
    """Where a member's epochs lie: its own directory once it is finished, until then its newest attempt's."""
    if not (member / FILENAME).is_file():
        for number in reversed(attempt_numbers(member)):
            attempt = attempt_directory(member, number)
            if (attempt / HISTORY).is_file():
                return attempt
    return member


def earlier_checkpoints(attempt: Path) -> list[Path]:
    """Where the attempts before left checkpoints; first the member's own directory, from before attempts."""
    member, number = attempt.parents[1], int(attempt.name)
    earlier = [attempt_directory(member, n) for n in attempt_numbers(member) if n < number]
    return [directory / CHECKPOINTS for directory in (member, *earlier)]


def reached(attempt: Path) -> str:
    """Name of the newest checkpoint in an attempt's directory, or empty."""
    return max((path.parent.name for path in attempt.glob(f"{CHECKPOINTS}/*/{FILENAME}")), default="")


def read_attempts(member: Path) -> list[Attempt]:
    """The record of the attempts that ended; empty where there is none.

    Raises:
        DataError: It is damaged.
    """
    path = member / RECORD
    try:
        return [Attempt(**line) for line in read_json_lines(path, ("attempt", "outcome"))]
    except TypeError as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected="the fields of one attempt a line",
            action=f"remove {path}",
        ) from error


def record(member: Path, attempts: Sequence[Attempt]) -> None:
    """Write the record whole."""
    lines = "".join(json.dumps(asdict(line)) + "\n" for line in attempts)
    write_atomically(member / RECORD, lines.encode())


def now() -> str:
    """The moment as the record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
