"""The study over the number of teachers: which targets and students it is made of, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.small_study import NO_VIDEOS, study
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import Point, as_begun, begin, points, studying, with_study
from ukd_dist.scaling_config import Scaling

FOLDED = (
    "data.folds={count: 2}",
    "teachers.fleet=[{grid: {seed: [0, 1, 2], fold: [0, 1], modality: [rgb]}}]",
)


def asking(*overrides: str, **settings: object) -> Experiment:
    experiment = study(*overrides)
    return replace(experiment, study=Scaling.model_validate(settings))


def of(found: list[Point], way: str, repeat: int = 0) -> list[Point]:
    return [point for point in found if (point.way, point.repeat) == (way, repeat)]


def test_numbers_of_teachers_are_powers_of_two_and_all() -> None:
    found = points(asking())
    assert [p.count for p in of(found, "stored")] == [1, 2, 4, 5]
    assert [p.count for p in of(found, "online")] == [
        1,
        2,
    ]  # three teachers are rgb's, as the student; but 4 are not
    assert [p.count for p in of(found, "none")] == [0]
    assert {p.repeat for p in found} == {0, 1, 2}


def test_fewer_teachers_are_the_first_of_more() -> None:
    stored = of(points(asking()), "stored", repeat=1)
    sets = [set(point.teachers) for point in stored]
    assert all(fewer < more for fewer, more in pairwise(sets))


def test_repeats_have_other_teachers_and_seeds_but_share_the_target_of_all() -> None:
    found = points(asking(repeats=8))
    firsts = {of(found, "stored", repeat)[0].teachers for repeat in range(8)}
    assert len(firsts) > 1
    alls = {of(found, "stored", repeat)[-1].student.target for repeat in range(8)}
    assert len(alls) == 1
    assert [of(found, "none", repeat)[0].student.settings.seed for repeat in range(3)] == [3, 4, 5]


def test_the_listed_order_takes_the_experiments_first() -> None:
    experiment = asking(order="listed")
    for repeat in (0, 1):
        assert of(points(experiment), "stored", repeat)[1].teachers == tuple(
            member.id for member in experiment.teachers[:2]
        )


def test_a_longer_study_keeps_what_a_shorter_one_made() -> None:
    def ids(experiment: Experiment) -> set[str]:
        return {point.student.id for point in points(experiment)}

    assert ids(asking(teachers=[1, 2], repeats=2)) < ids(asking(teachers=[1, 2, 4], repeats=3))


def test_a_further_teacher_changes_no_order_of_the_others() -> None:
    more = (
        "teachers.fleet=[{grid: {modality: [rgb, flow], seed: [0, 1, 2]}}, {arch: x3d_tiny, modality: rgb}]"
    )
    few, many = (of(points(e), "stored")[-1].teachers for e in (asking(), asking(more)))
    assert set(few) < set(many)

    def order(experiment: Experiment) -> list[str]:
        counts = tuple(range(1, len(experiment.teachers) + 1))
        every = of(points(replace(experiment, study=Scaling(teachers=counts))), "stored")
        before: set[str] = set()
        found = []
        for point in every:
            found += set(point.teachers) - before
            before = set(point.teachers)
        return found

    assert [id_ for id_ in order(asking(more)) if id_ in few] == order(asking())


def test_out_of_fold_each_fold_has_k_teachers() -> None:
    found = of(points(asking(*FOLDED, rows=["all", "out_of_fold"])), "stored")
    assert [(p.rows, p.count, len(p.teachers)) for p in found] == [
        *(("all", count, count) for count in (1, 2, 4, 6)),
        *(("out_of_fold", count, 2 * count) for count in (1, 2, 3)),
    ]
    for point in found:
        target = point.student.target
        assert target is not None
        assert target.settings.rows == point.rows


def test_every_student_has_the_runs_recipe() -> None:
    found = points(asking("students.runs.1.lr=0.25", "students.runs.1.temperature=7"))
    assert {p.student.settings.lr for p in found} == {0.25}
    assert {p.student.settings.temperature for p in found if p.way != "none"} == {7}
    assert {p.student.settings.temperature for p in of(found, "none")} == {None}
    online = of(found, "online")[0].student
    assert online.settings.weighting is not None
    assert online.settings.weighting.method == "pkd"


@pytest.mark.parametrize("online", [0, 1])
def test_the_contrast_ends_where_it_is_told(online: int) -> None:
    assert len(of(points(asking(online=online)), "online")) == online


def test_an_experiment_that_studies_has_its_members_alone_and_one_with_a_study_both() -> None:
    experiment = asking(repeats=1)
    alone, both = studying(experiment), with_study(experiment)
    assert {s.settings.name for s in alone.students} == {
        "study-k0",
        "study-k1",
        "study-k2",
        "study-k4",
        "study-k5",
        "study-k1-online",
        "study-k2-online",
    }
    assert alone.to_yaml() == experiment.to_yaml()
    assert both.students == (*experiment.students, *alone.students)
    assert both.targets == (*experiment.targets, *alone.targets)


def test_a_study_is_beside_the_experiment_once_it_was_begun(tmp_path: Path) -> None:
    experiment, run = asking(), RunDirectory(tmp_path)
    assert as_begun(run, experiment) is experiment
    begin(run)
    assert as_begun(run, experiment) == with_study(experiment)
    impossible = replace(experiment, study=Scaling(teachers=(1000,)))
    assert as_begun(run, impossible) is impossible


def test_without_a_distilled_run_there_is_nothing_to_study() -> None:
    undistilled = study("students.runs=[{name: baseline, targets: none}]")
    assert refusal(undistilled) == (
        "no student learns from a stored target; expected a run whose targets name a target: the study "
        "repeats its recipe; add such a run to students.runs"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"student": "baseline"},
            "study.student baseline is no run that learns from a stored target; expected one of ukd; "
            "correct it",
        ),
        (
            {"teachers": [1, 6]},
            "study.teachers asks for 6, and the run's target has 5 teachers to draw from; expected numbers "
            "from 1 to 5; leave the larger ones out, or add teachers",
        ),
        (
            {"rows": "out_of_fold"},
            "study.rows: out_of_fold with teachers of 0 folds; expected data.folds, each with a teacher; add "
            "such teachers, or set study.rows to all",
        ),
    ],
)
def test_what_there_is_not_is_refused(settings: dict[str, object], said: str) -> None:
    assert refusal(asking(**settings)) == said


def test_numbers_of_teachers_have_to_rise() -> None:
    with pytest.raises(UsageError, match=r"study.teachers: teachers 4, 2; expected rising numbers"):
        study(*NO_VIDEOS, "study.teachers=[4, 2]")


def refusal(experiment: Experiment) -> str:
    with pytest.raises(UsageError) as caught:
        points(experiment)
    return " ".join(str(caught.value).split())


def test_rows_are_named_once() -> None:
    with pytest.raises(UsageError, match=r"study.rows: rows names one twice: all, all"):
        study(*NO_VIDEOS, "study.rows=[all, all]")


def test_teachers_in_memory_come_last_and_two_repeats_with_the_same_teachers_share_a_target() -> None:
    found = points(asking(teachers=[1], repeats=12, online=1))
    assert [point.way for point in found] == ["none", "stored"] * 12 + ["online"] * 12
    targets = {p.teachers: p.student.target for p in found if p.way == "stored"}
    assert len({target.id for target in targets.values() if target}) == len(targets) <= 5
