"""What a student is trained on: Eq. 1-5 and 10, from its logits, the labels and a stored target.

Whether one teacher or a thousand stand behind the target makes no difference here. Left out: teachers kept in
memory during training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.weighting import Space


class DistillationLoss(NamedTuple):
    """Scalars of one batch; `total` = alpha * `ce` + (1 - alpha) * `kl`, and `kl` includes tau^2 (Eq. 3)."""

    total: Tensor
    ce: Tensor
    kl: Tensor


def distillation_loss(
    student_logits_nc: Tensor,
    labels_n: Tensor,
    target_nc: Tensor,
    *,
    alpha: float,
    temperature: float,
    space: Space,
    mean_entropies_n: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> DistillationLoss:
    """Returns alpha * CE + (1 - alpha) * tau^2 * KL(target^tau || p^tau), means over the batch.

    Eq. 1-3 and 10 of Jin et al., Unlimited Knowledge Distillation. The KL is 0 where the student equals the
    target. Nothing flows back into the target.

    Args:
        student_logits_nc: Floating point [n, C].
        labels_n: True classes, int64 [n].
        target_nc: Floating point [n, C]: logits, or probabilities that were softened at this temperature.
        alpha: Share of the cross entropy, 0 to 1; the paper's is 0.5.
        temperature: tau, > 0.
        space: Whether the target is `logits` or `probs`.
        mean_entropies_n: Of an AVG-1 target: `Assembly.mean_entropies`, [n]. The KL is then Eq. 4's, the mean
            over teachers of each one's divergence; its gradient is that of the mean's (Eq. 5).
        label_smoothing: Passed to torch's cross entropy, 0 to 1.

    Returns:
        The total and its parts: float32, or float64 if the student's logits are; also under autocast.

    Raises:
        UsageError: If alpha, temperature or space is out of range, or if there are entropies in `logits`.
        DataError: If the target's shape is not the logits', or if there is not one entropy a row.
    """
    _check(student_logits_nc, target_nc, alpha, temperature, space)
    if mean_entropies_n is not None:
        _check_entropies(mean_entropies_n, len(target_nc), space)
    logits_nc = student_logits_nc.to(torch.promote_types(student_logits_nc.dtype, torch.float32))
    ce = cross_entropy(logits_nc, labels_n, label_smoothing=label_smoothing)
    kl = _softened_kl(logits_nc, target_nc.detach(), temperature, space, mean_entropies_n).to(ce.dtype)
    return DistillationLoss(alpha * ce + (1.0 - alpha) * kl, ce, kl)


def _softened_kl(
    logits_nc: Tensor, target_nc: Tensor, temperature: float, space: Space, mean_entropies_n: Tensor | None
) -> Tensor:
    """Returns tau^2 * KL(target^tau || p^tau), the batch's mean, float64: Eq. 3, 10 or, with entropies, 4.

    In float64 because at tau = 60 both distributions are nearly uniform: their logarithms cancel to 1e-3 or
    less, and tau^2 = 3600 makes of float32's rounding an error of the size of 1e-3.
    """
    log_p_nc = log_softmax(logits_nc.double() / temperature, dim=1)
    if space == "logits":
        log_q_nc = log_softmax(target_nc.double() / temperature, dim=1)
        kl = kl_div(log_p_nc, log_q_nc, reduction="batchmean", log_target=True)
    else:
        # Stored as float32, a row sums to 1 within 1e-7 only, which tau^2 would turn into a KL below 0.
        q_nc = target_nc.double()
        q_nc = q_nc / q_nc.sum(dim=1, keepdim=True)
        if mean_entropies_n is None:
            kl = kl_div(log_p_nc, q_nc, reduction="batchmean")
        else:
            kl = -(q_nc * log_p_nc).sum(dim=1).mean() - mean_entropies_n.detach().double().mean()
    return temperature**2 * kl


def _check(logits_nc: Tensor, target_nc: Tensor, alpha: float, temperature: float, space: str) -> None:
    if logits_nc.shape != target_nc.shape:
        raise DataError(
            f"the target's shape is {list(target_nc.shape)}",
            expected=f"{list(logits_nc.shape)}, that of the student's logits",
            action="use a target of this data, one row for each video of the batch",
        )
    if not 0.0 <= alpha <= 1.0:
        raise UsageError(
            f"alpha is {alpha:g}", expected="0 <= alpha <= 1", action="choose alpha within this range"
        )
    if not 0.0 < temperature < float("inf"):
        raise UsageError(
            f"temperature is {temperature:g}", expected="a positive number", action="choose one such as 20"
        )
    if space not in ("logits", "probs"):
        raise UsageError(
            f"space {space!r} is unknown", expected="logits or probs", action="use the target's space"
        )


def _check_entropies(mean_entropies_n: Tensor, num_rows: int, space: str) -> None:
    if space != "probs":
        raise UsageError(
            f"there are mean entropies of a target in space {space!r}",
            expected="space 'probs': they belong to AVG-1's mean of probabilities at one temperature",
            action="leave them out, or use an AVG-1 target",
        )
    if mean_entropies_n.shape != (num_rows,):
        raise DataError(
            f"the mean entropies' shape is {list(mean_entropies_n.shape)}",
            expected=f"[{num_rows}], one for each video of the batch",
            action="use the entropies of the target's rows",
        )
