"""The study over the number of teachers as a user runs it: from videos to its figures, once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ukd_dist import manifest, pipeline
from ukd_dist.scaling import points
from ukd_dist.stages.scaled import LEVELS_CSV

pytestmark = pytest.mark.cluster

EXPERIMENT = Path(__file__).parents[1] / "launch" / "experiments" / "tiny_scaling.yaml"
SMALL = ("study.teachers=[1, 4]", "study.repeats=1", "study.online=1", "cluster.metrics_port=null")


def ukd(command: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ukd_dist.cli", command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a study that is done."""
    folder = tmp_path_factory.mktemp("study") / "run"
    ukd("study", str(EXPERIMENT), f"root={folder}", *SMALL)
    return folder


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
    before = {path: path.stat().st_mtime_ns for path in longer.glob(f"*/*/{manifest.FILENAME}")}
    answer = json.loads(ukd("study", str(EXPERIMENT), f"root={longer}", *SMALL, "study.repeats=2", "--json"))
    after = {path: path.stat().st_mtime_ns for path in longer.glob(f"*/*/{manifest.FILENAME}")}
    assert {path: after[path] for path in before} == before
    assert [level["top1_percent_repeats"] for level in answer["levels"]] == [2, 2, 2, 2]
    assert len(answer["runs"]) == 8
    kept = {*longer.glob("students/*"), *longer.glob("targets/*")}
    (longer / "students" / "old-0").mkdir()
    ukd("gc", str(longer), "--removed")
    assert {*longer.glob("students/*"), *longer.glob("targets/*")} == kept
