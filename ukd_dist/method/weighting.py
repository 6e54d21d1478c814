"""How much one teacher's opinion of a video counts: UKD's weights, and those that they are compared with.

One teacher's logits and the labels in, one float64 weight a row out. Most weights depend on nothing else, so
teachers can be weighed one at a time, anywhere and in any order; those of `best` and `confidence` compare a
teacher with the others, through a reference that is the largest of one score over all teachers. Left out:
normalising over the teachers of a video, which is `assembly`'s division.

All that is computed over a row's classes is computed by `kernels`: a row's weight is the same bytes in
whatever block of rows it comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ukd_dist.errors import UsageError
from ukd_dist.method import kernels
from ukd_dist.method.rows import as_array, check_num_classes, check_opinion

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

        Logits and labels are such as `check_opinion` lets pass, here and in `coefficients` and `weights`.
        """
        assert self.compares, f"'{self.method}' weighs each teacher by itself"
        ce_n = _truth_cross_entropies(logits_nc, labels_n)
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
                return (_pkd_weights(logits_nc, labels_n, self.h),)
            case "gtd":
                return (_gtd_weights(logits_nc, labels_n, self.floor),)
            case "entropy":
                doubts_n = softened_entropies(logits_nc).clamp_(min=ENTROPY_FLOOR)
                return _ones(logits_nc), doubts_n
            case "best":
                assert lead_n is not None
                return ((lead_n >= -BEST_MARGIN).double(),)
            case "confidence":
                assert lead_n is not None
                return _ones(logits_nc), lead_n.exp()
            case "avg" | "avg1" | "single":
                return (_ones(logits_nc),)

    def weights(
        self, logits_nc: Tensor, labels_n: Tensor, sums: tuple[Tensor, ...], reference_n: Tensor | None = None
    ) -> Tensor:
        """Returns one teacher's share of each row's target, float64 [n]; the shares of all sum to 1.

        Args:
            logits_nc: Its logits [n, C].
            labels_n: True classes, int64 [n].
            sums: The sum of each coefficient over all teachers, float64 [n] each.
            reference_n: Of a weighting that compares: the largest of all teachers' `scores`, float64 [n].
        """
        lead_n = None if reference_n is None else self.scores(logits_nc, labels_n) - reference_n
        first_n, *rest = self.coefficients(logits_nc, labels_n, lead_n)
        if not self.complements:
            return first_n / sums[0]
        return torch.where(sums[0] > 1, (1.0 - rest[0] / sums[1]) / (sums[0] - 1.0), first_n)


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
    _check_h(h, logits_nc.shape[1])
    return _pkd_weights(logits_nc, labels_n, h)


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
    return _gtd_weights(logits_nc, labels_n, floor)


def average_weights(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
    """Weighs every teacher alike, s = 1 (Eq. 4 and 5 of Jin et al.).

    Args:
        logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
        labels_n: True classes, int64 [n]; checked like the other weightings' and otherwise unused.

    Returns:
        s_n, ones, float64 [n].

    Raises:
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    return _ones(logits_nc)


def truth_cross_entropies(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
    """Returns CE(onehot, softmax(z)) in nats, float64 [n].

    `confidence` makes weights of its softmax over teachers (Zhang et al., Confidence-Aware Multi-Teacher
    Knowledge Distillation, 2022, Eq. 2-3); `best` takes the teacher where it is least.

    Raises:
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    return _truth_cross_entropies(logits_nc, labels_n)


def entropies(logits_nc: Tensor, labels_n: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns H(softmax(z / temperature)) in nats, float64 [n].

    At temperature 1 what `entropy` weighs by (Kwon et al., Adaptive Knowledge Distillation Based on Entropy,
    2020, in the form that Zhang et al. compare with): w_k = (1 - H_k / sum_j H_j) / (K - 1). There it counts
    as at least 1e-8 nat: shares of less would be shares of rounding errors, and 0 / 0 for sure teachers.

    Raises:
        DataError: If the logits or labels are not what `check_opinion` expects.
    """
    check_opinion(logits_nc, labels_n)
    return softened_entropies(logits_nc, temperature)


def softened_entropies(logits_nc: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns as `entropies`, of logits that `check_opinion` has let pass."""
    entropy_n = torch.empty(len(logits_nc), dtype=torch.float64)
    kernels.entropies(as_array(logits_nc), temperature, entropy_n.numpy())
    return entropy_n


def _pkd_weights(logits_nc: Tensor, labels_n: Tensor, h: float) -> Tensor:
    share = (1.0 - h) / (logits_nc.shape[1] - 1)
    return _cross_entropies(logits_nc, labels_n, on_label=h - share, on_every=share).reciprocal_()


def _gtd_weights(logits_nc: Tensor, labels_n: Tensor, floor: float) -> Tensor:
    return _truth_cross_entropies(logits_nc, labels_n).clamp_(min=floor).reciprocal_()


def _truth_cross_entropies(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
    return _cross_entropies(logits_nc, labels_n, on_label=1.0, on_every=0.0)


def _ones(logits_nc: Tensor) -> Tensor:
    return torch.ones(len(logits_nc), dtype=torch.float64)


def _cross_entropies(logits_nc: Tensor, labels_n: Tensor, *, on_label: float, on_every: float) -> Tensor:
    """Returns logsumexp(z) - on_label * z_label - on_every * sum(z), float64 [n]; shares that sum to 1."""
    ce_n = torch.empty(len(logits_nc), dtype=torch.float64)
    labels = labels_n.contiguous().numpy()
    kernels.cross_entropies(as_array(logits_nc), labels, on_label, on_every, ce_n.numpy())
    return ce_n


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
