"""Promise 1: a student's training reads targets; no teacher's weights or files are opened by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages import online_run
from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory
from ukd_dist.data.shards import ShardSet
from ukd_dist.rundir import RunDirectory, open_run, read_history
from ukd_dist.training.inference import WEIGHTS

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"

# One rank of a student by itself; notes in a file whatever Python is about to do with a path of teachers.
RANK = """
import os, sys
from pathlib import Path

root, name, seen = sys.argv[1:]
notes = open(seen, "w")

def note(event, arguments):
    if any(f"{root}/teachers" in str(argument) for argument in arguments):
        print(event, *arguments, file=notes)

sys.addaudithook(note)
os.environ["LOCAL_RANK"] = "0"

from torch import distributed
from ukd_dist.attempts import new_attempt
from ukd_dist.rundir import open_run
from ukd_dist.stages.distill import Work, train_student

distributed.init_process_group("gloo", init_method=f"file://{seen}.ranks", rank=0, world_size=1)
run, experiment = open_run(Path(root))
(member,) = (student for student in experiment.students if student.settings.name == name)
number = new_attempt(run.student(member.id))
train_student(Work(run.root, experiment.name, member, number, experiment.cluster))
distributed.destroy_process_group()
"""


def trained(run: RunDirectory, name: str, folder: Path) -> tuple[str, list[str]]:
    """A student's weights, and what its process did with paths under teachers/.

    The system's own record is part of it where there is strace: what libraries open is told to nobody else.
    """
    (member,) = (s for s in online_run.experiment(run.root).students if s.settings.name == name)
    shutil.rmtree(run.student(member.id), ignore_errors=True)
    folder.mkdir()
    audited, traced = folder / "audited", folder / "traced"
    command = [sys.executable, "-c", RANK, str(run.root), name, str(audited)]
    if shutil.which("strace"):
        command = ["strace", "-f", "-y", "--seccomp-bpf", "-e", "trace=%file", "-o", str(traced), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    calls = traced.read_text(errors="replace").splitlines() if traced.exists() else []
    touched = [call for call in calls if f"{run.root}/teachers" in call]
    return manifest.sha256_of(attempt_directory(run.student(member.id), 1) / WEIGHTS), [
        *audited.read_text().splitlines(),
        *touched,
    ]


@pytest.fixture(scope="module")
def run(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return online_run.build(tmp_path_factory.mktemp("unlimited") / "run", shards)


def test_a_student_with_a_stored_target_opens_nothing_of_teachers_and_does_not_miss_them(
    run: RunDirectory, tmp_path: Path
) -> None:
    weights, touched = trained(run, "ukd", tmp_path / "with")
    assert touched == []
    teachers = run.root / "teachers"
    teachers.rename(run.root / "elsewhere")
    try:
        assert trained(run, "ukd", tmp_path / "without") == (weights, [])
    finally:
        (run.root / "elsewhere").rename(teachers)


def test_of_a_student_that_keeps_teachers_in_memory_it_is_seen_that_it_opens_them(
    run: RunDirectory, tmp_path: Path
) -> None:
    """So nothing that another student opened would have been missed."""
    _, touched = trained(run, "online", tmp_path / "online")
    for teacher in online_run.student(run.root).teachers:
        weights = f"{run.teacher(teacher)}/{WEIGHTS}"
        assert any(line.startswith("open ") and weights in line for line in touched)
        assert not shutil.which("strace") or any("openat(" in line and weights in line for line in touched)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_run_with_teachers_in_memory_goes_the_whole_way_and_drops_their_weights_in_the_end(
    tmp_path: Path,
) -> None:
    online = "students.runs=[{name: online, targets: online, teachers: 2, temperature: 20}]"
    others = [
        f"root={tmp_path}/run",
        "data.modalities=[rgb]",
        "teachers.fleet=[{modality: rgb, grid: {seed: [0, 1]}}]",
        "teachers.keep=logits",
        "targets={}",
    ]

    def ukd_run(students: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ukd_dist.cli", "run", str(TINY), *others, students, "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)

    done = ukd_run(online)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [(r["kind"], r["target"]) for r in results] == [("teacher", "")] * 2 + [("student", "online")]
    run, _ = open_run(tmp_path / "run")
    assert len(read_history(next((run.root / "students").iterdir()))) == 3
    assert list((run.root / "teachers").glob(f"*/{WEIGHTS}")) == []

    assert "nothing to do" in ukd_run(online).stderr
    refused = ukd_run(online.replace("20", "10"))
    assert refused.returncode == 1
    assert "in memory, whose weights were dropped; expected" in " ".join(refused.stderr.split())
