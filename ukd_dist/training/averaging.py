"""The moving average of a network's weights over its steps, which a training may keep in their place."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of weights: `average = decay * average + (1 - decay) * weights`.

    Batch-norm statistics are no weights: they are running averages already.

    Args:
        network: Whose weights, which the average begins with.
        decay: Per step, between 0 and 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._weights = dict(network.named_parameters())
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Take in the weights after a step."""
        weights = [weight.detach() for weight in self._weights.values()]
        self._update(list(self._average.values()), weights, 0)

    def state(self) -> dict[str, torch.Tensor]:
        """The average, by names of weights."""
        return self._average

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `state` returned."""
        for name, weight in self._average.items():
            weight.copy_(state[name])

    def put_in(self) -> None:
        """Give the network the averaged weights."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._average[name])
