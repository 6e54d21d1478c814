"""How much one teacher's opinion of a video counts: UKD's weights, and those that they are compared with.

A weighting names its method and what the method needs. Most weights depend on one teacher's logits and the
labels alone, so teachers can be weighed one at a time, anywhere and in any order; those of `best` and
`confidence` compare a teacher with the others, through the `reference`. Left out: the formulas, which are
`similarity`'s, and normalising over the teachers of a video, which is `assembly`'s division.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ukd_dist.errors import UsageError
from ukd_dist.method.rows import check_num_classes, check_opinion
from ukd_dist.method.similarity import (
    average_weights,
    entropies,
    gtd_weights,
    pkd_weights,
    truth_cross_entropies,
)

Method = Literal["pkd", "gtd", "avg", "avg1", "single", "best", "entropy", "confidence"]
Space = Literal["logits", "probs"]

GTD_FLOOR = 1e-4
ENTROPY_FLOOR = 1e-8
BEST_MARGIN = 1e-9  # nats; two ways of summing the same exponentials differ by less


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How the opinions of several teachers become one target.

    Args:
        method: `pkd` (Eq. 11-12), `gtd` (Eq. 6-8), `avg` (Eq. 5), `avg1` (Eq. 4), `single` (one teacher),
            `best` (the teacher nearest to the truth, video by video), `entropy` (EBKD) or `confidence`
            (CA-MKD).
        h: Share of the preferred distribution on the true class, 1/C <= h < 1 (Eq. 11); `pkd` alone reads it.
        space: What is averaged: `logits`, or `probs`, softmax(z / temperature).
        temperature: tau of the probabilities, > 0. Belongs to `probs`: a target of logits serves every tau.
        floor: Least cross entropy, in nats, that a GTD weight is the inverse of; `gtd` alone reads it.

    Raises:
        UsageError: If a value is out of its range, or if method, space and temperature contradict each other.
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
        _check_temperature(self.method, self.space, self.temperature)

    def check_classes(self, num_classes: int) -> None:
        """Refuses a number of classes that this weighting cannot serve.

        Raises:
            DataError: If there are fewer than 2 classes.
            UsageError: If h is less than 1/C.
        """
        check_num_classes(num_classes)
        if self.method == "pkd":
            _check_h(self.h, num_classes)

    @property
    def compares(self) -> bool:
        """Whether a weight depends on the other teachers, by way of a reference.

        All teachers must then be observed before the first is added, and none can be taken out or added
        afterwards: another set of teachers is another reference, and its logits are read again.
        """
        return self.method in ("best", "confidence")

    @property
    def needs_labels(self) -> bool:
        """Whether weights depend on the true classes."""
        return self.method in ("pkd", "gtd", "best", "confidence")

    @property
    def complements(self) -> bool:
        """Whether a teacher weighs (1 - a_k / sum_j a_j) / (K - 1) by its coefficient a_k, not a_k / sum."""
        return self.method in ("entropy", "confidence")

    def scores(self, logits_nc: Tensor, labels_n: Tensor) -> Tensor:
        """Returns, float64 [n], of what a weighting that compares takes the largest as its reference.

        Logits and labels are such as `check_opinion` lets pass, here and in `coefficients`.
        """
        assert self.compares, f"'{self.method}' weighs each teacher by itself"
        ce_n = truth_cross_entropies(logits_nc, labels_n)
        return ce_n if self.method == "confidence" else ce_n.neg_()

    def coefficients(
        self, logits_nc: Tensor, labels_n: Tensor, lead_n: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Returns what the opinions are multiplied by in each running sum, one or two float64 [n].

        One, the weight s before it is normalised; or, where the weighting complements, 1 and a.

        Args:
            logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
            labels_n: True classes, int64 [n].
            lead_n: Of a weighting that compares: this teacher's `scores` less the reference, the largest of
                all teachers', float64 [n], at most 0.
        """
        match self.method:
            case "pkd":
                return (pkd_weights(logits_nc, labels_n, self.h),)
            case "gtd":
                return (gtd_weights(logits_nc, labels_n, self.floor),)
            case "entropy":
                doubts_n = entropies(logits_nc).clamp_(min=ENTROPY_FLOOR)
                return average_weights(logits_nc), doubts_n
            case "best":
                assert lead_n is not None
                return ((lead_n >= -BEST_MARGIN).double(),)
            case "confidence":
                assert lead_n is not None
                return average_weights(logits_nc), lead_n.exp()
            case "avg" | "avg1" | "single":
                return (average_weights(logits_nc),)

    def weights(
        self, logits_nc: Tensor, labels_n: Tensor, sums: tuple[Tensor, ...], reference_n: Tensor | None = None
    ) -> Tensor:
        """Returns one teacher's share of each row's target, float64 [n]; the shares of all sum to 1.

        Args:
            logits_nc: Its logits [n, C].
            labels_n: True classes, int64 [n].
            sums: The sum of each coefficient over all teachers, float64 [n] each.
            reference_n: Of a weighting that compares: the largest of all teachers' `scores`, float64 [n].

        Raises:
            DataError: If the logits or labels are not what `check_opinion` expects.
        """
        check_opinion(logits_nc, labels_n)
        lead_n = None if reference_n is None else self.scores(logits_nc, labels_n) - reference_n
        first_n, *rest = self.coefficients(logits_nc, labels_n, lead_n)
        if not self.complements:
            return first_n / sums[0]
        return torch.where(sums[0] > 1, (1.0 - rest[0] / sums[1]) / (sums[0] - 1.0), first_n)


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


def _check_temperature(method: str, space: str, temperature: float | None) -> None:
    if method == "avg1" and space != "probs":
        raise UsageError(
            f"method 'avg1' in space {space!r}",
            expected="space 'probs': Eq. 4 is a mean of divergences at one temperature",
            action="choose space 'probs' with a temperature, or method 'avg'",
        )
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
