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
from ukd_dist.method.fixedpoint import MAX_TERM, MAX_TERMS, ExactSum
from ukd_dist.method.rows import check_opinion, covered_rows, heard_logits
from ukd_dist.method.weighting import Weighting, softened_entropies


def observe(
    weighting: Weighting,
    logits_nc: Tensor,
    labels_n: Tensor,
    reference_n: Tensor,
    covers_n: Tensor | None = None,
    *,
    first_row: int = 0,
) -> None:
    """Lets the reference of a weighting that compares see one teacher, in any order.

    References of several groups of teachers are merged by their element-wise maximum.

    Args:
        weighting: One whose `compares` is true.
        logits_nc: The teacher's logits [n, C].
        labels_n: True classes, int64 [n].
        reference_n: The largest score so far, float64 [n], -inf at first; raised in place.
        covers_n: Rows that it has an opinion on, bool [n]; all by default.
        first_row: Number of the block's first row, for messages.

    Raises:
        DataError: If the logits, labels or rows are not as described. The reference is as before then.
    """
    if logits_nc.shape[:-1] != reference_n.shape:
        raise _of_other_rows(logits_nc, f"[{len(reference_n)}, C], the reference's rows")
    covers_n = covered_rows(covers_n, len(reference_n))
    logits_nc = heard_logits(logits_nc, covers_n)
    check_opinion(logits_nc, labels_n, first_row=first_row)
    scores_n = weighting.scores(logits_nc, labels_n)
    torch.maximum(reference_n, scores_n.masked_fill_(~covers_n, -torch.inf), out=reference_n)


