"""The tiny experiment run by the command line: started, watched, killed, and what it made compared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ukd_dist import manifest, pipeline
from ukd_dist.attempts import with_history
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory, read_history

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"
WEIGHTS = "model.safetensors"
MEASURED = ("seconds", "data_wait_seconds", "peak_memory_bytes")  # of an epoch; the rest is computed


def load(root: Path, *overrides: str) -> Experiment:
    return pipeline.load(TINY, [f"root={root}", *overrides])


def command(root: Path, *overrides: str, stage: str = "run") -> list[str]:
    return [sys.executable, "-m", "ukd_dist.cli", stage, str(TINY), f"root={root}", *overrides]


@contextmanager
def running(root: Path, arguments: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A command, by default `ukd run`, with its stderr in `said(root)`; killed at the end if still there."""
    with said(root).open("wb") as log:
        process = subprocess.Popen(
            arguments or command(root),
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            # A shell's background jobs, of which these tests may be one, ignore Ctrl-C, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def said(root: Path) -> Path:
    return root.with_name("stderr")


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 240.0) -> float:
    """The seconds until a condition holds."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, f"{what} did not come in {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begin


def made(root: Path) -> dict[str, str]:
    """Digest of every file that says nothing of how long it took: all of them but histories and manifests."""
    patterns = (
        "shards/*",
        "*/*/" + WEIGHTS,
        "*/*/logits/*.safetensors",
        "targets/*/*.*",
        "targets/*/sums/*",
        "report/results.csv",
    )
    return {
        str(path.relative_to(root)): manifest.sha256_of(path)
        for pattern in patterns
        for path in root.glob(pattern)
    }


def learnt(student: Path) -> tuple[str, list[dict[str, Any]]]:
    """A finished student's weights, as their digest, and its epochs without what was measured of them."""
    epochs = [{k: v for k, v in line.items() if k not in MEASURED} for line in read_history(student)]
    assert (student / manifest.FILENAME).is_file(), f"{student} is not finished"
    return manifest.sha256_of(student / WEIGHTS), epochs


def epochs_of(member: Path) -> list[dict[str, Any]]:
    """The epochs that a member, finished or not, is through."""
    return read_history(with_history(member))


def copy(root: Path, folder: Path) -> Path:
    """A copy of a finished run that may be changed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(root), str(folder / "run")], check=True)
    return folder / "run"


def undistilled(root: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a finished run in which one student is still to be distilled, and that student's folder."""
    root = copy(root, folder)
    student = RunDirectory(root).student(load(root).students[1].id)
    remove(student)
    remove(root / "logs")
    return root, student


def starts(log: Path) -> list[dict[str, Any]]:
    """Where each process that wrote a log ran; none where there is no log yet."""
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"node"')]


def rank_logs(student: Path) -> list[Path]:
    """The logs of a student's two ranks."""
    return [student.parents[1] / "logs" / f"{student.name}-rank{rank}.log" for rank in (0, 1)]


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-r", str(folder)], check=True)
