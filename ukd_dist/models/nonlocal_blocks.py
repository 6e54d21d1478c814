"""Non-local blocks between the residual blocks of a network (Wang et al. 2018, section 3.3).

A block adds to every position of a feature map what all positions say to it: `x + BN(W_z softmax(theta(x)^T
phi(x) / sqrt(d)) g(x))`, theta having d channels, with phi and g of a map of half the height and width. The
scale is of the authors' code, not of the paper. The batch norm starts at scale 0, so that the network
starts as the one without it. Residual blocks keep their names, `res_blocks.<i>`; the non-local block after
the i-th of them is `nonlocal_blocks.<i>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

_POOL = (1, 2, 2)
_STD = 0.01


class NonLocalStage(nn.Module):
    """A stage of residual blocks with a non-local block after some of them.

    Args:
        res_blocks: The residual blocks.
        nonlocal_blocks: Non-local blocks by the number of the residual block that they follow.
    """

    def __init__(self, res_blocks: nn.ModuleList, nonlocal_blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.res_blocks = res_blocks
        self.nonlocal_blocks = nn.ModuleDict({str(i): block for i, block in nonlocal_blocks.items()})

    def forward(self, maps_bcthw: torch.Tensor) -> torch.Tensor:
        """Feature maps `[batch, channels, frames, height, width]` of feature maps."""
        for i, block in enumerate(self.res_blocks):
            maps_bcthw = block(maps_bcthw)
            if str(i) in self.nonlocal_blocks:
                maps_bcthw = self.nonlocal_blocks[str(i)](maps_bcthw)
        return maps_bcthw


def add_nonlocal_blocks(
    stages: nn.ModuleList, places: Mapping[int, tuple[int, ...]], create: Callable[..., nn.Module]
) -> None:
    """Add non-local blocks in place.

    Args:
        stages: Stages of a network of pytorchvideo's.
        places: For stages by number, the residual blocks that one follows.
        create: pytorchvideo's `create_nonlocal`.
    """
    for number, after in places.items():
        blocks: Any = stages[number].res_blocks
        width = blocks[0].branch2.conv_c.out_channels
        stages[number] = NonLocalStage(blocks, {i: _block(width, create) for i in after})


def _block(width: int, create: Callable[..., nn.Module]) -> nn.Module:
    block = create(dim_in=width, dim_inner=width // 2, pool_size=_POOL, instantiation="softmax")
    for module in block.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=_STD)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.zeros_(module.weight)
    return block
