"""Many teachers' opinions become one target: Eq. 9, as exact running sums.

A target is sum_k s_nk x_nk / sum_k s_nk, where s are the weights of `weighting` and x are logits or
probabilities. Both sums are kept in fixed point, so that every history of adding, merging and removing
teachers ends in the same bytes, a teacher costs the same whether it is the first or the thousandth, and
partial sums of different machines merge. Left out: which file the logits come from, and which teacher was
trained on what; a caller says with `covers_n` which rows a teacher speaks to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.method.fixedpoint import MAX_TERMS, check_terms
from ukd_dist.method.reference import check_led, check_same_reference, lead, needed_reference
from ukd_dist.method.rows import check_opinion, check_shape, covered_rows, heard_logits
from ukd_dist.method.sums import RunningSums
from ukd_dist.method.weighting import Weighting


class Assembly:
    """The target of a block of rows, and what its teachers sum to.

    Args:
        weighting: How opinions are weighed and in which space they are averaged.
        num_rows: Rows n of the block.
        num_classes: Classes C.
        first_row: Number of the block's first row within its split, for messages and for `merge`.
        reference_n: Of a weighting that compares: what `observe` made of every teacher to come, [n].

    Attributes:
        sums: The running sums. The reference is not among them: it is the caller's.

    Raises:
        DataError: If there are fewer than 2 classes.
        UsageError: If the weighting's h is less than 1/C, or it compares and is given no reference.
    """

    def __init__(
        self,
        weighting: Weighting,
        num_rows: int,
        num_classes: int,
        *,
        first_row: int = 0,
        reference_n: Tensor | None = None,
    ) -> None:
        weighting.check_classes(num_classes)
        self.weighting = weighting
        self.first_row = first_row
        self.reference_n = needed_reference(weighting, reference_n)
        self.sums = RunningSums(weighting, num_rows, num_classes)

    def add(
        self,
        logits_nc: Tensor,
        labels_n: Tensor,
        covers_n: Tensor | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        """Adds one teacher.

        Args:
            logits_nc: Its logits, float16, float32 or float64 [n, C].
            labels_n: True classes of the rows, int64 [n].
            covers_n: Rows that it has an opinion on, bool [n]; all by default. Its other logits are not read.
            scale: Its coefficients are multiplied by this, > 0. With `avg`, a weight of its own on every row.

        Raises:
            DataError: If the logits, labels or rows are not as described, if a weighted logit is beyond the
                fixed point's range, if a row has its 2^20 - 1 teachers (of `single`: one), or if the
                weighting compares and was not shown this teacher. Nothing is added then.
        """
        self._apply(1, logits_nc, labels_n, covers_n, scale)

    def remove(self, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None = None) -> None:
        """Takes out one teacher that was added with the same logits, labels and rows; arguments as in `add`.

        Sums do not remember their terms. That the teacher was never in is noticed only where a row loses its
        last opinion and something is left over.

        Raises:
            UsageError: If the weighting compares: its other weights would change.
            DataError: As `add`, or if the teacher cannot have been added. Nothing is removed then.
        """
        if self.weighting.compares:
            raise UsageError(
                f"a teacher is to be removed from a target of method '{self.weighting.method}'",
                expected="a weighting that weighs each teacher by itself: here the others' weights change",
                action="assemble again from the teachers that should remain",
            )
        self._apply(-1, logits_nc, labels_n, covers_n)
        if self.sums.left_over():
            self._apply(1, logits_nc, labels_n, covers_n)
            raise _never_added()

    def merge(self, other: Assembly) -> None:
        """Adds the teachers of another partial sum over the same rows.

        Raises:
            MismatchError: If the two differ in weighting, rows, classes or reference; names the first.
            DataError: If a row would have too many teachers. Nothing is merged then.
        """
        self._check_same(other)
        self._check_count(self.sums.opinions + other.sums.opinions)
        self.sums.merge(other.sums)

    def finish(self) -> Tensor:
        """Returns the target, float32 [n, C]: logits, or probabilities at the weighting's temperature.

        The sums stay as they are: more teachers may come afterwards.

        Raises:
            DataError: If no teacher covers a row; the message counts such rows and lists the first ones. Of
                a weighting that compares, also if a row misses the teacher that made its reference: if nobody
                is best, or the doubts of those who were added sum to less than 1.
        """
        self._check_taught()
        numerators, denominators = self.sums.numerators, self.sums.denominators
        total_nc, total_n = numerators[0].value(), denominators[0].value().unsqueeze(1)
        if self.weighting.complements:
            # K >= 2: sum_k (1 - a_k / A) x_k / (K - 1); one teacher's opinion is the target itself.
            less_nc = numerators[1].value() / denominators[1].value().unsqueeze(1)
            total_nc = torch.where(total_n > 1, total_nc - less_nc, total_nc)
            total_n = (total_n - 1).clamp_(min=1)
        target_nc = total_nc.div_(total_n).to(torch.float32)
        # A difference of rounded sums: of a probability near 0 it may be below 0, where a KL is NaN.
        return target_nc if self.weighting.space == "logits" else target_nc.clamp_(min=0)

    def mean_entropies(self) -> Tensor:
        """Returns, of `avg1`, the mean entropy of each row's teachers at tau in nats, float64 [n].

        (1/K) sum_k KL(q_k || p) = CE(mean_k q_k, p) - (1/K) sum_k H(q_k): with the target, all that Eq. 4
        needs of its teachers.
        """
        assert self.sums.entropy is not None, "only avg1 sums entropies"
        self._check_taught()
        return self.sums.entropy.value() / self.sums.denominators[0].value()

    def totals(self) -> tuple[Tensor, ...]:
        """Returns the sum of each coefficient, float64 [n]: what `Weighting.weights` divides by."""
        return tuple(denominator.value() for denominator in self.sums.denominators)

    def _apply(
        self, sign: int, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None, scale: float = 1.0
    ) -> None:
        # Everything is checked before anything is summed: an error leaves the sums as they were.
        check_shape(logits_nc, self.sums.shape, "the block's rows and classes")
        if covers_n is not None:
            covers_n = covered_rows(covers_n, len(logits_nc))
            logits_nc = heard_logits(logits_nc, covers_n)
        largest = check_opinion(logits_nc, labels_n, first_row=self.first_row)
        self._check_count(self.sums.opinions + (sign if covers_n is None else sign * covers_n))
        coefficients = self._coefficients(logits_nc, labels_n, covers_n, scale)
        summed_nc = logits_nc if self.weighting.space == "logits" else None
        for coefficient_n in coefficients:
            check_terms(coefficient_n, summed_nc, largest, first_row=self.first_row)
        self.sums.add(sign, logits_nc, coefficients, covers_n)

    def _coefficients(
        self, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None, scale: float
    ) -> tuple[Tensor, ...]:
        """What the opinions are multiplied by: 0 on rows without one."""
        lead_n, reference_n = None, self.reference_n
        if reference_n is not None:
            lead_n = lead(
                self.weighting, logits_nc, labels_n, reference_n, covers_n, first_row=self.first_row
            )
        coefficients = self.weighting.coefficients(logits_nc, labels_n, lead_n)
        for coefficient_n in coefficients:
            coefficient_n.mul_(scale)
            if covers_n is not None:
                coefficient_n.mul_(covers_n)
        return coefficients

    def _check_count(self, opinions_n: Tensor) -> None:
        if (opinions_n < 0).any():
            raise _never_added()
        most = 1 if self.weighting.method == "single" else MAX_TERMS
        if (opinions_n > most).any():
            row, why = int(opinions_n.argmax()), "what the exact sums have room for"
            raise DataError(
                f"row {self.first_row + row} would have {int(opinions_n[row])} teachers",
                expected="one, as the method says" if most == 1 else f"at most {most}, {why}",
                action="assemble fewer teachers",
            )

    def _check_same(self, other: Assembly) -> None:
        for field, ours, theirs in (
            ("weighting", self.weighting, other.weighting),
            ("first row", self.first_row, other.first_row),
            ("rows and classes", list(self.sums.shape), list(other.sums.shape)),
        ):
            if ours != theirs:
                raise MismatchError(
                    f"partial sums differ in {field}: {theirs}",
                    expected=f"{ours}",
                    action="merge sums of the same target and rows",
                )
        check_same_reference(self.reference_n, other.reference_n)

    def _check_taught(self) -> None:
        untaught = ((self.sums.opinions == 0).nonzero().squeeze(1) + self.first_row).tolist()
        if untaught:
            shown = ", ".join(map(str, untaught[:10])) + (", ..." if len(untaught) > 10 else "")
            raise DataError(
                f"no teacher covers {len(untaught)} of {len(self.sums.opinions)} rows: {shown}",
                expected="at least one opinion on every row",
                action="add a teacher that covers them",
            )
        if self.weighting.compares:
            check_led(self.sums.denominators[-1].value(), first_row=self.first_row)


def _never_added() -> DataError:
    return DataError(
        "a teacher was to be removed that is not in these sums",
        expected="the same logits, labels and rows as when it was added",
        action="assemble again from the teachers that should remain",
    )
