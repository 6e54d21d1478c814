"""What the report says of each teacher, and its tables as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages import fake_run
from tests.stages.page import page_of
from tests.stages.test_scaled import STUDY, build
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.cards import MOST_CARDS, read_cards
from ukd_dist.stages.findings import compare, read_groups
from ukd_dist.stages.provenance import read_origins
from ukd_dist.stages.report import MARKDOWN, report
from ukd_dist.stages.summary import read_summary


def test_a_card_has_its_charts_and_what_it_said_in_each_target(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    teachers = [group for group in read_groups(run, experiment) if group.kind == "teacher"]
    origins = read_origins(run, experiment)
    cards, others = read_cards(teachers, origins, 1 / 11)
    assert others == 0
    assert [card.group for card in cards] == teachers
    for card in cards:
        assert card.chart is not None
        assert "training accuracy" in card.chart
        for origin in origins:
            (voice,) = [v for v in origin.voices if v.label == card.group.members[0].id]
            assert card.voices[origin.target.name].share == pytest.approx(voice.share)
    for origin in origins:
        assert sum(card.voices[origin.target.name].share for card in cards) == pytest.approx(1)


def test_a_teacher_without_an_epoch_has_a_card_that_says_so(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path), fake_run.experiment(tmp_path)
    fake_run.shard(run)
    page = page_of(tmp_path)
    assert page.text.count("no epoch is finished") >= len(experiment.teachers)


def test_of_very_many_teachers_the_first_have_cards_and_the_others_are_counted(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    teachers = [group for group in read_groups(run, experiment) if group.kind == "teacher"]
    cards, others = read_cards(teachers * 20, [], None)
    assert (len(cards), others) == (MOST_CARDS, 20 * len(teachers) - MOST_CARDS)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Markdown's tables by the heading above them, their heads and rulers left out; each is rectangular."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(heading, []).append(cells)
    for rows in found.values():
        assert len({len(row) for row in rows}) == 1
    return {heading: rows[2:] for heading, rows in found.items()}


def test_the_markdown_says_what_the_page_says(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    report(run, experiment)
    text = (run.report / MARKDOWN).read_text()
    assert text.startswith("# miniature: done\n")
    found = tables(text)
    for row, summary in zip(found["Test accuracy"], read_summary(run, experiment), strict=True):
        assert row[0].startswith(f"{summary.kind} {summary.name}")
        assert row[4] == f"{summary.mean_percent:.1f}"
    students = [group for group in read_groups(run, experiment) if group.kind == "student"]
    for row, comparison in zip(found["Against no distillation"], compare(students), strict=True):
        assert comparison.top1 is not None
        assert row[3] == f"{100 * comparison.top1.mean:+.1f} ± {100 * comparison.top1.margin:.1f}"
    assert [row[0] for row in found["Cost of a student"]] == [group.label for group in students]
    assert "Number of teachers" not in found


def test_the_markdown_has_the_study(tmp_path: Path) -> None:
    run = build(tmp_path / "run")
    report(run, fake_run.experiment(run.root, STUDY))
    rows = tables((run.report / MARKDOWN).read_text())["Number of teachers"]
    assert [(row[0], row[1]) for row in rows] == [
        ("no distillation", "0"),
        *(("stored target", str(count)) for count in (1, 2, 4)),
        ("teachers in memory", "1"),
        ("teachers in memory", "2"),
    ]


def test_the_markdown_of_a_failed_run_names_the_failure(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path / "run"), fake_run.experiment(tmp_path / "run")
    student = run.student(experiment.students[0].id)
    (student / "manifest.json").unlink()
    fake_run.fail(student, "out of\nmemory")
    report(run, experiment)
    text = (run.report / MARKDOWN).read_text()
    assert f"> **student failed** `{student.name}`: out of memory" in text
