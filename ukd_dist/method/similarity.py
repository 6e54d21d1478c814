"""How near an opinion is to the truth, and how sure it is: what the teachers' weights are made of.

One teacher's logits in, and the labels where the truth is asked for; one float64 a row out. Both are such as
`rows.check_opinion` lets pass. Whoever takes them from outside (`observe`, `Assembly`, `Weighting.weights`)
asks it, once; nothing is checked again here, where a label that is no class would be read beyond its row.

All that is computed over a row's classes is computed by `kernels`: a row's weight is the same bytes in
whatever block of rows it comes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ukd_dist.method.rows import as_array


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
    """
    share = (1.0 - h) / (logits_nc.shape[1] - 1)
    return _cross_entropies(logits_nc, labels_n, on_label=h - share, on_every=share).reciprocal_()


def gtd_weights(logits_nc: Tensor, labels_n: Tensor, floor: float) -> Tensor:
    """Weighs by nearness to the ground truth: s = 1 / max(CE(onehot, softmax(z)), floor).

    Eq. 6-8 of Jin et al., at temperature 1. The paper has no floor; without one the weight of a teacher that
    is sure of the truth has no bound. At 1e-4 nat every teacher that gives the true class more than 0.9999
    counts the same, 10,000 times as much as one at 1/e.

    Args:
        logits_nc: One teacher's logits, float16, float32 or float64 [n, C].
        labels_n: True classes, int64 [n].
        floor: Least cross entropy in nats, > 0.

    Returns:
        s_n, float64 [n], not normalised.
    """
    return truth_cross_entropies(logits_nc, labels_n).clamp_(min=floor).reciprocal_()


def average_weights(logits_nc: Tensor) -> Tensor:
    """Weighs every teacher alike: s = 1, float64 [n] (Eq. 4 and 5 of Jin et al.)."""
    return torch.ones(len(logits_nc), dtype=torch.float64)


def truth_cross_entropies(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
    """Returns CE(onehot, softmax(z)) in nats, float64 [n].

    `confidence` makes weights of its softmax over teachers (Zhang et al., Confidence-Aware Multi-Teacher
    Knowledge Distillation, 2022, Eq. 2-3); `best` takes the teacher where it is least.
    """
    return _cross_entropies(logits_nc, labels_n, on_label=1.0, on_every=0.0)


def entropies(logits_nc: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns H(softmax(z / temperature)) in nats, float64 [n].

    At temperature 1 what `entropy` weighs by (Kwon et al., Adaptive Knowledge Distillation Based on Entropy,
    2020, in the form that Zhang et al. compare with): w_k = (1 - H_k / sum_j H_j) / (K - 1). There it counts
    as at least 1e-8 nat: shares of less would be shares of rounding errors, and 0 / 0 for sure teachers.
    """
    from ukd_dist.method import kernels

    entropy_n = torch.empty(len(logits_nc), dtype=torch.float64)
    kernels.entropies(as_array(logits_nc), temperature, entropy_n.numpy())
    return entropy_n


def _cross_entropies(logits_nc: Tensor, labels_n: Tensor, *, on_label: float, on_every: float) -> Tensor:
    """Returns logsumexp(z) - on_label * z_label - on_every * sum(z), float64 [n]; shares that sum to 1."""
    from ukd_dist.method import kernels

    ce_n = torch.empty(len(logits_nc), dtype=torch.float64)
    labels = labels_n.contiguous().numpy()
    kernels.cross_entropies(as_array(logits_nc), labels, on_label, on_every, ce_n.numpy())
    return ce_n
