"""How much one teacher's opinion of a video counts: the weights s_nk of Eq. 5-8, 11 and 12.

One teacher's logits and the labels in, one float64 weight a row out. A weight depends on nothing else, so
teachers can be weighed one at a time, anywhere and in any order. Left out: normalising over the teachers of a
video, which is `assembly`'s division, and weightings that compare teachers with each other.

A row's weight is the same bytes in whatever block of rows it comes and at any number of threads. Hence only
element-wise operations, maxima and `row_sums` here: the order in which torch's own sums add depends on the
shape of the block (along the first dimension) or on the number of threads (along a long last one).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ukd_dist.errors import DataError, UsageError

Method = Literal["pkd", "gtd", "avg"]
Space = Literal["logits", "probs"]

GTD_FLOOR = 1e-4
MAX_LOGIT = 2.0**29
_TILE_ELEMENTS = 1 << 17  # 1 MiB of float64: a tile stays in a core's cache, and calls cost little beside it


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How the opinions of several teachers become one target.

    Args:
        method: `pkd` (Eq. 11-12), `gtd` (Eq. 6-8) or `avg` (Eq. 5).
        h: Share of the preferred distribution on the true class, 1/C <= h < 1 (Eq. 11); `pkd` alone reads it.
        space: What is averaged: `logits`, or `probs`, softmax(z / temperature).
        temperature: tau of the probabilities, > 0. Belongs to `probs`: a target of logits serves every tau.
        floor: Least cross entropy, in nats, that a GTD weight is the inverse of; `gtd` alone reads it.

    Raises:
        UsageError: If a value is out of its range, or if the temperature and the space contradict each other.
    """

    method: Method
    h: float = 0.99
    space: Space = "logits"
    temperature: float | None = None
    floor: float = GTD_FLOOR

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("space", self.space, get_args(Space))
        _check_h(self.h)
        _check_floor(self.floor)
        _check_temperature(self.space, self.temperature)

    def check_classes(self, num_classes: int) -> None:
        """Refuses a number of classes that this weighting cannot serve.

        Raises:
            DataError: If there are fewer than 2 classes.
            UsageError: If h is less than 1/C.
        """
        _check_num_classes(num_classes)
        if self.method == "pkd":
            _check_h(self.h, num_classes)

    def weights(self, logits_nc: Tensor, labels_n: Tensor) -> Tensor:
        """Returns s_n, float64 [n], of one teacher's logits; see the function of the method."""
        match self.method:
            case "pkd":
                return pkd_weights(logits_nc, labels_n, self.h)
            case "gtd":
                return gtd_weights(logits_nc, labels_n, self.floor)
            case "avg":
                return average_weights(logits_nc, labels_n)


def pkd_weights(logits_nc: Tensor, labels_n: Tensor, h: float) -> Tensor:
    """Weighs by nearness to the preferred knowledge distribution: s = 1 / CE(pkd, softmax(z)).

    Eq. 11-12 of Jin et al., Unlimited Knowledge Distillation, at temperature 1, in closed form: with
    e = (1-h)/(C-1), CE = logsumexp(z) - (h-e) z_label - e sum(z). CE is at least the entropy of the PKD, so
    s is at most its inverse (12.7 for h = 0.99 and 11 classes).

    Args:
        logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
        labels_n: True classes, int64 [n].
        h: Share of the true class, 1/C <= h < 1.

    Returns:
        s_n, float64 [n], not normalised.

    Raises:
        UsageError: If h is out of range.
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    num_classes = logits_nc.shape[1]
    _check_h(h, num_classes)
    share = (1.0 - h) / (num_classes - 1)
    return _cross_entropies(logits_nc, labels_n, on_label=h - share, on_every=share).reciprocal_()


def gtd_weights(logits_nc: Tensor, labels_n: Tensor, floor: float = GTD_FLOOR) -> Tensor:
    """Weighs by nearness to the ground truth: s = 1 / max(CE(onehot, softmax(z)), floor).

    Eq. 6-8 of Jin et al., at temperature 1. The paper has no floor; without one the weight of a teacher that
    is sure of the truth has no bound. At the default of 1e-4 nat every teacher that gives the true class more
    than 0.9999 counts the same, 10,000 times as much as one at 1/e.

    Args:
        logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
        labels_n: True classes, int64 [n].
        floor: Least cross entropy in nats, > 0.

    Returns:
        s_n, float64 [n], not normalised.

    Raises:
        UsageError: If the floor is not positive.
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    _check_floor(floor)
    ce_n = _cross_entropies(logits_nc, labels_n, on_label=1.0, on_every=0.0)
    return ce_n.clamp_(min=floor).reciprocal_()


