"""The page of a run: that it says what the run directory says, whole or in parts, and needs nothing else."""

from __future__ import annotations

import fcntl
import json
import math
import re
from pathlib import Path

from tests.stages import fake_run
from tests.stages.page import page_of
from ukd_dist import manifest
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.findings import read_fusions, read_groups
from ukd_dist.stages.report import report, results_rows
from ukd_dist.stages.results import RESULT, read_result


def test_the_page_needs_no_network(root: Path) -> None:
    html = report(RunDirectory(root), fake_run.experiment(root)).read_text().lower()
    assert [
        word for word in ("http:", "https:", "<script", "src=", "<link", "@import", "url(") if word in html
    ] == []
    assert set(re.findall(r'href="(.)', html)) == {"#"}


def test_the_same_run_gives_the_same_bytes(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    assert report(run, experiment).read_bytes() == report(run, experiment).read_bytes()


def test_every_member_and_target_is_on_the_page(root: Path) -> None:
    experiment, text = fake_run.experiment(root), page_of(root).text
    wanted = (*experiment.teachers, *experiment.targets, *experiment.students)
    assert [member.id for member in wanted if member.id not in text] == []


def test_the_table_says_what_the_results_say(root: Path) -> None:
    run, experiment, page = RunDirectory(root), fake_run.experiment(root), page_of(root)
    directories = [run.teacher(t.id) for t in experiment.teachers] + [
        run.student(s.id) for s in experiment.students
    ]
    for directory in directories:
        result = json.loads((directory / RESULT).read_text())
        error = math.sqrt(result["top1"] * (1 - result["top1"]) / result["clips"])
        _, seed, top1, correct, _ = page.row(directory.name)
        assert seed == str(result["seed"])
        assert top1 == f"{100 * result['top1']:.1f} ± {100 * error:.1f}"
        assert correct == f"{result['correct']}/{result['clips']}"


def test_seeds_have_a_row_of_their_mean(root: Path) -> None:
    (ukd,) = [g for g in read_groups(RunDirectory(root), fake_run.experiment(root)) if g.name == "ukd"]
    assert ukd.top1 is not None
    (row,) = [row for row in page_of(root).sections["results"] if row[0].strip().startswith("ukdrgb")]
    assert row[1:3] == ["mean of 5", f"{100 * ukd.top1.mean:.1f} ± {100 * ukd.top1.margin:.1f}"]


def test_the_head_says_what_was_done_and_with_what(root: Path) -> None:
    text = page_of(root).text
    assert "miniature done" in text
    assert "11 classes · 264 training and 220 test videos · rgb, flow · 2 rejected (2 no_frames)" in text
    assert "teachers: 4 of 4 done" in text
    assert "evaluated: 20 of 20" in text


def test_chance_and_the_error_of_one_network_are_stated(root: Path) -> None:
    text = page_of(root).text
    assert "chance, 9.1% (1 of 11 classes)" in text
    assert "that of 50% on 220 clips is 3.4 points" in text


def test_results_are_teachers_then_students_then_fusions(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    results = results_rows(run, experiment)
    members = (*experiment.teachers, *experiment.students)
    assert [r.id for r in results] == [*(m.id for m in members), "two-stream-s0"]
    assert results[0] == read_result(run.teacher(experiment.teachers[0].id))
    assert results[-1].correct == results[-1].top1 * 220


def test_a_fusion_has_its_classes_and_its_confusion_on_the_page(root: Path) -> None:
    page = page_of(root)
    (fusion,) = read_fusions(RunDirectory(root), fake_run.experiment(root))
    (member,) = fusion.members
    assert member.result is not None
    shares = [f"{100 * value:.0f}" for value in member.result.per_class.values() if value is not None]
    assert [row[2:] for row in page.rows if row and row[0] == fusion.label] == [shares]
    assert page.text.count("predicted, seed 0") == 6


def test_a_fusion_that_is_not_evaluated_is_marked(tmp_path: Path) -> None:
    fake_run.build(tmp_path)
    (tmp_path / "report/fusions.json").unlink()
    page = page_of(tmp_path)
    assert page.row("two-stream-s0")[2:] == ["—", "—", "not evaluated"]
    assert "evaluated: 19 of 20" in page.text


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "miniature not finished" in page.text
    assert "not sharded yet" in page.text
    member = fake_run.experiment(tmp_path).students[0]
    assert page.row(member.id)[2:] == ["—", "—", "pending"]


def test_what_is_missing_or_failed_is_marked(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path), fake_run.experiment(tmp_path)
    fake_run.shard(run)
    done, failed, cut_off, _ = experiment.teachers
    fake_run.train(run.teacher(done.id), done)
    fake_run.train(run.teacher(failed.id), failed, epochs=4)
    fake_run.fail(run.teacher(failed.id), "the loss is nan at epoch 5, step 3; lower lr")
    fake_run.train(run.teacher(cut_off.id), cut_off, epochs=1)
    page = page_of(tmp_path)
    assert page.row(done.id)[2:] == ["—", "—", "not evaluated"]
    assert page.row(failed.id)[2:] == ["—", "—", "failed"]
    assert page.row(cut_off.id)[2:] == ["—", "—", "interrupted"]
    assert "teachers: 1 of 4 done, 1 interrupted, 1 failed, 1 pending" in page.text
    assert "the loss is nan at epoch 5, step 3; lower lr" in page.text


def test_a_run_that_is_worked_on_is_going_on(tmp_path: Path) -> None:
    with (tmp_path / "coordinator.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "miniature going on" in page_of(tmp_path).text


def test_what_users_name_is_escaped(tmp_path: Path) -> None:
    classes = ('<b>Run</b> & "jump"', "<script>alert(1)</script>", "Sit")
    run = fake_run.build(tmp_path, classes=classes)
    teacher = run.teacher(fake_run.experiment(tmp_path).teachers[0].id)
    fake_run.fail(teacher, "<img> & co")
    (teacher / manifest.FILENAME).unlink()
    html = report(run, fake_run.experiment(tmp_path)).read_text()
    assert "&lt;b&gt;Run&lt;/b&gt; &amp; &#34;jump&#34;" in html
    assert "&lt;img&gt; &amp; co" in html
    assert [tag for tag in ("<script", "<b>Run", "<img") if tag in html] == []


def test_every_chart_names_both_axes(root: Path) -> None:
    html = report(RunDirectory(root), fake_run.experiment(root)).read_text()
    charts = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    assert len(charts) == 6 + 4  # and one on each card
    assert [re.findall(r'class="axis[^>]*>([^<]+)<', chart)[1] for chart in charts] == ["epoch"] * 10
    assert all(re.findall(r'class="axis[^>]*>([^<]+)<', chart)[0] for chart in charts)
