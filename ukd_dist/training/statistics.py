"""Batch-norm statistics as they are under the final weights, in place of running averages."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from ukd_dist.training.engines import Engine

PRECISE_STEPS = 200  # after which statistics change no more (Wu and Johnson 2021, section 3)


def measure_statistics(engine: Engine, clips: Iterable[torch.Tensor], steps: int) -> None:
    """Give every batch norm that is not frozen the statistics of some batches under the final weights.

    Means and variances are those of all positions of all these batches. Called on every rank, each with its
    own clips; the ranks' statistics are averaged.

    Args:
        engine: Whose network.
        clips: Batches `[batch, channels, frames, height, width]` as in training.
        steps: How many of them are there; at most `PRECISE_STEPS` are taken.
    """
    steps = min(steps, PRECISE_STEPS)
    engine.network.train()
    update_bn_stats(_Forward(engine), islice(clips, steps), steps)
    for norm in get_bn_modules(engine.network):
        norm.running_var.clamp_(min=0.0)  # a difference of two sums, of a channel that hardly varies
    engine.share_buffers()


class _Forward(nn.Module):
    """An engine's forward pass, as a module over its network."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.network = engine.network
        self._engine = engine

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        return self._engine.forward(clips_bcthw)
