"""The study over the number of teachers as a user runs it: from videos to its figures, killed on the way."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny_run
from ukd_dist import manifest, pipeline
from ukd_dist.scaling import points
from ukd_dist.stages.scaled import LEVELS_CSV

pytestmark = pytest.mark.cluster

EXPERIMENT = Path(__file__).parents[1] / "launch" / "experiments" / "tiny_scaling.yaml"
SMALL = ("study.teachers=[1, 4]", "study.repeats=1", "study.online=1", "cluster.metrics_port=null")


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ukd_dist.cli", name, *arguments]


def ukd(name: str, *arguments: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(name, *arguments), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finished(root: Path) -> dict[Path, int]:
    """When each finished teacher, target and student was finished, by its manifest."""
    return {path: path.stat().st_mtime_ns for path in root.glob(f"*/*/{manifest.FILENAME}")}


@dataclass(frozen=True)
class Study:
    """A study that is done, and what of it was when it was killed."""

    root: Path
    at_kill: dict[Path, int]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study") / "run"
    whole = [str(EXPERIMENT), f"root={folder}", *SMALL]
    with tiny_run.running(folder, command("study", *whole)) as begun:
        tiny_run.wait_until("a student", lambda: any(folder.glob(f"students/*/{manifest.FILENAME}")))
        begun.kill()
    at_kill = finished(folder)
    ukd("study", *whole)
    return Study(folder, at_kill)


@pytest.fixture
def root(study: Study) -> Path:
    return study.root


def test_a_killed_study_goes_on_with_what_it_had(study: Study) -> None:
    done = finished(study.root)
    assert study.at_kill == {path: done[path] for path in study.at_kill}
    assert len(list(study.root.glob(f"students/*/{manifest.FILENAME}"))) > 1 + sum(
        path.parents[1].name == "students" for path in study.at_kill
    )


def test_every_number_of_teachers_has_its_figures(root: Path) -> None:
    rows = list(csv.DictReader((root / "report" / LEVELS_CSV).read_text().splitlines()))
    found = [(row["way"], row["teachers"], row["top1_percent_repeats"]) for row in rows]
    assert found == [("none", "0", "1"), ("stored", "1", "1"), ("stored", "4", "1"), ("online", "1", "1")]
    assert all(float(row["epoch_seconds"]) > 0 and float(row["peak_mib"]) > 100 for row in rows)
    costs = {row["teachers"]: float(row["teacher_device_seconds"]) for row in rows if row["way"] != "online"}
    assert 0 == costs["0"] < costs["1"] < costs["4"]
    assert (root / "report" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_experiments_own_student_is_not_trained_by_it(root: Path) -> None:
    experiment = pipeline.load_place(root)
    trained = {path.parent.name for path in root.glob(f"students/*/{manifest.FILENAME}")}
    assert trained == {point.student.id for point in points(experiment)}


def test_status_and_report_know_of_it(root: Path) -> None:
    members = json.loads(ukd("status", str(root), "--json"))
    states = {member["id"]: member["state"] for member in members}
    assert all(states[point.student.id] == "done" for point in points(pipeline.load_place(root)))
    assert "## Number of teachers" in ukd("report", str(root), "--format", "md")


def test_more_repeats_train_only_what_is_new_and_gc_takes_what_is_of_nobody(
    root: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "run"
    shutil.copytree(root, longer, symlinks=True)
    before = finished(longer)
    answer = json.loads(ukd("study", str(EXPERIMENT), f"root={longer}", *SMALL, "study.repeats=2", "--json"))
    after = finished(longer)
    assert {path: after[path] for path in before} == before
    assert [level["top1_percent_repeats"] for level in answer["levels"]] == [2, 2, 2, 2]
    assert len(answer["runs"]) == 8
    kept = {*longer.glob("students/*"), *longer.glob("targets/*")}
    (longer / "students" / "old-0").mkdir()
    ukd("gc", str(longer), "--removed")
    assert {*longer.glob("students/*"), *longer.glob("targets/*")} == kept
