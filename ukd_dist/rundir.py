"""Where everything of a run lies, and who works on it.

Stages meet only through files under one root, a path that every node sees.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from ukd_dist.errors import BusyError, DataError, MismatchError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.manifest import FILENAME, naming, write_atomically
from ukd_dist.resolution import load

_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 5, 0.02


REJECTS = "rejects.jsonl"  # of the shards

# In a member's directory, and in an attempt's.
CHECKPOINTS = "checkpoint"
HISTORY = "history.jsonl"
ERROR = "error.json"


@dataclass(frozen=True)
class RunDirectory:
    """The paths under one root."""

    root: Path

    @property
    def experiment(self) -> Path:
        """The resolved experiment."""
        return self.root / "experiment.yaml"

    @property
    def videos(self) -> Path:
        """Videos and lists of the synthetic source."""
        return self.root / "videos"

    @property
    def shards(self) -> Path:
        """Tars, indexes and samples.csv."""
        return self.root / "shards"

    def teacher(self, member_id: str) -> Path:
        """One teacher's checkpoint, history and logits."""
        return self.root / "teachers" / member_id

    def initial(self, initial_id: str) -> Path:
        """Initial weights of one network, made of one checkpoint."""
        return self.root / "init" / initial_id

    def target(self, target_id: str) -> Path:
        """One assembled target."""
        return self.root / "targets" / target_id

    def student(self, member_id: str) -> Path:
        """One student's checkpoint, model, history and result."""
        return self.root / "students" / member_id

    def finished_targets(self) -> list[Path]:
        """Directories of the targets that are finished, of this experiment or an earlier one here."""
        return sorted(path.parent for path in (self.root / "targets").glob(f"*/{FILENAME}"))

    def finished_students(self) -> list[Path]:
        """Directories of all students that are finished, the present experiment's or not."""
        return sorted(path.parent for path in (self.root / "students").glob(f"*/{FILENAME}"))

    @property
    def report(self) -> Path:
        """The HTML page, figures and tables."""
        return self.root / "report"

    @property
    def metrics(self) -> Path:
        """Metric snapshots of every process, and the exporter's address."""
        return self.root / "metrics"

    @property
    def logs(self) -> Path:
        """What the processes of the cluster print."""
        return self.root / "logs"


def open_run(root: Path) -> tuple[RunDirectory, Experiment]:
    """The run directory at `root` and the experiment that it holds.

    Raises:
        UsageError: There is no run at `root`.
    """
    run = RunDirectory(root.absolute())
    if not run.experiment.is_file():
        raise UsageError(
            f"{root} holds no experiment.yaml",
            expected="the root of a run",
            action="start one with `ukd run`",
        )
    return run, load(run.experiment)


@contextmanager
def coordinating(experiment: Experiment) -> Iterator[RunDirectory]:
    """Hold the root as its only coordinator, with the resolved experiment written in it.

    The lock is the kernel's (flock), so a killed coordinator holds nothing.

    Raises:
        BusyError: Another process holds the root; names it.
    """
    run = RunDirectory(experiment.root)
    run.root.mkdir(parents=True, exist_ok=True)
    path = run.root / "coordinator.lock"
    with path.open("ab+", buffering=0) as file:
        if not _lock(file):
            raise BusyError(
                f"{run.root} is held by {holder(file)}",
                expected="one coordinator a root",
                action="wait for it, or stop it first",
            )
        with naming(path):
            write_holder(file)
        before = run.experiment.read_bytes() if run.experiment.is_file() else None
        write_atomically(run.experiment, experiment.to_yaml().encode())
        try:
            yield run
        except (MismatchError, UsageError):
            # Refused: the root still holds what it held, and says so.
            if before is not None:
                write_atomically(run.experiment, before)
            raise


def _lock(file: FileIO) -> bool:
    """Take the lock. `ukd status` has it for an instant while it looks, so one refusal is no answer yet."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_SECONDS)
    return False


def write_holder(file: FileIO) -> None:
    """Say in a lock's file that this process holds it."""
    file.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"host": socket.gethostname(), "pid": os.getpid(), "since": started}
    file.write(json.dumps(record).encode())


def holder(file: FileIO) -> str:
    """Who holds a lock, by its file."""
    file.seek(0)
    try:
        record = json.loads(file.read())
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    except (ValueError, KeyError):
        return "another process"


def read_history(member: Path) -> list[dict[str, Any]]:
    """The lines of a member's history.jsonl, one an epoch; empty where there is none yet."""
    return read_json_lines(member / HISTORY, ("epoch", "accuracy", "seconds"))


def leave_error(member: Path, error: Exception, traceback: str = "") -> None:
    """Leave a member's last error where `ukd status` finds it."""
    document = {"error": str(error)} | ({"traceback": traceback} if traceback else {})
    write_atomically(member / ERROR, json.dumps(document).encode())


def read_error(member: Path) -> str:
    """A member's last error, or nothing."""
    return "; ".join(str(line["error"]) for line in read_json_lines(member / ERROR, ["error"]))


def read_json_lines(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, with at least `keys`; none where there is no file.

    Raises:
        DataError: A line is no such object.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(line, dict) and set(keys) <= line.keys() for line in lines):
            raise ValueError("a line lacks something")
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected=f"on each line a JSON object with {', '.join(keys)}",
            action=f"remove {path.parent}",
        ) from error
    return lines
