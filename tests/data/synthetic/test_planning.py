"""The plan: classes, groups and names as in ARID, and what it says of nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.data.synthetic import CLASSES, Video, divide, plan
from ukd_dist.errors import UsageError


def test_the_classes_are_arids_in_its_order() -> None:
    assert " ".join(CLASSES) == "Drink Jump Pick Pour Push Run Sit Stand Turn Walk Wave"


def test_a_video_is_named_as_in_arid() -> None:
    assert Video(label=9, group=3, clip=12, seed=0).path == "Walk/Walk_3_12.mp4"


@given(
    train_clips=st.integers(1, 30),
    test_clips=st.integers(1, 30),
    train_groups=st.integers(1, 7),
    test_groups=st.integers(1, 7),
)
def test_a_plan_has_every_class_in_every_group_and_no_group_in_both_splits(
    train_clips: int, test_clips: int, train_groups: int, test_groups: int
) -> None:
    train, test = plan(
        seed=1,
        train_clips=train_clips,
        test_clips=test_clips,
        train_groups=train_groups,
        test_groups=test_groups,
    )
    assert {v.group for v in train} == set(range(1, min(train_clips, train_groups) + 1))
    assert min(v.group for v in test) == train_groups + 1
    for videos, clips in ((train, train_clips), (test, test_clips)):
        by_class = [[(v.group, v.clip) for v in videos if v.label == label] for label in range(11)]
        assert all(deal == by_class[0] and len(set(deal)) == clips for deal in by_class)


def test_more_clips_add_to_the_same_training_videos() -> None:
    few, _ = plan(seed=3, train_clips=7, test_clips=1)
    many, _ = plan(seed=3, train_clips=20, test_clips=1)
    assert set(few) < set(many)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("train_clips", 0, 1),
        ("test_clips", -1, 1),
        ("train_groups", 0, 1),
        ("test_groups", 0, 1),
        ("seed", -1, 0),
    ],
)
def test_an_impossible_plan_says_what_it_needs(name: str, value: int, least: int) -> None:
    arguments = {"seed": 0, "train_clips": 1, "test_clips": 1, name: value}
    with pytest.raises(UsageError) as raised:
        plan(**arguments)
    assert (
        str(raised.value)
        == f"{name} of a synthetic dataset is {value}; expected at least {least}; raise {name}"
    )


@given(train_clips=st.integers(1, 30), test_clips=st.integers(1, 30), splits=st.integers(1, 4))
def test_divisions_are_of_the_same_videos_and_no_group_is_tested_twice(
    train_clips: int, test_clips: int, splits: int
) -> None:
    train, test = plan(seed=1, train_clips=train_clips, test_clips=test_clips)
    tested = {v.group for v in test}
    if splits * len(tested) > len({v.group for v in (*train, *test)}):
        with pytest.raises(UsageError, match=f"make no {splits} splits; expected other groups"):
            divide(train, test, splits)
        return
    divisions = divide(train, test, splits)
    assert divisions[0] == (train, test)
    seen: set[int] = set()
    for learnt, held_out in divisions:
        assert sorted(v.path for v in (*learnt, *held_out)) == sorted(v.path for v in (*train, *test))
        groups = {v.group for v in held_out}
        assert len(groups) == len(tested)
        assert groups.isdisjoint({v.group for v in learnt} | seen)
        assert {v.label for v in learnt} == {v.label for v in held_out} == set(range(11))
        seen |= groups
