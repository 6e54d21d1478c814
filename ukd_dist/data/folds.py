"""Folds of the training rows: what a teacher is not trained on, it judges as it would judge a new video.

Pure functions of labels, groups and settings: every architecture and modality has the same folds. Which
teacher leaves out which fold is the experiment's to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ukd_dist.data.strata import count_groups, shuffled_by_class
from ukd_dist.data_config import Folds
from ukd_dist.errors import UsageError

# A class seen in one recording only is learnt as its place and actor: logits of other folds are then
# systematically wrong (3 to 23% right on six classes of ARID, where chance is 17%).
_LEAST_GROUPS = 2


def assign_folds(
    labels_n: npt.NDArray[np.int64], groups: Sequence[str], folds: Folds, classes: Sequence[str]
) -> npt.NDArray[np.int64]:
    """The fold of each row, 0 to count - 1, int64 `[n]`.

    At random, the shuffled rows of class after class are dealt out in turn: the folds' counts differ by at
    most 1 in every class and over all rows. By group, whole groups go, the largest first, to the fold that
    has least of their classes.

    Args:
        labels_n: Class indexes.
        groups: Name of each row's recording group; not read by `by: random`.
        folds: Count, kind and seed.
        classes: Names by class index, for messages.

    Raises:
        UsageError: A fold would be empty, a class would keep too little to be learnt from where a fold is
            left out, or a row has no group.
    """
    if folds.by == "group":
        group_n, counts_gc = count_groups(labels_n, groups, len(classes), "data.folds.by")
        fold_g = _deal_groups(counts_gc, folds)
        _check_count(len(fold_g), folds, "recording groups")
        _check_groups(counts_gc > 0, fold_g, folds, classes)
        return fold_g[group_n]
    _check_count(len(labels_n), folds, "training videos")
    _check_rows(np.bincount(labels_n, minlength=len(classes)), classes)
    fold_n = np.empty(len(labels_n), np.int64)
    fold_n[shuffled_by_class(labels_n, folds.seed)] = np.arange(len(labels_n)) % folds.count
    return fold_n


def _deal_groups(counts_gc: npt.NDArray[np.int64], folds: Folds) -> npt.NDArray[np.int64]:
    """The fold of each group; of equally large ones, the order is random."""
    shares_gc = counts_gc / np.maximum(counts_gc.sum(axis=0), 1)
    order = np.random.default_rng(folds.seed).permutation(len(counts_gc))
    largest_first = order[np.argsort(-counts_gc[order].sum(axis=1), kind="stable")]
    fold_g = np.empty(len(counts_gc), np.int64)
    held_fc = np.zeros((folds.count, counts_gc.shape[1]))
    rows_f = np.zeros(folds.count, np.int64)
    for group in largest_first:
        fold = np.lexsort((rows_f, held_fc @ shares_gc[group]))[0]
        fold_g[group] = fold
        held_fc[fold] += shares_gc[group]
        rows_f[fold] += counts_gc[group].sum()
    return fold_g


def _check_count(units: int, folds: Folds, what: str) -> None:
    if units < folds.count:
        raise UsageError(
            f"data.folds.count is {folds.count}, but the training list has {units} {what}",
            expected="at least one for each fold",
            action="lower data.folds.count",
        )


def _check_groups(
    has_gc: npt.NDArray[np.bool_], fold_g: npt.NDArray[np.int64], folds: Folds, classes: Sequence[str]
) -> None:
    for fold in range(folds.count):
        kept_c = has_gc[fold_g != fold].sum(axis=0)
        for name, kept, groups in zip(classes, kept_c, has_gc.sum(axis=0), strict=True):
            if kept < _LEAST_GROUPS:
                raise UsageError(
                    f"class '{name}' keeps {kept} of its {groups} recording groups where fold {fold} of "
                    f"{folds.count} is left out (data.folds.by: group)",
                    expected=f"at least {_LEAST_GROUPS} groups with training videos of each class",
                    action="set data.folds.by: random, raise data.folds.count, or list more of its groups",
                )


def _check_rows(rows_c: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Two videos of a class lie in two folds; of one, the class is left out with its fold."""
    for name, rows in zip(classes, rows_c, strict=True):
        if rows < 2:
            raise UsageError(
                f"class '{name}' has {rows} training video, which one of data.folds would leave out",
                expected="at least 2",
                action="list more videos of the class, or remove data.folds",
            )
