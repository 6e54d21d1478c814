"""Folds: every row in one, every class in all alike, and no class learnt from a single recording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd_dist.data.folds import assign_folds
from ukd_dist.data_config import Folds
from ukd_dist.errors import UsageError

CLASSES = ("Drink", "Jump", "Walk")


def assigned(labels: list[int], groups: list[str], **wanted: object) -> np.ndarray:
    return assign_folds(np.array(labels, np.int64), groups, Folds.model_validate(wanted), CLASSES)


def refusal(labels: list[int], groups: list[str], **wanted: object) -> str:
    with pytest.raises(UsageError) as caught:
        assigned(labels, groups, **wanted)
    return str(caught.value)


@st.composite
def labels_of_rows(draw: st.DrawFn) -> list[int]:
    """At least two rows of each class, in any order."""
    counts = [draw(st.integers(2, 30)) for _ in CLASSES]
    return draw(st.permutations([label for label, count in enumerate(counts) for _ in range(count)]))


@st.composite
def grouped_rows(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Rows of eight recording groups, each of which has every class; group and class are in any order."""
    rows = [
        (label, str(group))
        for group in range(8)
        for label in range(len(CLASSES))
        for _ in range(draw(st.integers(1, 4)))
    ]
    shuffled = draw(st.permutations(rows))
    return [label for label, _ in shuffled], [group for _, group in shuffled]


@given(labels_of_rows(), st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None)
def test_random_folds_hold_every_class_alike_and_are_equally_large(
    labels: list[int], count: int, seed: int
) -> None:
    fold_n = assigned(labels, [""] * len(labels), count=count, seed=seed)
    assert fold_n.shape == (len(labels),)
    assert set(fold_n.tolist()) == set(range(count))
    for rows in (fold_n, *(fold_n[np.array(labels) == label] for label in range(len(CLASSES)))):
        sizes = np.bincount(rows, minlength=count)
        assert sizes.max() - sizes.min() <= 1


@given(grouped_rows(), st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None)
def test_folds_by_group_keep_each_group_whole_and_leave_none_empty(
    rows: tuple[list[int], list[str]], count: int, seed: int
) -> None:
    labels, groups = rows
    fold_n = assigned(labels, groups, count=count, by="group", seed=seed)
    assert set(fold_n.tolist()) == set(range(count))
    assert len(set(zip(groups, fold_n.tolist(), strict=True))) == len(set(groups))


@given(grouped_rows(), st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None)
def test_the_order_of_the_rows_moves_no_group_to_another_fold(
    rows: tuple[list[int], list[str]], count: int, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(rows[0])).tolist()
    labels, groups = ([column[i] for i in order] for column in rows)
    before = assigned(*rows, count=count, by="group")
    assert assigned(labels, groups, count=count, by="group").tolist() == before[order].tolist()


def test_groups_of_equal_size_make_equal_folds_in_every_class() -> None:
    labels, groups = [0, 1, 2] * 40, [str(row // 6) for row in range(120)]
    fold_n = assigned(labels, groups, count=5, by="group")
    for label in range(len(CLASSES)):
        assert np.bincount(fold_n[np.array(labels) == label]).tolist() == [8] * 5


@pytest.mark.parametrize("by", ["random", "group"])
def test_folds_are_the_same_every_time_and_others_for_another_seed(by: str) -> None:
    labels, groups = [0, 1, 2] * 40, [str(row // 6) for row in range(120)]
    folds = [assigned(labels, groups, count=5, by=by, seed=seed).tolist() for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


def test_a_class_that_would_keep_one_recording_group_is_named_with_its_counts() -> None:
    labels = [0, 1, 2] * 4 + [0, 1] * 2
    groups = ["1"] * 6 + ["2"] * 6 + ["3"] * 2 + ["4"] * 2
    assert refusal(labels, groups, count=2, by="group") == (
        "class 'Walk' keeps 1 of its 2 recording groups where fold 0 of 2 is left out "
        "(data.folds.by: group); expected at least 2 groups with training videos of each class; "
        "set data.folds.by: random, raise data.folds.count, or list more of its groups"
    )
    assert set(assigned(labels, groups, count=2).tolist()) == {0, 1}


def test_rows_without_groups_have_no_folds_by_group() -> None:
    assert refusal([0, 1, 2] * 2, ["1", "2", "3", "", "2", "3"], count=2, by="group").startswith(
        "data.folds.by is group, but 1 of 6 training videos carry no group; expected names with a recording "
    )


@pytest.mark.parametrize(("by", "units"), [("random", "6 training videos"), ("group", "2 recording groups")])
def test_more_folds_than_there_is_to_deal_are_refused(by: str, units: str) -> None:
    message = refusal([0, 1, 2] * 2, ["1"] * 3 + ["2"] * 3, count=7, by=by)
    assert message.startswith(f"data.folds.count is 7, but the training list has {units}; expected at least")


def test_a_class_of_one_video_cannot_be_left_out() -> None:
    assert refusal([0, 0, 1, 1, 2], [""] * 5, count=2) == (
        "class 'Walk' has 1 training video, which one of data.folds would leave out; expected at least 2; "
        "list more videos of the class, or remove data.folds"
    )
