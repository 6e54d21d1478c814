"""Which videos are held out: `data.validation` of the training videos, and a folder's test split.

Both take a share, of whole recording groups or of each class, and leave no class on one side only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd_dist.data.strata import count_groups, shuffled_by_class
from ukd_dist.data_config import FolderSplit, Validation
from ukd_dist.errors import UsageError


@dataclass(frozen=True)
class _Wish:
    """What is asked for, and the words to speak of it.

    Attributes:
        share: Of the videos, which are to be held out.
        by_group: Whole groups, or of each class the same share.
        seed: Of the choice.
        setting: Its name in the experiment.
        share_setting: The name of its share.
        part: What is held out: the name of a split.
        videos: What it is held out of.
    """

    share: float
    by_group: bool
    seed: int
    setting: str
    share_setting: str
    part: str
    videos: str


def choose_validation(
    labels_n: npt.NDArray[np.int64], groups: Sequence[str], validation: Validation, classes: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """True for the rows of the validation split, bool `[n]`.

    By group, whole groups are taken in random order where they bring the classes nearer to the share; a
    class that would have no rows otherwise gets a group even beyond it. At random, each class gives its
    share, rounded.

    Args:
        labels_n: Class indexes.
        groups: Name of each row's recording group; not read by `by: random`.
        validation: Share, kind and seed.
        classes: Names by class index, for messages.

    Raises:
        UsageError: A class would have no training or no validation rows, the share gives nothing, or a row
            has no group.
    """
    name = "data.validation"
    by_group = validation.by == "group"
    wish = _Wish(
        validation.share, by_group, validation.seed, name, f"{name}.share", "validation", "training videos"
    )
    return _hold_out(labels_n, groups, wish, classes)


def choose_test(
    labels_n: npt.NDArray[np.int64], groups: Sequence[str], split: FolderSplit, classes: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """True for the rows of the test split, bool `[n]`; arguments and errors as for validation."""
    name = "data.split"
    wish = _Wish(split.test, split.by == "group", split.seed, name, f"{name}.test", "test", "videos")
    return _hold_out(labels_n, groups, wish, classes)


def _hold_out(
    labels_n: npt.NDArray[np.int64], groups: Sequence[str], wish: _Wish, classes: Sequence[str]
) -> npt.NDArray[np.bool_]:
    if wish.by_group:
        held_out_n = _by_group(labels_n, groups, wish, len(classes))
    else:
        held_out_n = _at_random(labels_n, wish, len(classes))
    for label, name in enumerate(classes):
        _check_class(name, held_out_n[labels_n == label], wish)
    return held_out_n


def _at_random(labels_n: npt.NDArray[np.int64], wish: _Wish, num_classes: int) -> npt.NDArray[np.bool_]:
    rows_c = np.bincount(labels_n, minlength=num_classes)
    wanted_c = np.floor(wish.share * rows_c + 0.5).astype(np.int64)
    if not wanted_c.any():
        raise _gives_nothing(wish, f"{len(labels_n)} {wish.videos}, a class at a time")
    order = shuffled_by_class(labels_n, wish.seed)
    within_class = np.arange(len(order)) - np.repeat(np.cumsum(rows_c) - rows_c, rows_c)
    held_out_n = np.zeros(len(labels_n), np.bool_)
    held_out_n[order] = within_class < np.repeat(wanted_c, rows_c)
    return held_out_n


def _by_group(
    labels_n: npt.NDArray[np.int64], groups: Sequence[str], wish: _Wish, num_classes: int
) -> npt.NDArray[np.bool_]:
    group_n, counts_gc = count_groups(labels_n, groups, num_classes, f"{wish.setting}.by", wish.videos)
    smallest = int(counts_gc.sum(axis=1).min())
    if wish.share * len(labels_n) < smallest / 2:
        raise _gives_nothing(
            wish, f"{len(labels_n)} {wish.videos}, whose smallest recording group has {smallest}"
        )
    rows_c = counts_gc.sum(axis=0)

    def distance(chosen_c: npt.NDArray[np.int64]) -> tuple[int, float]:
        """Classes that lie on one side only, then rows too many or too few."""
        one_sided = (chosen_c == 0) | (chosen_c == rows_c)
        return int(one_sided.sum()), float(np.abs(chosen_c - wish.share * rows_c).sum())

    chosen_c, chosen_g = np.zeros(num_classes, np.int64), np.zeros(len(counts_gc), np.bool_)
    for group in np.random.default_rng(wish.seed).permutation(len(counts_gc)):
        if distance(chosen_c + counts_gc[group]) < distance(chosen_c):
            chosen_c, chosen_g[group] = chosen_c + counts_gc[group], True
    return chosen_g[group_n]


def _check_class(name: str, held_out_n: npt.NDArray[np.bool_], wish: _Wish) -> None:
    """Refuse a class whose rows all lie on one side."""
    rows, held_out = len(held_out_n), int(held_out_n.sum())
    if 0 < held_out < rows:
        return
    lacking = "training" if held_out else wish.part
    why, or_else = "", ""
    if wish.by_group:
        why, or_else = ", since its recording groups cannot be parted", " or seed, or set by: random"
    raise UsageError(
        f"{wish.setting} leaves class '{name}' without {lacking} videos: "
        f"{held_out} of its {rows} are held out{why}",
        expected=f"training and {wish.part} videos of each class",
        action=f"change {wish.share_setting}{or_else}, or give more videos of the class",
    )


def _gives_nothing(wish: _Wish, of: str) -> UsageError:
    return UsageError(
        f"{wish.share_setting} {wish.share:g} gives nothing of {of}",
        expected="a share of at least one video",
        action="raise the share" + (", or remove data.validation" if wish.part == "validation" else ""),
    )
