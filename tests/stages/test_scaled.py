"""The study over the number of teachers as files: what its table, its figures and the report say of it."""

from __future__ import annotations

import csv
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest

from tests.stages import fake_run
from tests.stages.page import page_of
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import begin, points, studying
from ukd_dist.stages.curves import scaling_charts
from ukd_dist.stages.figures import draw_scaling
from ukd_dist.stages.provenance import read_origins
from ukd_dist.stages.report import report
from ukd_dist.stages.results import read_result
from ukd_dist.stages.scaled import LEVELS_CSV, RUNS_CSV, SHARES_CSV, Level, Scaled, write_scaled
from ukd_dist.stages.scaling_results import read_scaled
from ukd_dist.status import read_status
from ukd_dist.training.history import read_epochs

STUDY = fake_run.EXPERIMENT + "study: {{student: ukd, repeats: 3, online: 2}}\n"


def build(root: Path, *, untrained: int = 0) -> RunDirectory:
    """A run whose study is done but for its last students."""
    run, experiment = fake_run.build(root, STUDY), fake_run.experiment(root, STUDY)
    asked = studying(experiment)
    for target in asked.targets:
        fake_run.reduce(run.target(target.id), target)
    trained = asked.students[: len(asked.students) - untrained]
    begin(run)
    for student in trained:
        fake_run.train(run.student(student.id), student)
        fake_run.evaluate_member(run.student(student.id), student)
    return run


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return build(tmp_path_factory.mktemp("studied") / "run")


def scaled_of(run: RunDirectory) -> Scaled:
    found = read_scaled(run, fake_run.experiment(run.root, STUDY))
    assert found is not None
    return found


def level(scaled: Scaled, way: str, teachers: int) -> Level:
    (found,) = [one for one in scaled.levels if (one.way, one.teachers) == (way, teachers)]
    return found


def test_a_run_without_its_study_has_none(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path / "run", STUDY), fake_run.experiment(tmp_path / "run", STUDY)
    assert read_scaled(run, experiment) is None
    assert "Number of teachers" not in page_of(run.root, STUDY).text
    assert not (run.report / LEVELS_CSV).exists()


def test_every_student_is_a_line_with_its_figures(studied: RunDirectory) -> None:
    scaled, experiment = scaled_of(studied), fake_run.experiment(studied.root, STUDY)
    found = points(experiment)
    assert [run.student for run in scaled.runs] == [point.student.id for point in found]
    for run in scaled.runs:
        directory = studied.student(run.student)
        result, epochs = read_result(directory), read_epochs(directory)
        assert result is not None
        assert (run.top1, run.correct, run.clips) == (result.top1, result.correct, 220)
        assert run.peak_mib == max(epoch.peak_memory_bytes for epoch in epochs) / 2**20
        assert run.student_device_seconds == pytest.approx(sum(epoch.seconds for epoch in epochs))


def test_teachers_cost_what_their_epochs_took(studied: RunDirectory) -> None:
    scaled, experiment = scaled_of(studied), fake_run.experiment(studied.root, STUDY)
    each = {t.id: sum(e.seconds for e in read_epochs(studied.teacher(t.id))) for t in experiment.teachers}
    for run, point in zip(scaled.runs, points(experiment), strict=True):
        assert run.teacher_device_seconds == pytest.approx(math.fsum(each[id_] for id_ in point.teachers))
    assert level(scaled, "none", 0).teacher_device_seconds == 0
    assert level(scaled, "stored", 4).teacher_device_seconds == pytest.approx(sum(each.values()))


def test_a_number_of_teachers_is_the_mean_of_its_repeats(studied: RunDirectory) -> None:
    scaled = scaled_of(studied)
    assert [(one.way, one.teachers) for one in scaled.levels] == [
        ("none", 0),
        ("stored", 1),
        ("stored", 2),
        ("stored", 4),
        ("online", 1),
        ("online", 2),
    ]
    for one in scaled.levels:
        each = [run.top1 for run in scaled.runs if (run.way, run.teachers) == (one.way, one.teachers)]
        assert one.top1 is not None
        assert one.top1.seeds == 3
        assert one.top1.mean == pytest.approx(fmean(top1 for top1 in each if top1 is not None))


def test_shares_are_those_of_the_targets(studied: RunDirectory) -> None:
    scaled, experiment = scaled_of(studied), studying(fake_run.experiment(studied.root, STUDY))
    (whole,) = [o for o in read_origins(studied, experiment) if len(o.target.teachers) == 4]
    found = level(scaled, "stored", 4)
    for voice in whole.voices:
        assert found.shares[voice.label.rpartition("-s0-")[0]] == pytest.approx(voice.share)
    assert found.heard == pytest.approx(1 / sum(voice.share**2 for voice in whole.voices))
    for one in scaled.levels:
        assert sum(one.shares.values()) == pytest.approx(1 if one.way == "stored" else 0)
    assert level(scaled, "stored", 1).heard == pytest.approx(1)