class Assembly:
    """The running sums of a block of rows.

    Args:
        weighting: How opinions are weighed and in which space they are averaged.
        num_rows: Rows n of the block.
        num_classes: Classes C.
        first_row: Number of the block's first row within its split, for messages and for `merge`.
        reference_n: Of a weighting that compares: what `observe` made of every teacher to come, [n].

    Attributes:
        numerators: Of each coefficient a: sum_k a_nk x_nk, of terms [n, C].
        denominators: Of each coefficient a: sum_k a_nk, of terms [n].
        entropy: Of `avg1`: sum_k H(softmax(z_nk / tau)), of terms [n].
        opinions: Teachers that each row was given, int64 [n].

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
        if weighting.compares and reference_n is None:
            raise UsageError(
                f"'{weighting.method}' compares teachers, and there is no reference",
                expected="the reference that every teacher was observed for",
                action="call `observe` with every teacher first",
            )
        self.weighting = weighting
        self.first_row = first_row
        self.reference_n = reference_n if weighting.compares else None
        sums = 2 if weighting.complements else 1
        self.numerators = [ExactSum(num_rows, num_classes) for _ in range(sums)]
        self.denominators = [ExactSum(num_rows) for _ in range(sums)]
        self.entropy = ExactSum(num_rows) if weighting.method == "avg1" else None
        self.opinions = torch.zeros(num_rows, dtype=torch.int64)

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
        empty_n = self.opinions == 0
        if any(total.limbs[:, empty_n].any() for total in self._sums()):
            self._apply(1, logits_nc, labels_n, covers_n)
            raise _never_added()

    def merge(self, other: Assembly) -> None:
        """Adds the teachers of another partial sum over the same rows.

        Raises:
            MismatchError: If the two differ in weighting, rows, classes or reference; names the first.
            DataError: If a row would have too many teachers. Nothing is merged then.
        """
        self._check_same(other)
        opinions_n = self.opinions + other.opinions
        self._check_count(opinions_n)
        for ours, theirs in zip(self._sums(), other._sums(), strict=True):
            ours.merge(theirs)
        self.opinions = opinions_n

    def finish(self) -> Tensor:
        """Returns the target, float32 [n, C]: logits, or probabilities at the weighting's temperature.

        The sums stay as they are: more teachers may come afterwards.

        Raises:
            DataError: If no teacher covers a row; the message counts such rows and lists the first ones. Of
                a weighting that compares, also if a row misses the teacher that made its reference: if nobody
                is best, or the doubts of those who were added sum to less than 1.
        """
        self._check_taught()
        total_nc, total_n = self.numerators[0].value(), self.denominators[0].value().unsqueeze(1)
        if self.weighting.complements:
            # K >= 2: sum_k (1 - a_k / A) x_k / (K - 1); one teacher's opinion is the target itself.
            less_nc = self.numerators[1].value() / self.denominators[1].value().unsqueeze(1)
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
        assert self.entropy is not None, "only avg1 sums entropies"
        self._check_taught()
        return self.entropy.value() / self.denominators[0].value()

    def totals(self) -> tuple[Tensor, ...]:
        """Returns the sum of each coefficient, float64 [n]: what `Weighting.weights` divides by."""
        return tuple(denominator.value() for denominator in self.denominators)

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the sums as named int64 tensors, rows first: what `restore` takes them back from.

        The reference of a weighting that compares is not among them: it is the caller's.
        """
        named = {f"sum{number}": total.limbs.movedim(0, 1) for number, total in enumerate(self._sums())}
        named["opinions"] = self.opinions
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in named.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes the sums of `state`, which stays as it is, in place of its own."""
        for number, total in enumerate(self._sums()):
            limbs = state[f"sum{number}"].movedim(1, 0)
            total.limbs = limbs.clone(memory_format=torch.contiguous_format)
        self.opinions = state["opinions"].clone()

    def _sums(self) -> list[ExactSum]:
        return [*self.numerators, *self.denominators, *([self.entropy] if self.entropy else [])]

    def _apply(
        self,
        sign: int,
        logits_nc: Tensor,
        labels_n: Tensor,
        covers_n: Tensor | None,
        scale: float = 1.0,
    ) -> None:
        # Everything is checked before anything is summed: an error leaves the sums as they were.
        if list(logits_nc.shape) != self._shape():
            raise _of_other_rows(logits_nc, f"{self._shape()}, the block's rows and classes")
        if covers_n is not None:
            covers_n = covered_rows(covers_n, len(self.opinions))
            logits_nc = heard_logits(logits_nc, covers_n)
        largest = check_opinion(logits_nc, labels_n, first_row=self.first_row)
        opinions_n = self.opinions + (sign if covers_n is None else sign * covers_n)
        self._check_count(opinions_n)
        coefficients = self.weighting.coefficients(
            logits_nc, labels_n, self._lead(logits_nc, labels_n, covers_n)
        )
        if scale != 1.0:
            coefficients = tuple(coefficient_n.mul_(scale) for coefficient_n in coefficients)
        if covers_n is not None:
            coefficients = tuple(coefficient_n.mul_(covers_n) for coefficient_n in coefficients)
        self._check_range(logits_nc, coefficients, largest)
        temperature = self.weighting.temperature
        for numerator, coefficient_n in zip(self.numerators, coefficients, strict=True):
            if temperature is None:
                numerator.add_logits(logits_nc, coefficient_n, sign)
            else:
                numerator.add_probs(logits_nc, temperature, coefficient_n, sign)
        if self.entropy is not None:
            assert temperature is not None
            entropy_n = softened_entropies(logits_nc, temperature)
            self.entropy.add(entropy_n if covers_n is None else entropy_n.mul_(covers_n), sign)
        for denominator, coefficient_n in zip(self.denominators, coefficients, strict=True):
            denominator.add(coefficient_n, sign)
        self.opinions = opinions_n

    def _lead(self, logits_nc: Tensor, labels_n: Tensor, covers_n: Tensor | None) -> Tensor | None:
        if self.reference_n is None:
            return None
        lead_n = self.weighting.scores(logits_nc, labels_n) - self.reference_n
        if covers_n is not None:
            lead_n.masked_fill_(~covers_n, 0.0)
        if (lead_n > 0.0).any():
            raise DataError(
                f"a teacher leads in row {self.first_row + int(lead_n.argmax())} that was not observed",
                expected="a reference that has seen every teacher",
                action="observe every teacher before the first is added",
            )
        return lead_n

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

    def _check_range(self, logits_nc: Tensor, coefficients: tuple[Tensor, ...], largest: float) -> None:
        if len(logits_nc) == 0:
            return
        in_logits = self.weighting.space == "logits"
        for coefficient_n in coefficients:
            if float(coefficient_n.max()) * (max(largest, 1.0) if in_logits else 1.0) < MAX_TERM:
                continue  # so is every row's own
            largest_n = coefficient_n
            if in_logits:
                largest_n = coefficient_n * logits_nc.abs().amax(dim=1).clamp(min=1.0)
            if (largest_n >= MAX_TERM).any():
                row = int(largest_n.argmax())
                raise DataError(
                    f"a weighted logit of row {self.first_row + row} is {float(largest_n[row]):g} (its "
                    f"weight is {float(coefficient_n[row]):g})",
                    expected="less than 2^29, what the exact sums have room for",
                    action="choose h further from 1 or a larger floor, or check the teacher's logits",
                )

    def _check_same(self, other: Assembly) -> None:
        for field, ours, theirs in (
            ("weighting", self.weighting, other.weighting),
            ("first row", self.first_row, other.first_row),
            ("rows and classes", self._shape(), other._shape()),
        ):
            if ours != theirs:
                raise MismatchError(
                    f"partial sums differ in {field}: {theirs}",
                    expected=f"{ours}",
                    action="merge sums of the same target and rows",
                )
        if self.reference_n is not None and other.reference_n is not None:
            differing = int((self.reference_n != other.reference_n).sum())
            if differing:
                raise MismatchError(
                    f"partial sums differ in the reference of {differing} rows",
                    expected="one reference, for which the teachers of both were observed",
                    action="observe the teachers of all parts before adding any",
                )

    def _shape(self) -> list[int]:
        return list(self.numerators[0].limbs.shape[1:])

    def _check_taught(self) -> None:
        untaught = ((self.opinions == 0).nonzero().squeeze(1) + self.first_row).tolist()
        if untaught:
            shown = ", ".join(map(str, untaught[:10])) + (", ..." if len(untaught) > 10 else "")
            raise DataError(
                f"no teacher covers {len(untaught)} of {len(self.opinions)} rows: {shown}",
                expected="at least one opinion on every row",
                action="add a teacher that covers them",
            )
        leaderless_n = self.denominators[-1].value() < 1.0
        if self.weighting.compares and leaderless_n.any():
            row = self.first_row + int(leaderless_n.nonzero()[0])
            raise DataError(
                f"the teacher that leads in row {row} was observed and not added",
                expected="a reference of the teachers that are added, and of no other",
                action="add every teacher that was observed, or observe anew those that are to be added",
            )


def _of_other_rows(logits_nc: Tensor, expected: str) -> DataError:
    return DataError(
        f"the logits' shape is {list(logits_nc.shape)}",
        expected=expected,
        action="give logits of this data and this block",
    )


def _never_added() -> DataError:
    return DataError(
        "a teacher was to be removed that is not in these sums",
        expected="the same logits, labels and rows as when it was added",
        action="assemble again from the teachers that should remain",
    )
