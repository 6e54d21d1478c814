"""Which views members may see: a target and its students speak of the same ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small_study import answer, study
from ukd_dist.clip_config import Views

RANDOM = "data.views={kind: random, clips: 4, seed: 2}"
STORED = "students.runs.1.view=stored"


def test_a_student_of_free_crops_cannot_learn_from_targets_of_single_views() -> None:
    assert answer(RANDOM) == (
        "study.yaml: student 'ukd' sees free crops, and target 'ukd' speaks of 4 stored views of a video, "
        "each by itself (random-4-s2); expected view: stored; "
        "set it, or change data.views.kind to centre or mean"
    )


def test_a_student_cannot_see_views_whose_logits_were_averaged() -> None:
    assert answer("data.views={kind: mean, clips: 10, crops: 3}", STORED) == (
        "study.yaml: student 'ukd' is to see stored views, and target 'ukd' holds their mean only "
        "(mean-10x3); expected logits of single views; "
        "set view: free, or change data.views.kind to random or centre"
    )


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("frames", "8", "8, the teacher's 16"),
        ("stride", "1", "1, the teacher's 2"),
        ("size", "56", "56, the teacher's 64"),
        ("short_side", "[64, 90]", "(64, 90), the teacher's (64, 80)"),
        ("gamma", "1.5", "1.5, the teacher's 2.0"),
        ("flip", "false", "False, the teacher's True"),
    ],
)
def test_a_student_cannot_see_its_teachers_views_with_another_clip(
    field: str, value: str, shown: str
) -> None:
    teacher = study(RANDOM, STORED).teachers[0].id
    assert answer(RANDOM, STORED, f"students.runs.1.clip.{field}={value}") == (
        f"study.yaml: student 'ukd' takes other clips than its teacher {teacher}: its clip.{field} is "
        f"{shown}; expected equal clips with view: stored; give both the same clip.{field}, or set view: free"
    )


def test_teachers_of_one_target_see_the_same_views() -> None:
    override = "teachers.fleet.1.views={kind: mean, clips: 4}"
    assert re.fullmatch(
        r"study.yaml: target 'ukd' mixes views: teacher slowfast_tiny-rgb-s0-\w+ sees centre, "
        r"teacher x3d_tiny-rgb-s3-\w+ mean-4x1; expected the same views of all its teachers; "
        r"give them the same views, or let data.views hold for all",
        answer(override),
    )


def test_teachers_from_elsewhere_have_no_say_on_single_views() -> None:
    assert re.fullmatch(
        r"study.yaml: target 'ukd' mixes views: teacher slowfast_tiny-rgb-s0-\w+ sees random-4-s2, and the "
        r"logits of theirs speak of a video as a whole; expected the same views of all its teachers; "
        r"select among them, or change data.views.kind to centre or mean",
        answer(RANDOM, STORED, "teachers.imported=[theirs]"),
    )


def test_a_student_cannot_see_views_that_nobody_here_knows() -> None:
    overrides = ["teachers.imported=[theirs]", "targets.ukd.teachers={id: theirs}", STORED]
    assert answer(*overrides) == (
        "study.yaml: student 'ukd' is to see stored views, and every teacher of target 'ukd' is imported; "
        "expected teachers whose views are known; set view: free"
    )


def test_a_teachers_own_views_beat_those_of_the_data() -> None:
    found = study(
        "data.views={kind: mean, clips: 4}",
        "teachers.fleet.1.views.crops=3",
        "targets={}",
        "students.runs.1={name: ukd, targets: none}",
    )
    assert [t.settings.views.name for t in found.teachers] == ["mean-4x1"] * 4 + ["mean-4x3"]


def test_a_student_sees_the_views_of_its_targets_teachers_only_where_it_says_so() -> None:
    assert [s.stored_views for s in study().students] == [None, None]
    assert [s.stored_views for s in study(RANDOM, STORED).students] == [
        None,
        Views(kind="random", clips=4, seed=2),
    ]
    assert study(STORED).students[1].stored_views == Views()


VIEWS = (
    st.just(Views())
    | st.builds(Views, kind=st.just("random"), clips=st.integers(1, 500), seed=st.integers(0, 2**40))
    | st.builds(Views, kind=st.just("mean"), clips=st.integers(2, 500), crops=st.sampled_from([1, 3]))
)


@given(VIEWS)
def test_the_name_of_views_says_all_of_them(views: Views) -> None:
    assert Views.named(views.name) == views


@pytest.mark.parametrize(
    "name",
    ["", "center", "mean", "mean-4", "mean-4x2", "mean-1x1", "random-4", "random-4-s0 ", "random-0-s0"],
)
def test_other_names_are_views_of_elsewhere(name: str) -> None:
    assert Views.named(name) is None


@given(VIEWS)
def test_no_random_views_are_evaluated(views: Views) -> None:
    assert views.evaluated == (Views() if views.kind == "random" else views)
