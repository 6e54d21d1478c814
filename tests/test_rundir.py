"""Who holds a root, what lies in it, and what `ukd status` makes of that."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.holders import holder
from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory, new_attempt
from ukd_dist.errors import BusyError, DataError, MismatchError, TrainingError, UkdError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.heartbeat import HEARTBEAT, Heart
from ukd_dist.resolution import load, parse
from ukd_dist.rundir import RunDirectory, coordinating, open_run
from ukd_dist.status import (
    STATES,
    MemberStatus,
    State,
    is_held,
    latest_steps,
    read_status,
    rejected,
    states_of,
)

STUDY = """
name: study
root: ROOT
data: {source: synthetic}
teachers:
  defaults: {arch: x3d_tiny, modality: rgb, epochs: 4}
  fleet: [{grid: {seed: [0, 1, 2]}}]
targets: {ukd: {method: pkd}}
students:
  runs: [{name: ukd, arch: x3d_tiny, modality: rgb, epochs: 5, targets: ukd, temperature: 20}]
"""
HOLDER = """
import sys, time
from pathlib import Path
from ukd_dist.resolution import load
from ukd_dist.rundir import coordinating

with coordinating(load(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def study(tmp_path: Path) -> Experiment:
    return parse(STUDY.replace("ROOT", str(tmp_path / "run")), "study.yaml", [])


@pytest.fixture
def run(study: Experiment) -> RunDirectory:
    return RunDirectory(study.root)


def other(study: Experiment) -> Experiment:
    """Another experiment of the same root."""
    return parse(STUDY.replace("ROOT", str(study.root)), "study.yaml", ["name=other"])


def holding(experiment: Experiment, tmp_path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Another process that holds the experiment's root."""
    file = tmp_path / "study.yaml"
    file.write_text(experiment.to_yaml())
    return holder(HOLDER, str(file))


# --- One coordinator a root --------------------------------------------------------------------------------


def test_a_second_coordinator_is_told_who_holds_the_root(study: Experiment, tmp_path: Path) -> None:
    with holding(study, tmp_path) as process, pytest.raises(BusyError) as caught, coordinating(study):
        pass
    who = f"process {process.pid} on {socket.gethostname()} since 20"
    assert str(caught.value).startswith(f"{study.root} is held by {who}")
    assert str(caught.value).endswith("; expected one coordinator a root; wait for it, or stop it first")


def test_a_second_coordinator_changes_nothing(study: Experiment, tmp_path: Path) -> None:
    with holding(study, tmp_path):
        record = (study.root / "coordinator.lock").read_text()
        with pytest.raises(BusyError), coordinating(other(study)):
            pass
        assert (study.root / "coordinator.lock").read_text() == record
    assert open_run(study.root)[1].name == "study"


def test_a_killed_coordinator_holds_nothing(study: Experiment, tmp_path: Path, run: RunDirectory) -> None:
    with holding(study, tmp_path) as process:
        assert is_held(run)
        process.kill()
        process.wait()
        assert not is_held(run)
        with coordinating(study):
            assert json.loads((run.root / "coordinator.lock").read_text())["pid"] == os.getpid()


def test_a_root_is_free_after_its_coordinator_left_or_failed(study: Experiment, run: RunDirectory) -> None:
    with pytest.raises(RuntimeError, match="a stage failed"), coordinating(study):
        raise RuntimeError("a stage failed")
    assert not is_held(run)
    with coordinating(study):
        assert is_held(run)


def test_another_root_is_free_meanwhile(study: Experiment, tmp_path: Path) -> None:
    elsewhere = parse(STUDY.replace("ROOT", str(tmp_path / "other")), "study.yaml", [])
    with coordinating(study), coordinating(elsewhere):
        pass


def test_looking_at_a_root_keeps_no_coordinator_out(study: Experiment, run: RunDirectory) -> None:
    """`is_held` has the lock for microseconds; here it is let go after 30 ms."""
    with coordinating(study):
        pass
    with (run.root / "coordinator.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        with coordinating(study):
            timer.join()


# --- The experiment in the root ----------------------------------------------------------------------------


def test_the_resolved_experiment_is_written_and_opened_again(study: Experiment) -> None:
    with coordinating(study) as held:
        assert held == RunDirectory(study.root)
        assert load(held.experiment) == study
    assert open_run(study.root) == (held, study)


def test_a_relative_root_is_opened(study: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    with coordinating(study):
        pass
    monkeypatch.chdir(study.root.parent)
    assert open_run(Path("run")) == (RunDirectory(study.root), study)


@pytest.mark.parametrize("name", ["", "nowhere", "a-file"])
def test_a_folder_without_a_run_is_no_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UsageError) as caught:
        open_run(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name} holds no experiment.yaml; expected the root of a run; start one with `ukd run`"
    )


def test_a_damaged_experiment_in_the_root_is_named(study: Experiment, run: RunDirectory) -> None:
    with coordinating(study):
        run.experiment.write_text("name: [")
    with pytest.raises(UsageError, match=r"run/experiment\.yaml is not YAML"):
        open_run(study.root)


@pytest.mark.parametrize("kind", [MismatchError, UsageError])
def test_a_refused_experiment_leaves_the_roots_as_it_was(
    study: Experiment, run: RunDirectory, kind: type[UkdError]
) -> None:
    with coordinating(study):
        pass
    before = run.experiment.read_bytes()
    with pytest.raises(kind, match="refused"), coordinating(other(study)):
        raise kind("refused", expected="the same", action="use another root")
    assert run.experiment.read_bytes() == before
    assert {path.name for path in run.root.iterdir()} == {"experiment.yaml", "coordinator.lock"}


def test_an_experiment_that_failed_stays_in_the_root(study: Experiment) -> None:
    with coordinating(study):
        pass
    with pytest.raises(TrainingError), coordinating(other(study)):
        raise TrainingError("the loss is nan", expected="a finite loss", action="lower lr")
    assert open_run(study.root)[1].name == "other"


def test_the_first_experiment_of_a_root_stays_though_refused(study: Experiment) -> None:
    """`ukd report` shows what became of it."""
    with pytest.raises(UsageError), coordinating(study):
        raise UsageError("no shards", expected="shards", action="make them")
    assert open_run(study.root)[1] == study


# --- States ------------------------------------------------------------------------------------------------


def make(directory: Path, *, epochs: int = 0, error: str = "", done: bool = False) -> None:
    """A member's directory as a training leaves it."""
    directory.mkdir(parents=True)
    if epochs:
        lines = [{"epoch": n + 1, "accuracy": 0.25 * n, "seconds": 1.5} for n in range(epochs)]
        (directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if error:
        (directory / "error.json").write_text(json.dumps({"error": error}))
    if done:
        manifest.commit(directory, "teacher", {}, {}, [])


def first_teacher(run: RunDirectory, study: Experiment) -> MemberStatus:
    return read_status(run, study)[1]


def test_everything_is_pending_before_a_run_and_looking_leaves_no_trace(
    run: RunDirectory, study: Experiment
) -> None:
    members = read_status(run, study)
    assert {member.state for member in members} == {"pending"}
    assert not run.root.exists()


def test_every_member_is_listed_in_the_order_of_the_stages(run: RunDirectory, study: Experiment) -> None:
    members = [(m.kind, m.id, m.epochs) for m in read_status(run, study)]
    assert members == [
        ("shards", "shards", 0),
        *(("teacher", teacher.id, 4) for teacher in study.teachers),
        ("target", study.targets[0].id, 0),
        ("student", study.students[0].id, 5),
    ]


def test_a_directory_that_a_coordinator_works_on_is_running(run: RunDirectory, study: Experiment) -> None:
    with coordinating(study):
        make(run.teacher(study.teachers[0].id), epochs=2)
        assert first_teacher(run, study).state == "running"


def test_a_directory_that_nobody_works_on_was_interrupted(run: RunDirectory, study: Experiment) -> None:
    with coordinating(study):
        make(run.teacher(study.teachers[0].id), epochs=2)
    assert first_teacher(run, study).state == "interrupted"


def test_a_member_that_failed_says_why(run: RunDirectory, study: Experiment) -> None:
    make(run.teacher(study.teachers[0].id), epochs=1, error="a loss is not finite")
    found = first_teacher(run, study)
    assert (found.state, found.error) == ("failed", "a loss is not finite")


def test_a_manifest_means_done_whoever_holds_the_root(run: RunDirectory, study: Experiment) -> None:
    with coordinating(study):
        make(run.teacher(study.teachers[0].id), epochs=4, done=True)
        assert first_teacher(run, study).state == "done"
    assert first_teacher(run, study).state == "done"


def test_a_member_tells_its_epochs_its_time_and_its_last_accuracy(
    run: RunDirectory, study: Experiment
) -> None:
    make(run.teacher(study.teachers[0].id), epochs=3)
    found = first_teacher(run, study)
    assert (found.epoch, found.epochs, found.accuracy, found.seconds) == (3, 4, 0.5, 4.5)


def test_a_member_without_a_finished_epoch_has_no_accuracy(run: RunDirectory, study: Experiment) -> None:
    make(run.teacher(study.teachers[0].id))
    found = first_teacher(run, study)
    assert (found.epoch, found.accuracy, found.seconds) == (0, None, 0.0)


@pytest.mark.parametrize(
    ("kind", "directory"),
    [
        ("shards", lambda run, _: run.shards),
        ("target", lambda run, study: run.target(study.targets[0].id)),
        ("student", lambda run, study: run.student(study.students[0].id)),
    ],
)
@pytest.mark.parametrize(("done", "state"), [(False, "interrupted"), (True, "done")])
def test_shards_targets_and_students_have_states_too(
    run: RunDirectory,
    study: Experiment,
    kind: str,
    directory: Callable[[RunDirectory, Experiment], Path],
    done: bool,
    state: State,
) -> None:
    make(directory(run, study), done=done)
    assert {m.state for m in read_status(run, study) if m.kind == kind} == {state}
    assert {m.state for m in read_status(run, study) if m.kind != kind} == {"pending"}


def test_teachers_are_counted_in_every_state(run: RunDirectory, study: Experiment) -> None:
    make(run.teacher(study.teachers[0].id), done=True)
    make(run.teacher(study.teachers[1].id), error="killed")
    make(run.student(study.students[0].id), done=True)
    counts = states_of("teacher", read_status(run, study))
    assert counts == {"done": 1, "running": 0, "interrupted": 0, "failed": 1, "pending": 1}
    assert tuple(counts) == STATES


def test_rejected_videos_are_counted_by_reason_however_often_they_were_probed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert rejected(run) == {}
    lines = [
        '{"key": "a", "reason": "damaged"}',
        '{"key": "b", "reason": "one_frame"}',
        '{"key": "c", "reason": "damaged"}',
    ]
    run.shards.mkdir()
    (run.shards / "rejects.jsonl").write_text("\n".join(lines))

    assert rejected(run) == {"damaged": 2, "one_frame": 1}


def test_when_the_newest_step_was_made_is_said_of_those_that_run(
    run: RunDirectory, study: Experiment
) -> None:
    with coordinating(study):
        for teacher, moment in zip(study.teachers, (1000, 3000, 2000), strict=True):
            attempt = begin_attempt(run.teacher(teacher.id))
            os.utime(attempt / HEARTBEAT, (moment, moment))
        manifest.commit(run.teacher(study.teachers[1].id), "teacher", {}, {}, [])
        assert latest_steps(run, read_status(run, study)) == {"teacher": 2000}
        begin_attempt(run.student(study.students[0].id))
        assert latest_steps(run, read_status(run, study))["student"] == pytest.approx(time.time(), abs=60)
    assert latest_steps(run, read_status(run, study)) == {}, "nobody works on them"


def begin_attempt(member: Path) -> Path:
    attempt = attempt_directory(member, new_attempt(member))
    with Heart(attempt, node="n", epochs=4, heeds_sigterm=False):
        return attempt


# --- Damage ------------------------------------------------------------------------------------------------

DAMAGED = {
    "cut off": b'{"epoch": 1, "acc',
    "no JSON": b"epoch 1\n",
    "no text": b'{"epoch": "\x80"}\n',
    "a list": b"[]\n",
    "a number": b"5\n",
    "nothing in it": b"{}\n",
    "a blank line": b"\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
@pytest.mark.parametrize(
    ("name", "keys"), [("history.jsonl", "epoch, accuracy, seconds"), ("error.json", "error")]
)
def test_a_members_damaged_file_is_named(
    run: RunDirectory, study: Experiment, name: str, keys: str, content: bytes
) -> None:
    directory = run.teacher(study.teachers[0].id)
    make(directory, epochs=2, error="a loss is not finite")
    (directory / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_status(run, study)
    assert str(caught.value).startswith(f"{directory / name} is damaged (")
    assert str(caught.value).endswith(
        f"); expected on each line a JSON object with {keys}; remove {directory}"
    )


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_list_of_rejected_videos_is_named(run: RunDirectory, content: bytes) -> None:
    run.shards.mkdir(parents=True)
    path = run.shards / "rejects.jsonl"
    path.write_bytes(b'{"key": "a", "reason": "damaged"}\n' + content)
    with pytest.raises(DataError) as caught:
        rejected(run)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith(
        f"; expected on each line a JSON object with reason; remove {run.shards}"
    )


@pytest.mark.parametrize("name", ["history.jsonl", "error.json"])
def test_an_empty_file_says_nothing(run: RunDirectory, study: Experiment, name: str) -> None:
    directory = run.teacher(study.teachers[0].id)
    make(directory)
    (directory / name).write_bytes(b"")
    found = first_teacher(run, study)
    assert (found.epoch, found.error) == (0, "")
