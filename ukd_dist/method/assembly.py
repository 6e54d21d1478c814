"""Many teachers' opinions become one target: Eq. 9, as exact running sums.

A target is sum_k s_nk x_nk / sum_k s_nk, where s are the weights of `weighting` and x are logits or
probabilities. Both sums are kept as integers (fixed point), so that every history of adding, merging and
removing teachers ends in the same bytes, a teacher costs the same whether it is the first or the thousandth,
and partial sums of different machines merge. Left out: which file the logits come from, and which teacher was
trained on what; a caller says with `covers_n` which rows a teacher speaks to.

A value x is held in two int64 limbs: high = round(x * 2^14) and low = round((x * 2^14 - high) * 2^43). The
resolution is 2^-57. |x| < 2^29 and fewer than 2^20 teachers keep each limb's sum within 63 bits, so limbs are
summed without carrying and cannot wrap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ukd_dist.errors import DataError, MismatchError
from ukd_dist.method.rows import check_opinion, less_row_max, row_sums, row_tiles
from ukd_dist.method.weighting import Weighting

HIGH_BITS = 14
LOW_BITS = 43
MAX_TERM = 2.0**29
MAX_OPINIONS = 2**20 - 1


class Assembly:
    """The running sums of a block of rows.

    Args:
        weighting: How opinions are weighed and in which space they are averaged.
        num_rows: Rows n of the block.
        num_classes: Classes C.
        first_row: Number of the block's first row within its split, for messages and for `merge`.

    Attributes:
        numerator: sum_k s_nk x_nk in limbs, int64 [n, C, 2].
        denominator: sum_k s_nk in limbs, int64 [n, 2].
        opinions: Teachers that each row was given, int64 [n].

    Raises:
        DataError: If there are fewer than 2 classes.
        UsageError: If the weighting's h is less than 1/C.
    """

    def __init__(self, weighting: Weighting, num_rows: int, num_classes: int, *, first_row: int = 0) -> None:
        weighting.check_classes(num_classes)
        self.weighting = weighting
        self.first_row = first_row
        self.numerator = torch.zeros(num_rows, num_classes, 2, dtype=torch.int64)
        self.denominator = torch.zeros(num_rows, 2, dtype=torch.int64)
        self.opinions = torch.zeros(num_rows, dtype=torch.int64)

    def add(self, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None = None) -> None:
        """Adds one teacher.

        Args:
            logits_nc: Its logits, float16, float32 or float64 [n, C].
            labels_n: True classes of the rows, int64 [n].
            covers_n: Rows that it has an opinion on, bool [n]; all by default. Its other logits are not read.

        Raises:
            DataError: If the logits, labels or rows are not as described, if a weighted logit is beyond the
                fixed point's range, or if a row has its 2^20 - 1 teachers. Nothing is added then.
        """
        self._apply(1, logits_nc, labels_n, covers_n)

    def remove(self, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None = None) -> None:
        """Takes out one teacher that was added with the same logits, labels and rows; arguments as in `add`.

        Sums do not remember their terms. That the teacher was never in is noticed only where a row loses its
        last opinion and something is left over.

        Raises:
            DataError: As `add`, or if the teacher cannot have been added. Nothing is removed then.
        """
        self._apply(-1, logits_nc, labels_n, covers_n)
        empty_n = self.opinions == 0
        if self.numerator[empty_n].any() or self.denominator[empty_n].any():
            self._apply(1, logits_nc, labels_n, covers_n)
            raise _never_added()

    def merge(self, other: Assembly) -> None:
        """Adds the teachers of another partial sum over the same rows.

        Raises:
            MismatchError: If the two differ in weighting, rows or classes; the first difference is named.
            DataError: If a row would have 2^20 teachers or more. Nothing is merged then.
        """
        self._check_same(other)
        opinions_n = self.opinions + other.opinions
        self._check_count(opinions_n)
        self.numerator += other.numerator
        self.denominator += other.denominator
        self.opinions = opinions_n

    def finish(self) -> Tensor:
        """Returns the target, float32 [n, C]: logits, or probabilities at the weighting's temperature.

        The sums stay as they are: more teachers may come afterwards.

        Raises:
            DataError: If no teacher covers a row; the message counts such rows and lists the first ones.
        """
        self._check_taught()
        target_nc = _to_float(self.numerator) / _to_float(self.denominator).unsqueeze(1)
        return target_nc.to(torch.float32)

    def _apply(self, sign: int, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None) -> None:
        # Everything is checked before anything is summed: an error leaves the sums as they were.
        covers_n = self._covers(covers_n)
        logits_nc = self._heard(logits_nc, covers_n)
        check_opinion(logits_nc, labels_n, first_row=self.first_row)
        opinions_n = self.opinions + sign * covers_n
        self._check_count(opinions_n)
        weights_n = self.weighting.weights(logits_nc, labels_n) * covers_n
        self._check_range(logits_nc, weights_n)
        for rows in row_tiles(*logits_nc.shape):
            terms_nc = _knowledge(self.weighting, logits_nc[rows]).mul_(weights_n[rows, None])
            _accumulate(self.numerator[rows], terms_nc, sign)
        _accumulate(self.denominator, weights_n, sign)
        self.opinions = opinions_n

    def _covers(self, covers_n: Tensor | None) -> Tensor:
        if covers_n is None:
            return torch.ones(len(self.opinions), dtype=torch.bool)
        if covers_n.dtype != torch.bool or covers_n.shape != self.opinions.shape:
            raise DataError(
                f"the covered rows are {covers_n.dtype} {list(covers_n.shape)}",
                expected=f"torch.bool [{len(self.opinions)}]",
                action="mark for each row of the block whether the teacher covers it",
            )
        return covers_n

    def _heard(self, logits_nc: Tensor, covers_n: Tensor) -> Tensor:
        """Returns the logits with zeros where the teacher has no opinion: not even a NaN is read there."""
        if logits_nc.shape != self.numerator.shape[:2]:
            raise DataError(
                f"the logits' shape is {list(logits_nc.shape)}",
                expected=f"{list(self.numerator.shape[:2])}, the block's rows and classes",
                action="give logits of this data and this block",
            )
        return logits_nc if covers_n.all() else logits_nc.masked_fill(~covers_n.unsqueeze(1), 0.0)

    def _check_count(self, opinions_n: Tensor) -> None:
        if (opinions_n < 0).any():
            raise _never_added()
        if (opinions_n > MAX_OPINIONS).any():
            row = int(opinions_n.argmax())
            raise DataError(
                f"row {self.first_row + row} would have {int(opinions_n[row])} teachers",
                expected=f"at most {MAX_OPINIONS}, what the exact sums have room for",
                action="assemble fewer teachers",
            )

    def _check_range(self, logits_nc: Tensor, weights_n: Tensor) -> None:
        largest_n = weights_n
        if self.weighting.space == "logits":
            largest_n = weights_n * logits_nc.abs().amax(dim=1).clamp(min=1.0)
        if (largest_n >= MAX_TERM).any():
            row = int(largest_n.argmax())
            raise DataError(
                f"a weighted logit of row {self.first_row + row} is {float(largest_n[row]):g} (its weight is "
                f"{float(weights_n[row]):g})",
                expected="less than 2^29, what the exact sums have room for",
                action="choose h further from 1 or a larger floor, or check the teacher's logits",
            )

    def _check_same(self, other: Assembly) -> None:
        for field, ours, theirs in (
            ("weighting", self.weighting, other.weighting),
            ("first row", self.first_row, other.first_row),
            ("rows and classes", list(self.numerator.shape[:2]), list(other.numerator.shape[:2])),
        ):
            if ours != theirs:
                raise MismatchError(
                    f"partial sums differ in {field}: {theirs}",
                    expected=f"{ours}",
                    action="merge sums of the same target and rows",
                )

    def _check_taught(self) -> None:
        untaught = ((self.opinions == 0).nonzero().squeeze(1) + self.first_row).tolist()
        if untaught:
            shown = ", ".join(map(str, untaught[:10])) + (", ..." if len(untaught) > 10 else "")
            raise DataError(
                f"no teacher covers {len(untaught)} of {len(self.opinions)} rows: {shown}",
                expected="at least one opinion on every row",
                action="add a teacher that covers them",
            )


def _knowledge(weighting: Weighting, logits_nc: Tensor) -> Tensor:
    """Returns what Eq. 9 weighs and sums, in a new float64 [n, C]: z, or softmax(z / tau)."""
    if weighting.temperature is None:
        return logits_nc.detach().to(torch.float64, copy=True)
    probs_nc = less_row_max(logits_nc).div_(weighting.temperature).exp_()
    return probs_nc.div_(row_sums(probs_nc.clone()).unsqueeze(1))


def _accumulate(limbs: Tensor, terms: Tensor, sign: int) -> None:
    """Adds sign * terms to limbs [..., 2] in place; overwrites terms. Only the last rounding is inexact."""
    scaled = terms.mul_(2.0**HIGH_BITS)
    high = scaled.round()
    low = scaled.sub_(high).mul_(2.0**LOW_BITS).round_()
    limbs[..., 0].add_(high.to(torch.int64), alpha=sign)
    limbs[..., 1].add_(low.to(torch.int64), alpha=sign)


def _to_float(limbs: Tensor) -> Tensor:
    """Returns the values of limbs [..., 2] as float64 [...], as exact as float64 is.

    The low limbs of K teachers are worth at most K * 2^-15: rounding them loses no more than K * 2^-68.
    """
    high, low = limbs.unbind(-1)
    return high.double() * 2.0**-HIGH_BITS + low.double() * 2.0 ** -(HIGH_BITS + LOW_BITS)


def _never_added() -> DataError:
    return DataError(
        "a teacher was to be removed that is not in these sums",
        expected="the same logits, labels and rows as when it was added",
        action="assemble again from the teachers that should remain",
    )
