"""Rows by class and by recording group: what the splits and the folds are dealt out of.

A group's name counts over all classes, since a place and an actor may be common to them: where names are
counted a class instead, fewer and larger units are dealt out, and still no recording lies on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ukd_dist.errors import UsageError


def shuffled_by_class(labels_n: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Every row number once, int64 `[n]`: class after class, in random order within each."""
    order = np.random.default_rng(seed).permutation(len(labels_n))
    return order[np.argsort(labels_n[order], kind="stable")]


def count_groups(
    labels_n: npt.NDArray[np.int64],
    groups: Sequence[str],
    num_classes: int,
    setting: str,
    videos: str = "training videos",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The group of each row, int64 `[n]`, and the rows of each group and class, int64 `[groups, classes]`.

    Args:
        labels_n: Class indexes.
        groups: Name of each row's recording group; groups are numbered by name.
        num_classes: Number of classes.
        setting: Which setting asks for groups, for the message.
        videos: What the rows are, for the message.

    Raises:
        UsageError: A row has no group.
    """
    if nameless := sum(not group for group in groups):
        raise UsageError(
            f"{setting} is group, but {nameless} of {len(groups)} {videos} carry no group",
            expected="names with a recording group, for example Walk_3_12.mp4",
            action=f"set {setting}: random, rename the videos, or (source: folder or csv) "
            "give data.group_pattern",
        )
    names, group_n = np.unique(np.array(groups), return_inverse=True)
    counts_gc = np.zeros((len(names), num_classes), np.int64)
    np.add.at(counts_gc, (group_n, labels_n), 1)
    return group_n.astype(np.int64), counts_gc
