"""The validation split: near its share, whole groups or every class alike, and never one side of a class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd_dist.data.holdout import choose_validation
from ukd_dist.data_config import Validation
from ukd_dist.errors import UsageError

CLASSES = ("Drink", "Jump", "Walk")


def chosen(labels: list[int], groups: list[str], **wanted: object) -> np.ndarray:
    validation = Validation.model_validate(wanted)
    return choose_validation(np.array(labels, np.int64), groups, validation, CLASSES)


def refusal(labels: list[int], groups: list[str], **wanted: object) -> str:
    with pytest.raises(UsageError) as caught:
        chosen(labels, groups, **wanted)
    return str(caught.value)


@st.composite
def listed(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Videos of three classes, each of at least four groups with up to five videos, in any order."""
    videos = [
        (label, str(group))
        for label in range(len(CLASSES))
        for group in range(draw(st.integers(4, 9)))
        for _ in range(draw(st.integers(1, 5)))
    ]
    shuffled = draw(st.permutations(videos))
    return [label for label, _ in shuffled], [group for _, group in shuffled]


@given(listed(), st.floats(0.15, 0.5), st.integers(0, 99))
@settings(deadline=None)
def test_by_group_no_group_lies_on_both_sides_and_no_class_on_one(
    videos: tuple[list[int], list[str]], share: float, seed: int
) -> None:
    labels, groups = videos
    held_out = chosen(labels, groups, share=share, seed=seed)
    assert not {g for g, out in zip(groups, held_out, strict=True) if out} & {
        g for g, out in zip(groups, held_out, strict=True) if not out
    }
    for label in range(len(CLASSES)):
        assert set(held_out[np.array(labels) == label].tolist()) == {False, True}


@given(listed(), st.floats(0.15, 0.85), st.integers(0, 99))
@settings(deadline=None)
def test_at_random_every_class_gives_its_share_rounded(
    videos: tuple[list[int], list[str]], share: float, seed: int
) -> None:
    labels = np.array(videos[0])
    held_out = chosen(*videos, share=share, by="random", seed=seed)
    for label in range(len(CLASSES)):
        of_class = held_out[labels == label]
        assert abs(of_class.sum() - share * len(of_class)) <= 0.5


@pytest.mark.parametrize("by", ["group", "random"])
def test_the_choice_is_the_same_every_time_and_another_for_another_seed(by: str) -> None:
    labels, groups = [0, 1, 2] * 40, [str(row // 6) for row in range(120)]
    choices = [chosen(labels, groups, share=0.2, by=by, seed=seed).tolist() for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 12), (0.2, 24), (0.5, 60)])
def test_groups_of_equal_size_come_as_near_to_the_share_as_they_can(share: float, held_out: int) -> None:
    labels, groups = [0, 1, 2] * 40, [str(row // 6) for row in range(120)]
    assert chosen(labels, groups, share=share).sum() == held_out


def test_a_class_of_one_group_is_named() -> None:
    labels, groups = [0, 0, 1, 1, 1, 1, 2, 2, 2], ["1", "2", "3", "3", "3", "3", "1", "2", "4"]
    assert refusal(labels, groups, share=0.4, by="group").startswith(
        "data.validation leaves class 'Jump' without "
    )
    message = refusal(labels, groups, share=0.2, by="group")
    assert message == (
        "data.validation leaves class 'Jump' without validation videos: 0 of its 4 are held out, since its "
        "recording groups cannot be parted; expected training and validation videos of each class; "
        "change data.validation.share or seed, or set by: random, or give more videos of the class"
    )


def test_a_class_too_small_for_the_share_is_named() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 2
    assert refusal(labels, [""] * 22, share=0.1, by="random").startswith(
        "data.validation leaves class 'Walk' without validation videos: 0 of its 2 are held out; expected "
    )
    assert refusal(labels, [""] * 22, share=0.8, by="random").startswith(
        "data.validation leaves class 'Walk' without training videos: 2 of its 2 are held out; expected "
    )


def test_a_share_that_gives_nothing_is_refused() -> None:
    labels, groups = [0, 1, 2] * 4, [str(row // 3) for row in range(12)]
    assert refusal(labels, groups, share=0.1, by="random") == (
        "data.validation.share 0.1 gives nothing of 12 training videos, a class at a time; "
        "expected a share of at least one video; raise the share, or remove data.validation"
    )
    assert refusal(labels, groups, share=0.1).startswith(
        "data.validation.share 0.1 gives nothing of 12 training videos, whose smallest recording group has 3;"
    )


def test_videos_without_groups_cannot_be_held_out_by_group() -> None:
    assert refusal([0, 1, 2, 0], ["1", "", "", "2"], share=0.5) == (
        "data.validation.by is group, but 2 of 4 training videos carry no group; expected names with a "
        "recording group, for example Walk_3_12.mp4; set data.validation.by: random, rename the videos, "
        "or (source: folder or csv) give data.group_pattern"
    )