def test_the_tables_hold_every_run_and_number(studied: RunDirectory) -> None:
    scaled = scaled_of(studied)
    write_scaled(studied, scaled)
    runs, levels, shares = (
        list(csv.DictReader((studied.report / name).read_text().splitlines()))
        for name in (RUNS_CSV, LEVELS_CSV, SHARES_CSV)
    )
    assert [row["student"] for row in runs] == [run.student for run in scaled.runs]
    stored = level(scaled, "stored", 2)
    (row,) = [row for row in levels if (row["way"], row["teachers"]) == ("stored", "2")]
    assert stored.top1 is not None
    assert float(row["top1_percent"]) == pytest.approx(100 * stored.top1.mean)
    assert float(row["top1_percent_margin"]) == pytest.approx(100 * stored.top1.margin)
    assert {row["group"] for row in shares} == set(scaled.groups)


def test_a_study_that_is_going_on_shows_what_there_is(tmp_path: Path) -> None:
    run = build(tmp_path / "run", untrained=2)
    scaled = scaled_of(run)
    assert [one.top1 is None for one in scaled.runs] == [False] * 16 + [True] * 2
    assert [level(scaled, "online", count).repeats for count in (1, 2)] == [2, 2]
    assert scaled.runs[-1].student_device_seconds is None
    text = page_of(run.root, STUDY).text
    assert "2 of 3" in text
    states = {status.id: status.state for status in read_status(run, fake_run.experiment(run.root, STUDY))}
    assert states[scaled.runs[0].student] == "done"
    assert states[scaled.runs[-1].student] == "pending"


def test_the_page_has_a_row_of_each_number_and_its_charts(studied: RunDirectory) -> None:
    page = page_of(studied.root, STUDY)
    rows = [row[:4] for row in page.sections["scaling"][2:]]
    names = ("no distillation", "stored target", "", "", "teachers in memory", "")
    assert [row[0] for row in rows] == list(names)
    assert [row[1] for row in rows] == ["0", "1", "2", "4", "1", "2"]
    assert {row[2] for row in rows} == {"3 of 3"}
    four = level(scaled_of(studied), "stored", 4)
    assert four.top1 is not None
    assert rows[3][3].split() == [f"{100 * four.top1.mean:.1f}", "±", f"{100 * four.top1.margin:.1f}"]
    html = report(studied, fake_run.experiment(studied.root, STUDY)).read_text()
    section = html[html.index('<section id="scaling"') :]
    charts = section[: section.index("</section>")]
    assert re.findall(r"<title>([^<]*), by teachers K</title>", charts) == [
        "test top-1, %",
        "seconds an epoch",
        "peak memory, MiB",
        "device-seconds of all K teachers",
    ]
    assert charts.count('class="margin') == 3 * 5


def test_the_studys_students_are_in_no_other_section(studied: RunDirectory) -> None:
    page = page_of(studied.root, STUDY)
    others = [row for name, rows in page.sections.items() if name != "scaling" for row in rows]
    assert [row for row in others if "study-k" in "".join(row)] == []


def test_the_figure_is_drawn_the_same_from_the_same_numbers(studied: RunDirectory) -> None:
    scaled = scaled_of(studied)
    svg, png = draw_scaling(studied, scaled, "miniature")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_bytes()
    svg.unlink()
    assert draw_scaling(studied, scaled, "miniature")[0].read_bytes() == first
    ElementTree.fromstring(first)
    assert first.count(b"teachers K") == 4


def test_nothing_is_drawn_of_a_study_without_an_epoch(tmp_path: Path) -> None:
    run = build(tmp_path / "run", untrained=18)
    assert draw_scaling(run, scaled_of(run), "miniature") == []
    assert "Number of teachers" in page_of(run.root, STUDY).text


def test_a_training_on_its_way_is_no_cost_yet(tmp_path: Path) -> None:
    run = build(tmp_path / "run", untrained=1)
    last = studying(fake_run.experiment(run.root, STUDY)).students[-1]
    fake_run.train(run.student(last.id), last, epochs=3)
    one = scaled_of(run).runs[-1]
    assert one.epoch_seconds is not None
    assert one.student_device_seconds is None


def test_a_run_that_was_for_its_study_is_done_with_it(tmp_path: Path) -> None:
    run, experiment = build(tmp_path / "run"), fake_run.experiment(tmp_path / "run", STUDY)
    shutil.rmtree(run.student(experiment.students[0].id))
    assert "miniature done" in page_of(run.root, STUDY).text
    shutil.rmtree(run.student(scaled_of(run).runs[-1].student))
    assert "miniature not finished" in page_of(run.root, STUDY).text


def test_a_chart_passes_over_what_a_line_has_nothing_of(studied: RunDirectory) -> None:
    scaled = scaled_of(studied)
    without_two = replace(
        scaled, levels=tuple(one for one in scaled.levels if (one.way, one.teachers) != ("stored", 2))
    )
    _, (accuracy, *_) = scaling_charts(without_two)
    stored = re.search(r'<path class="line c1 d1" d="M([^"]*)">', accuracy)
    assert stored is not None
    assert stored[1].count("L") == 1, "from 1 to 4"
    places = [float(point.split(",")[0]) for point in stored[1].split("L")]
    assert places[1] - places[0] > 300
