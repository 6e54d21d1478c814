"""Rows of logits: what they must be before anything is computed from them, and how kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ukd_dist.errors import DataError

MAX_LOGIT = 2.0**29


def as_array(logits_nc: Tensor) -> npt.NDArray[Any]:
    """Returns the logits as the kernels take them: float32 or float64, in rows."""
    logits_nc = logits_nc.detach()
    return (logits_nc.float() if logits_nc.dtype == torch.float16 else logits_nc).contiguous().numpy()


def check_opinion(logits_nc: Tensor, labels_n: Tensor, *, first_row: int = 0) -> float:
    """Refuses logits and labels that cannot be weighed.

    Args:
        logits_nc: Expected float16, float32 or float64 [n, C], C >= 2, each finite and within +-2^29.
        labels_n: Expected int64 [n], 0 to C-1.
        first_row: Number of the block's first row, for messages.

    Returns:
        The largest magnitude of a logit, 0 if there are no rows.

    Raises:
        DataError: If they are not as expected; the message counts what is wrong and names the first row.
    """
    _check_form(logits_nc, labels_n)
    if len(logits_nc) == 0:
        return 0.0
    _check_labels(labels_n, logits_nc.shape[1], first_row)
    largest = _largest_magnitude(as_array(logits_nc))
    if not largest < MAX_LOGIT:
        raise _not_weighable(logits_nc, first_row)
    return largest


def check_shape(logits_nc: Tensor, shape: tuple[int, int | None], what: str) -> None:
    """Refuses logits of other rows, or of other classes where their number is given.

    Args:
        logits_nc: Expected of this shape.
        shape: Rows and classes.
        what: What has this shape, for the message.

    Raises:
        DataError: If theirs differs.
    """
    num_rows, num_classes = shape
    if logits_nc.shape[:-1] != (num_rows,) or num_classes not in (None, logits_nc.shape[-1]):
        raise DataError(
            f"the logits' shape is {list(logits_nc.shape)}",
            expected=f"[{num_rows}, {'C' if num_classes is None else num_classes}], {what}",
            action="give logits of this data and this block",
        )


def covered_rows(covers_n: Tensor | None, num_rows: int) -> Tensor:
    """Returns which rows a teacher has an opinion on, bool [n]: all where nothing is said.

    Raises:
        DataError: If what is said is not bool [n].
    """
    if covers_n is None:
        return torch.ones(num_rows, dtype=torch.bool)
    if covers_n.dtype != torch.bool or covers_n.shape != (num_rows,):
        raise DataError(
            f"the covered rows are {covers_n.dtype} {list(covers_n.shape)}",
            expected=f"torch.bool [{num_rows}]",
            action="mark for each row of the block whether the teacher covers it",
        )
    return covers_n


def heard_logits(logits_nc: Tensor, covers_n: Tensor) -> Tensor:
    """Returns the logits with zeros where the teacher has no opinion: not even a NaN is read there."""
    return logits_nc if covers_n.all() else logits_nc.masked_fill(~covers_n.unsqueeze(1), 0.0)


def check_num_classes(num_classes: int) -> None:
    """Refuses fewer classes than 2.

    Raises:
        DataError: If there are fewer.
    """
    if num_classes < 2:
        raise DataError(
            f"there are logits for {num_classes} classes",
            expected="at least 2 classes",
            action="check the class list of the data and the teacher's last layer",
        )


def _check_form(logits_nc: Tensor, labels_n: Tensor) -> None:
    if logits_nc.ndim != 2 or logits_nc.dtype not in (torch.float16, torch.float32, torch.float64):
        raise DataError(
            f"the logits are {logits_nc.dtype} {list(logits_nc.shape)}",
            expected="float16, float32 or float64 [rows, classes]",
            action="write this teacher's logits again",
        )
    check_num_classes(logits_nc.shape[1])
    if labels_n.shape != logits_nc.shape[:1] or labels_n.dtype != torch.int64:
        raise DataError(
            f"the labels are {labels_n.dtype} {list(labels_n.shape)}",
            expected=f"torch.int64 [{len(logits_nc)}], one for each row of logits",
            action="give logits and labels of the same rows",
        )


def _check_labels(labels_n: Tensor, num_classes: int, first_row: int) -> None:
    wrong_n = (labels_n < 0) | (labels_n >= num_classes)
    if wrong_n.any():
        row = int(wrong_n.nonzero()[0])
        raise DataError(
            f"{int(wrong_n.sum())} labels are no class of these logits, the first in row {first_row + row}: "
            f"{int(labels_n[row])}",
            expected=f"labels from 0 to {num_classes - 1}",
            action="use logits and labels of the same data",
        )


def _largest_magnitude(logits: npt.NDArray[Any]) -> float:
    """Returns the largest |z|; NaN or infinity if any logit is."""
    from ukd_dist.method import kernels

    integers = np.int32 if logits.dtype == np.float32 else np.int64
    bits = kernels.largest_bits(logits.reshape(-1).view(integers), np.iinfo(integers).max)
    return float(integers(bits).view(logits.dtype))


def _not_weighable(logits_nc: Tensor, first_row: int) -> DataError:
    wrong_nc, what = ~logits_nc.isfinite(), "NaN or infinite"
    if not wrong_nc.any():
        wrong_nc, what = logits_nc.abs() >= MAX_LOGIT, "out of range"
    row = first_row + int(wrong_nc.nonzero()[0, 0])
    return DataError(
        f"{int(wrong_nc.sum())} logits are {what}, the first in row {row}",
        expected="finite logits of less than 2^29",
        action="leave this teacher out or train it again",
    )
