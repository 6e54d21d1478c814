"""A student whose ranks torchrun or DeepSpeed's launcher starts is the one that `ukd distill` would make."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import (
    TINY,
    command,
    epochs_of,
    learnt,
    load,
    running,
    said,
    undistilled,
    wait_until,
)
from ukd_dist import manifest, pipeline
from ukd_dist.attempts import ATTEMPTS, attempt_directory
from ukd_dist.errors import UsageError
from ukd_dist.heartbeat import read_beat
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, coordinating

REPOSITORY = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def deepspeed() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = Path(sys.executable).with_name("deepspeed")
    return [sys.executable, str(launcher), "--num_gpus", "2", "--master_port", str(port), "--module"]


def launched(launcher: list[str], root: Path, *overrides: str, student: str = "ukd") -> list[str]:
    module = ["ukd_dist.cli.rank"] if "--module" in launcher else ["-m", "ukd_dist.cli.rank"]
    return [*launcher, *module, str(TINY), "--student", student, f"root={root}", *overrides]


def call(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env={**os.environ, "DS_ACCELERATOR": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def without_ray(tmp_path: Path) -> str:
    """A PYTHONPATH on which Ray cannot be imported."""
    (tmp_path / "no").mkdir()
    (tmp_path / "no/ray.py").write_text("raise ImportError('no Ray here')\n")
    return os.pathsep.join([str(tmp_path / "no"), str(REPOSITORY)])


@pytest.mark.parametrize("launcher", [lambda: TORCHRUN, deepspeed], ids=["torchrun", "deepspeed"])
def test_a_student_of_another_launcher_is_the_same_and_ray_is_not_needed(
    launcher: object, undisturbed: Path, tmp_path: Path, without_ray: str
) -> None:
    assert callable(launcher)
    root, student = undistilled(undisturbed, tmp_path)

    done = call(launched(launcher(), root), PYTHONPATH=without_ray)

    assert done.returncode == 0, done.stdout + done.stderr
    assert learnt(student) == learnt(undisturbed / "students" / student.name)
    ours, theirs = manifest.read(student), manifest.read(undisturbed / "students" / student.name)
    assert ours is not None
    assert theirs is not None
    assert (ours.settings, ours.inputs, ours.summary) == (theirs.settings, theirs.inputs, theirs.summary)
    assert not (student / ATTEMPTS).exists()
    again = call(command(root, stage="distill"))
    assert again.returncode == 0, again.stderr
    assert "nothing to do, distill done already" in again.stderr


def test_a_finished_student_is_left_as_it_is(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "students").rglob("*")}

    done = call(launched(TORCHRUN, undisturbed))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do, done already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "students").rglob("*")} == before


def test_a_root_that_another_coordinator_holds_is_refused_on_every_rank(
    undisturbed: Path, tmp_path: Path
) -> None:
    root, student = undistilled(undisturbed, tmp_path)

    with coordinating(load(root)):
        done = call(launched(TORCHRUN, root))

    assert done.returncode != 0
    assert f"ukd: {root} is held by process {os.getpid()} on " in done.stderr
    assert not student.exists()


@pytest.mark.slow
def test_ranks_that_die_under_torchrun_go_on_from_their_checkpoint_when_it_restarts_them(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    root, student = undistilled(undisturbed, tmp_path)
    arguments = launched([*TORCHRUN, "--max-restarts", "1"], root)

    with running(root, arguments) as process:
        wait_until("an epoch", lambda: bool(epochs_of(student)))
        beat = read_beat(attempt_directory(student, 1))
        assert beat is not None
        os.kill(beat.pid, signal.SIGKILL)
        process.wait(timeout=200)

    assert process.returncode == 0, said(root).read_text()
    assert "attempt 2, 2 ranks" in said(root).read_text()
    assert learnt(student) == learnt(undisturbed / "students" / student.name)


@pytest.mark.slow
def test_one_rank_goes_on_where_two_began_when_it_is_asked_to(undisturbed: Path, tmp_path: Path) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    with running(root, launched(TORCHRUN, root)) as process:
        wait_until("an epoch", lambda: bool(epochs_of(student)))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    begun = len(epochs_of(student))

    done = call(command(root, "--workers", "1", stage="distill"))

    assert done.returncode == 0, done.stderr
    (whole, expected) = (learnt(folder / "students" / student.name)[1] for folder in (root, undisturbed))
    assert [line["ranks"] for line in expected] == [2] * len(expected)
    assert [line["ranks"] for line in whole] == [2] * begun + [1] * (len(whole) - begun)
    assert whole[:begun] == expected[:begun]
    assert [line["clips"] for line in whole] == [line["clips"] for line in expected]
    log = (root / "logs" / f"{student.name}-rank0.log").read_text()
    assert f"1 ranks go on from {student}/attempts/2/checkpoint/epoch-" in log


def test_ranks_that_cannot_share_the_batch_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    root, _ = undistilled(undisturbed, tmp_path)

    done = call(command(root, "--workers", "3", stage="distill"))

    assert done.returncode == 2
    assert "with --workers 3: batch_size " in done.stderr
    assert " is not a multiple of workers 3; expected equal shares for every rank" in done.stderr


def test_another_number_of_ranks_than_workers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match=r"^3 ranks were started for student 'ukd'; expected 2, as its `wor"):
        pipeline.distill_launched(load(tmp_path / "run"), "ukd", progress=Progress())

    assert not (tmp_path / "run").exists()


def test_ranks_that_torchrun_restarted_with_stale_addresses_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said_by_torchrun = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", **said_by_torchrun}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(
        UsageError, match=r"^torchrun restarted .* TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where"
    ):
        pipeline.distill_launched(load(tmp_path / "run"), "ukd", progress=Progress())


def test_a_rank_that_no_launcher_started_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    with pytest.raises(
        UsageError, match=r"^WORLD_SIZE is not set; .* torchrun or deepspeed, or train with `"
    ):
        pipeline.distill_launched(load(tmp_path / "run"), "ukd", progress=Progress())


@pytest.mark.parametrize(
    ("name", "problem"),
    [("udk", "0 students are called 'udk'"), ("ukd", "2 students are called 'ukd'")],
    ids=["none", "several"],
)
def test_a_name_that_is_not_one_students_is_refused_with_ids(name: str, problem: str, tmp_path: Path) -> None:
    experiment = load(tmp_path, "students.runs.1.grid={seed: [0, 1]}")
    ids = [member.id for member in experiment.students if name != "ukd" or member.settings.name == name]

    with pytest.raises(UsageError) as raised:
        pipeline.distill_launched(experiment, name, progress=Progress())

    assert raised.value.problem == problem
    assert raised.value.expected == f"one of {', '.join(ids)}"


def test_a_student_may_be_named_by_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment = load(tmp_path, "students.runs.1.grid={seed: [0, 1]}")
    monkeypatch.setenv("WORLD_SIZE", "7")
    monkeypatch.setenv("LOCAL_RANK", "0")

    with pytest.raises(UsageError, match="7 ranks were started"):
        pipeline.distill_launched(experiment, experiment.students[2].id, progress=Progress())
    assert RunDirectory(tmp_path).student(experiment.students[2].id).exists() is False


def test_the_module_answers_a_user_with_one_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "ukd_dist.cli.rank", str(TINY), "--student", "udk", f"root={tmp_path}"]

    done = call(arguments)

    assert done.returncode == 2
    assert done.stderr.startswith("ukd: 0 students are called 'udk'; expected one of ")
    assert len(done.stderr.splitlines()) == 1
