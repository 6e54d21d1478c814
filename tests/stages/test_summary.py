"""Test accuracy over repeats beside published figures, and that every place tells the same."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.stages import fake_run
from tests.stages.page import page_of
from tests.stages.test_evaluate import STUDY, shard, train
from ukd_dist.cli import app
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.findings import Group
from ukd_dist.stages.results import RESULT
from ukd_dist.stages.summary import SUMMARY_CSV, Summary, is_telling, read_summary, summarise

PUBLISHED = {"baseline": 67.4, "ukd": 71.3, "two-stream": 70.9}
TOLD = f"evaluate:\n  published: {json.dumps(PUBLISHED).replace('{', '{{').replace('}', '}}')}\n"
TEXT = fake_run.EXPERIMENT.replace("evaluate:\n", TOLD)


def summaries(root: Path, text: str = TEXT) -> dict[str, Summary]:
    found = read_summary(RunDirectory(root), fake_run.experiment(root, text))
    return {f"{s.name} {s.modality}": s for s in found}


def test_repeats_have_a_mean_and_a_sample_standard_deviation(root: Path) -> None:
    run = RunDirectory(root)
    ids = [s.id for s in fake_run.experiment(root).students if s.settings.name == "ukd"]
    top1 = np.array([json.loads((run.student(i) / RESULT).read_text())["top1"] for i in ids])
    found = summaries(root)["ukd rgb"]
    assert found.runs == len(top1) == 5
    assert found.mean_percent == pytest.approx(100 * top1.mean())
    assert found.deviation_percent == pytest.approx(100 * top1.std(ddof=1))


def test_one_run_has_no_deviation(root: Path) -> None:
    found = summaries(root)["flow flow"]
    assert (found.runs, found.deviation_percent) == (1, None)
    assert found.mean_percent is not None


def test_what_is_not_evaluated_has_no_mean(tmp_path: Path) -> None:
    found = summaries(tmp_path)["ukd rgb"]
    assert (found.runs, found.mean_percent, found.deviation_percent) == (0, None, None)
    assert found.published_percent == 71.3


def test_published_figures_stand_beside_students_and_fusions_of_their_names(root: Path) -> None:
    found = summaries(root).values()
    assert {s.name: s.published_percent for s in found if s.published_percent is not None} == PUBLISHED


def test_a_teacher_of_a_students_name_is_not_the_published_one() -> None:
    groups = [Group(kind, "x3d_tiny", "rgb", (), {}) for kind in ("teacher", "student")]
    found = summarise(groups, {"x3d_tiny": 50.0})
    assert [s.published_percent for s in found] == [None, 50.0]


def test_runs_of_a_name_that_differ_by_more_than_the_seed_are_lines_of_their_own(tmp_path: Path) -> None:
    text = fake_run.EXPERIMENT.partition("evaluate:")[0]
    text = text.replace("temperature: 20, grid: {{", "grid: {{temperature: [5, 20], ")
    fake_run.build(tmp_path, text)
    found = read_summary(RunDirectory(tmp_path), fake_run.experiment(tmp_path, text))
    lines = [(s.note, s.runs) for s in found if s.name == "ukd"]
    assert lines == [("temperature 5.0", 5), ("temperature 20.0", 5)]


@pytest.mark.parametrize(
    ("runs", "published", "telling"), [(1, None, False), (2, None, True), (1, 50.0, True), (0, 50.0, True)]
)
def test_a_summary_tells_something_once_a_run_is_repeated_or_published(
    runs: int, published: float | None, telling: bool
) -> None:
    only = Summary(
        kind="student",
        name="ukd",
        note="",
        modality="rgb",
        target="",
        runs=runs,
        mean_percent=None,
        deviation_percent=None,
        published_percent=published,
    )
    assert is_telling([only]) is telling


def test_the_page_tells_what_the_csv_tells(root: Path) -> None:
    rows = page_of(root, TEXT).sections["summary"][1:]
    with (root / "report" / SUMMARY_CSV).open() as file:
        lines = list(csv.DictReader(file))
    assert [list(line) for line in lines[:1]] == [list(asdict(summaries(root)["ukd rgb"]))]
    columns = ("mean_percent", "deviation_percent", "published_percent")
    for row, line in zip(rows, lines, strict=True):
        figures = [f"{float(line[name]):.1f}" if line[name] else "—" for name in columns]
        assert row[0].startswith(line["name"] + line["modality"])
        assert row[1:5] == [line["runs"], *figures]


def test_a_page_of_single_runs_without_published_figures_has_no_such_section(tmp_path: Path) -> None:
    text = fake_run.EXPERIMENT.replace("grid: {{seed: [0, 1, 2, 3, 4]}}", "seed: 0")
    text = text.replace("grid: {{seed: [0, 1, 2]}}", "seed: 0")
    fake_run.build(tmp_path, text)
    assert "Over repeats" not in page_of(tmp_path, text).text
    assert (tmp_path / "report" / SUMMARY_CSV).is_file()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An experiment of two students and their fusion, two seeds each, that is trained but not evaluated."""
    run = RunDirectory(tmp_path / "run")
    text = f"{STUDY}  published: {{{{near: 62.5, both: 70.9}}}}\ncluster: {{{{metrics_port: null}}}}\n"
    train(run, fake_run.experiment(run.root, text), shard(run))
    path = tmp_path / "study.yaml"
    path.write_text(text.format(root=run.root))
    return path


def test_evaluation_prints_the_summary_after_the_members(study: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(study)])
    assert result.exit_code == 0, result.stderr
    members, summary = result.stdout.split("\n\n")
    header, *lines = [line.split() for line in summary.splitlines()][:-1]
    with (study.parent / "run/report" / SUMMARY_CSV).open() as file:
        written = list(csv.DictReader(file))

    assert members.startswith("kind")
    assert " ".join(header) == "kind name modality target runs mean % deviation published %"
    columns = ("mean_percent", "deviation_percent", "published_percent")
    assert lines == [
        [
            *(line[name] or "-" for name in ("kind", "name", "modality", "target", "runs")),
            *(f"{float(line[name]):.1f}" if line[name] else "-" for name in columns),
        ]
        for line in written
    ]
    assert [line[-1] for line in lines] == ["-", "62.5", "-", "70.9"]


def test_json_has_the_same_summary(study: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(study), "--json"])
    assert result.exit_code == 0, result.stderr
    run = RunDirectory(study.parent / "run")
    told = json.loads(result.stdout)["summary"]
    text = study.read_text().replace("{", "{{").replace("}", "}}")
    assert told == [asdict(s) for s in read_summary(run, fake_run.experiment(run.root, text))]
    assert [s["runs"] for s in told] == [1, 2, 2, 2]


def test_a_stage_that_evaluates_nothing_prints_no_summary(study: Path) -> None:
    result = CliRunner().invoke(app, ["teach", str(study), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["summary"] == []
