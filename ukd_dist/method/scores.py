"""How good a target is as a prediction: accuracy, negative log-likelihood, calibration and entropy.

Probabilities and labels in, sums over rows out, which add up over blocks of rows; the figures are ratios of
these sums. Left out: which rows are scored, and whether anybody was trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ukd_dist.method.weighting import Space

BINS = 15
# A target's terms are held to this (`fixedpoint`): what is less, down to 0, is rounding, not a likelihood.
LEAST_PROBABILITY = 2.0**-57


@dataclass(frozen=True)
class Scores:
    """Sums over rows; those of other rows can be added.

    Attributes:
        nll_sum: Of -ln p(label), nats, float64 scalar.
        entropy_sum: Of the rows' entropies, nats, float64 scalar.
        rows_b: Rows by bin of confidence, float64 [15].
        confidence_b: Sum of their confidences, the largest probability of each, float64 [15].
        correct_b: How many of them have it on their label, float64 [15].
    """

    nll_sum: Tensor
    entropy_sum: Tensor
    rows_b: Tensor
    confidence_b: Tensor
    correct_b: Tensor

    def __add__(self, other: Scores) -> Scores:
        return Scores(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def num_rows(self) -> int:
        """Rows that were scored."""
        return int(self.rows_b.sum())

    @property
    def top1(self) -> float:
        """Share of rows whose largest probability is the label's."""
        return float(self.correct_b.sum() / self.rows_b.sum())

    @property
    def nll(self) -> float:
        """Mean of -ln p(label), nats; a probability counts as at least 2^-57 (39.5 nats), which is ours."""
        return float(self.nll_sum / self.rows_b.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)|.

        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eq. 3: 15 bins of equal width, bin b
        holds confidences in ((b-1)/15, b/15].
        """
        return float((self.correct_b - self.confidence_b).abs().sum() / self.rows_b.sum())

    @property
    def entropy(self) -> float:
        """Mean entropy of the rows' distributions, nats."""
        return float(self.entropy_sum / self.rows_b.sum())


def score(probs_nc: Tensor, labels_n: Tensor) -> Scores:
    """Returns the sums of one block.

    Args:
        probs_nc: Distributions, float64 [n, C], each summing to 1.
        labels_n: True classes, int64 [n].
    """
    confidence_n, chosen_n = probs_nc.max(dim=1)
    likelihood_n = probs_nc.gather(1, labels_n.unsqueeze(1)).squeeze(1).clamp(min=LEAST_PROBABILITY)
    inner_edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bin_n = torch.bucketize(confidence_n, inner_edges)

    def by_bin(values_n: Tensor) -> Tensor:
        return torch.bincount(bin_n, values_n.double(), BINS)

    return Scores(
        nll_sum=-likelihood_n.log().sum(),
        entropy_sum=-torch.special.xlogy(probs_nc, probs_nc).sum(),
        rows_b=by_bin(torch.ones(len(labels_n))),
        confidence_b=by_bin(confidence_n),
        correct_b=by_bin(chosen_n == labels_n),
    )


def target_probs(target_nc: Tensor, space: Space, temperature: float) -> Tensor:
    """Returns the distribution that a target stands for at tau, float64 [n, C].

    Args:
        target_nc: Floating point [n, C]: logits, or probabilities that were softened at this temperature.
        space: Which of the two.
        temperature: tau, > 0; a target of logits is softmax(z / tau).
    """
    if space == "logits":
        return (target_nc.double() / temperature).softmax(dim=1)
    probs_nc = target_nc.double()
    return probs_nc / probs_nc.sum(dim=1, keepdim=True)
