"""What a network costs: its parameters, and the multiply-adds of one clip, counted without computing them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes:
        parameters: Its weights.
        gmacs: 10^9 multiply-adds of one clip, in convolutions and matrix products.
        normalised: 10^9 values of one clip that go into a batch or layer norm.
    """

    parameters: int
    gmacs: float
    normalised: float


def cost(network: nn.Module, channels: int, frames: int, size: int) -> Cost:
    """Count by shapes alone; the network is moved to torch's device `meta` and of no use afterwards.

    Args:
        network: Takes clips `[batch, channels, frames, size, size]`.
        channels: Of the clip.
        frames: Decoded frames of the clip.
        size: Its side, pixels.
    """
    parameters = sum(weight.numel() for weight in network.parameters())
    network = network.to("meta").eval()
    normalised = [0]

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        normalised[0] += inputs[0].numel()

    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.LayerNorm):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.empty(1, channels, frames, size, size, device="meta"))
    # The counter counts a multiplication and an addition as two.
    return Cost(parameters, counted.get_total_flops() / 2e9, normalised[0] / 1e9)
