"""Small networks on features, many of a shape at a time: trained side by side, and scored."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from synthetic.world import CLASSES, FEATURES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, relu

BATCH, LR, MOMENTUM = 55, 0.05, 0.9
ECE_BINS = 15


class Recipe(NamedTuple):
    hidden: tuple[int, ...]
    epochs: int
    weight_decay: float
    dropout: float = 0.0


class Networks(nn.Module):
    """Independent MLPs of one shape, side by side in batched products."""

    def __init__(self, num_drawn: int, num_copies: int, recipe: Recipe, generator: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise((FEATURES, *recipe.hidden, CLASSES)):
            drawn = torch.randn(num_drawn, before, after, generator=generator) * (2.0 / before) ** 0.5
            self.weights.append(drawn.repeat(num_copies, 1, 1))
            self.biases.append(torch.zeros(num_drawn * num_copies, 1, after))
        self.dropout = recipe.dropout

    def forward(self, features_enf: Tensor) -> Tensor:
        """Returns the logits [e, n, C] of the first e networks."""
        values, count = features_enf, len(features_enf)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if depth:
                values = dropout(relu(values), self.dropout, self.training)
            values = torch.baddbmm(bias[:count], values, weight[:count])
        return values


def train(
    networks: Networks,
    recipe: Recipe,
    features_enf: Tensor,
    rows_e: list[Tensor],
    generator: torch.Generator,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Trains each network e on its rows, or all on one list in one order; as many rows an epoch for each.

    `loss` sums over networks, of logits [e, b, C] and rows [e, b] or [1, b].
    """
    num_rows = min(map(len, rows_e)) // BATCH * BATCH
    optimizer = torch.optim.SGD(networks.parameters(), LR, MOMENTUM, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * num_rows // BATCH)
    networks_e1 = torch.arange(len(features_enf)).unsqueeze(1)
    for _ in range(recipe.epochs):
        order_er = torch.stack([r[torch.randperm(len(r), generator=generator)[:num_rows]] for r in rows_e])
        for rows_eb in order_er.split(BATCH, dim=1):
            optimizer.zero_grad()
            loss(networks(features_enf[networks_e1, rows_eb]), rows_eb).backward()
            optimizer.step()
            schedule.step()
    networks.eval().requires_grad_(False)


def scores(logits_nc: Tensor, labels_n: Tensor) -> dict[str, float]:
    """Returns accuracy, NLL in nats, and the expected calibration error over bins of equal width."""
    confidence_n, predicted_n = logits_nc.softmax(dim=1).max(dim=1)
    correct_n = (predicted_n == labels_n).double()
    bins_n = (confidence_n * ECE_BINS).long().clamp(max=ECE_BINS - 1)
    gaps = torch.zeros(ECE_BINS, dtype=torch.float64).index_add(0, bins_n, confidence_n.double() - correct_n)
    return {
        "accuracy": round(float(correct_n.mean()), 6),
        "nll": round(float(cross_entropy(logits_nc, labels_n)), 5),
        "ece": round(float(gaps.abs().sum() / len(labels_n)), 5),
    }