def average_weights(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
    """Weighs every teacher alike, s = 1 (Eq. 5 of Jin et al., AVG-2 in `space: probs`).

    Args:
        logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
        labels_n: True classes, int64 [n]; checked like the other weightings' and otherwise unused.

    Returns:
        s_n, ones, float64 [n].

    Raises:
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    return torch.ones(len(logits_nc), dtype=torch.float64)


def _cross_entropies(logits_nc: Tensor, labels_n: Tensor, *, on_label: float, on_every: float) -> Tensor:
    """Returns logsumexp(z) - on_label * z_label - on_every * sum(z), float64 [n]; shares that sum to 1."""
    ce_n = torch.empty(len(logits_nc), dtype=torch.float64)
    for rows in row_tiles(*logits_nc.shape):
        shifted_nc = less_row_max(logits_nc[rows])
        label_n = shifted_nc.gather(1, labels_n[rows, None]).squeeze(1)
        logsumexp_n = row_sums(shifted_nc.exp()).log()
        ce_n[rows] = logsumexp_n - on_label * label_n - on_every * row_sums(shifted_nc)
    return ce_n


def row_tiles(num_rows: int, num_classes: int) -> Iterator[slice]:
    """Yields consecutive slices of rows, each small enough for a core's cache."""
    step = max(1, _TILE_ELEMENTS // num_classes)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def less_row_max(logits_nc: Tensor) -> Tensor:
    """Returns the logits less the largest of their row, float64 [n, C], so that no exp of them overflows."""
    shifted_nc = logits_nc.detach().to(torch.float64, copy=True)
    return shifted_nc.sub_(shifted_nc.amax(dim=1, keepdim=True))


def row_sums(values: Tensor) -> Tensor:
    """Sums over the last dimension by adding its right half to its left until one column is left.

    Args:
        values: float64 [..., C]; overwritten.

    Returns:
        The sums [...]; each row's additions are the same ones in any block.
    """
    width = values.shape[-1]
    while width > 1:
        half = width // 2
        values[..., :half] += values[..., width - half : width]
        width -= half
    return values[..., 0]


def check_opinion(logits_nc: Tensor, labels_n: Tensor, *, first_row: int = 0) -> None:
    """Refuses logits and labels that cannot be weighed.

    Args:
        logits_nc: Expected float16, float32 or float64 [n, C], C >= 2, each finite and within +-2^29.
        labels_n: Expected int64 [n], 0 to C-1.
        first_row: Number of the block's first row, for messages.

    Raises:
        DataError: If they are not as expected; the message counts what is wrong and names the first row.
    """
    _check_form(logits_nc, labels_n)
    if len(logits_nc) == 0:
        return
    _check_labels(labels_n, logits_nc.shape[1], first_row)
    _check_values(logits_nc, first_row)


def _check_form(logits_nc: Tensor, labels_n: Tensor) -> None:
    if logits_nc.ndim != 2 or logits_nc.dtype not in (torch.float16, torch.float32, torch.float64):
        raise DataError(
            f"the logits are {logits_nc.dtype} {list(logits_nc.shape)}",
            expected="float16, float32 or float64 [rows, classes]",
            action="write this teacher's logits again",
        )
    _check_num_classes(logits_nc.shape[1])
    if labels_n.shape != logits_nc.shape[:1] or labels_n.dtype != torch.int64:
        raise DataError(
            f"the labels are {labels_n.dtype} {list(labels_n.shape)}",
            expected=f"torch.int64 [{len(logits_nc)}], one for each row of logits",
            action="give logits and labels of the same rows",
        )


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise DataError(
            f"there are logits for {num_classes} classes",
            expected="at least 2 classes",
            action="check the class list of the data and the teacher's last layer",
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


def _check_values(logits_nc: Tensor, first_row: int) -> None:
    lowest, highest = torch.aminmax(logits_nc)
    if lowest.item() > -MAX_LOGIT and highest.item() < MAX_LOGIT:  # both are NaN if any logit is
        return
    wrong_nc, what = ~logits_nc.isfinite(), "NaN or infinite"
    if not wrong_nc.any():
        wrong_nc, what = logits_nc.abs() >= MAX_LOGIT, "out of range"
    row = first_row + int(wrong_nc.nonzero()[0, 0])
    raise DataError(
        f"{int(wrong_nc.sum())} logits are {what}, the first in row {row}",
        expected="finite logits of less than 2^29",
        action="leave this teacher out or train it again",
    )


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(
            f"{field} {value!r} is unknown",
            expected=" or ".join(choices),
            action=f"choose a {field} among these",
        )


def _check_h(h: float, num_classes: int | None = None) -> None:
    least = 0.0 if num_classes is None else 1.0 / num_classes
    if not (0.0 < h < 1.0 and h >= least):
        raise UsageError(
            f"h is {h}",
            expected=f"1/C <= h < 1, where 1/C is {least:g}" if num_classes else "1/C <= h < 1",
            action="choose h within this range (the paper's is 0.99)",
        )


def _check_floor(floor: float) -> None:
    if not 0.0 < floor < float("inf"):
        raise UsageError(
            f"floor is {floor:g}",
            expected="a positive cross entropy in nats",
            action=f"choose a floor such as {GTD_FLOOR:g}",
        )


def _check_temperature(space: str, temperature: float | None) -> None:
    if space == "logits" and temperature is not None:
        raise UsageError(
            f"temperature is {temperature:g} in space 'logits'",
            expected="no temperature there: a target of logits serves every temperature",
            action="give the temperature to the student, or choose space 'probs'",
        )
    if space == "probs" and (temperature is None or not 0.0 < temperature < float("inf")):
        raise UsageError(
            f"temperature is {temperature} in space 'probs'",
            expected="a positive number: it is part of such a target",
            action="give the target a temperature (the paper's are 5 to 60)",
        )
