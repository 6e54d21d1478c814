"""`ukd cancel`: who is stopped, who is not, and what both are told. Coordinators are real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.holders import holder
from ukd_dist.cancellation import cancellable
from ukd_dist.cli import app
from ukd_dist.resolution import load
from ukd_dist.rundir import RunDirectory, coordinating, write_holder
from ukd_dist.status import is_held

STUDY = """
name: study
root: ROOT
data: {source: synthetic}
teachers: {fleet: [{arch: x3d_tiny, modality: rgb}]}
students: {runs: [{name: baseline, arch: x3d_tiny, modality: rgb, targets: none}]}
"""
COORDINATOR = """
import signal, sys, time
from pathlib import Path
from ukd_dist.cancellation import cancellable
from ukd_dist.errors import CancelledError
from ukd_dist.resolution import load
from ukd_dist.rundir import coordinating

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's background jobs inherit it
try:
    with coordinating(load(Path(sys.argv[1]))) as run:
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
        with cancellable(run):
            time.sleep(60)
except CancelledError as error:
    print(error, flush=True)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An experiment's file; its root is beside it."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("ROOT", str(tmp_path / "run")))
    return file


@pytest.fixture
def run(study: Path) -> RunDirectory:
    return RunDirectory(study.parent / "run")


def coordinator(study: Path, delay_seconds: float = 0.0) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that holds the root, and after a delay can be cancelled."""
    return holder(COORDINATOR, str(study), str(delay_seconds))


def cancel(place: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["cancel", str(place), *options])


@pytest.mark.parametrize("place", ["run", "study.yaml"])
def test_a_coordinator_stops_and_both_sides_say_so(study: Path, run: RunDirectory, place: str) -> None:
    with coordinator(study) as process:
        cancelled = cancel(study.parent / place)
        said, _ = process.communicate(timeout=10)

    assert (cancelled.exit_code, process.returncode) == (0, 0)
    who = f"process {process.pid} on {socket.gethostname()} since "
    assert cancelled.stdout.startswith(f"{run.root}: {who}")
    assert cancelled.stdout.endswith(" has stopped\n")
    assert said.startswith(f"{run.root} was cancelled by process ")
    assert said.endswith("; expected a run to its end; run again to go on\n")
    assert not is_held(run)
    assert sorted(path.name for path in run.root.iterdir()) == ["coordinator.lock", "experiment.yaml"]


def test_a_coordinator_that_is_about_to_begin_stops_too(study: Path) -> None:
    with coordinator(study, delay_seconds=1.5) as process:
        assert cancel(study).exit_code == 0
        assert "was cancelled by" in process.communicate(timeout=10)[0]


def test_a_root_that_nobody_works_on_is_cancelled_already(study: Path, run: RunDirectory) -> None:
    with coordinating(load(study)):
        pass
    done = cancel(run.root, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"root": str(run.root), "stopped": None}


def test_an_experiment_that_never_ran_leaves_no_trace_when_it_is_cancelled(study: Path) -> None:
    assert cancel(study).stdout == f"{study.parent}/run: nobody works on it\n"
    assert not (study.parent / "run").exists()


def test_a_coordinator_that_does_not_answer_is_named_and_asked_no_longer(
    study: Path, run: RunDirectory
) -> None:
    with coordinator(study) as process:
        process.send_signal(signal.SIGSTOP)
        done = cancel(run.root, "--wait", "1")
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ukd: {run.root} is still held by process {process.pid} on ")
    assert done.stderr.endswith(
        " after 1 s; expected an end within that time; wait longer, or kill it: what is finished is kept\n"
    )


def test_a_request_for_an_earlier_coordinator_stops_no_later_one(study: Path, run: RunDirectory) -> None:
    run.root.mkdir()
    with (run.root / "cancel.json").open("wb", buffering=0) as file:
        write_holder(file)
    with coordinator(study) as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.5)


def test_an_interruption_stays_one(study: Path) -> None:
    with pytest.raises(KeyboardInterrupt), coordinating(load(study)) as run, cancellable(run):
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
