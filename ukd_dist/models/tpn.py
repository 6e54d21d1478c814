"""The temporal pyramid network (Yang et al. 2020) on the last two stages of a residual network.

Both stages are brought to the last one's size and width (spatial modulation), then to one rate each (temporal
modulation: a convolution over time, then the maximum over all frames, as for 8 frames in mmaction2 and for
each length of clip in the authors' release). Information flows down the pyramid, then up, and what both
directions give is fused. Names of weights below `neck` and `cls_head` are mmaction2's. Left out is its
auxiliary classifier, which only its own training uses.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

_WIDTHS = (1024, 2048)  # of the last two stages of a ResNet-50
_NARROW, _WIDE = 1024, 2048
_GROUPS = 32


def _conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int] = (1, 1, 1),
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
    norm: bool = True,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride; `norm`: with batch norm and ReLU."""
    padding = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    ]
    if norm:
        layers += [("bn", nn.BatchNorm3d(outputs)), ("activate", nn.ReLU())]
    return nn.Sequential(OrderedDict(layers))


class _Named(nn.Module):
    """A convolution one level down, where mmaction2 has a pooling beside it."""

    def __init__(self, conv: nn.Sequential) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, maps_bcthw: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv(maps_bcthw)
        return maps


class _SpatialModulation(nn.Module):
    """Both levels at the upper one's size and width."""

    def __init__(self) -> None:
        super().__init__()
        halved = nn.Sequential(_conv(_WIDTHS[0], _WIDTHS[1], (1, 3, 3), stride=(1, 2, 2)))
        self.spatial_modulation = nn.ModuleList([halved, nn.Identity()])

    def forward(self, lower: torch.Tensor, upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.spatial_modulation[0](lower), upper


class _LevelFusion(nn.Module):
    """Both levels as one."""

    def __init__(self) -> None:
        super().__init__()
        levels = [_Named(_conv(_NARROW, _NARROW, groups=_GROUPS)) for _ in _WIDTHS]
        self.downsamples = nn.ModuleList(levels)
        self.fusion_conv = _conv(2 * _NARROW, _WIDE)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        joined = [level(maps) for level, maps in zip(self.downsamples, levels, strict=True)]
        fused: torch.Tensor = self.fusion_conv(torch.cat(joined, dim=1))
        return fused


class Neck(nn.Module):
    """The pyramid: maps of the last two stages to one map of one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.level_fusion_1 = _LevelFusion()
        self.spatial_modulation = _SpatialModulation()
        modulations = [_Named(_conv(_WIDE, _NARROW, (3, 1, 1), groups=_GROUPS, norm=False)) for _ in _WIDTHS]
        self.temporal_modulation_ops = nn.ModuleList(modulations)
        self.downsample_ops = nn.ModuleList([_Named(_conv(_NARROW, _NARROW, (3, 1, 1), norm=False))])
        self.level_fusion_2 = _LevelFusion()
        self.pyramid_fusion = _conv(2 * _WIDE, _WIDE)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, lower_bcthw: torch.Tensor, upper_bcthw: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, 2048, 1, height, width]` of two stages' maps, the upper half as high and wide."""
        modulated = self.spatial_modulation(lower_bcthw, upper_bcthw)
        lower, upper = (
            conv(maps).amax(dim=2, keepdim=True)
            for conv, maps in zip(self.temporal_modulation_ops, modulated, strict=True)
        )
        lower = lower + upper
        down = self.level_fusion_1([lower, upper])
        upper = upper + self.downsample_ops[0](lower)
        up = self.level_fusion_2([lower, upper])
        fused: torch.Tensor = self.pyramid_fusion(torch.cat([down, up], dim=1))
        return fused


class Head(nn.Module):
    """Mean over positions, dropout, classifier."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(_WIDE, num_classes)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.zeros_(self.fc_cls.bias)

    def forward(self, maps_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, classes]`."""
        logits: torch.Tensor = self.fc_cls(self.dropout(maps_bcthw.mean(dim=(2, 3, 4))))
        return logits


class TemporalPyramidNetwork(nn.Module):
    """A residual network, the pyramid on its last two stages, and a head.

    Args:
        blocks: Stem and four stages of a residual network of depth 50.
        num_classes: Logits a clip.
        dropout: Probability before the classifier.
    """

    def __init__(self, blocks: nn.ModuleList, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.blocks = blocks
        self.neck = Neck()
        self.cls_head = Head(num_classes, dropout)

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, classes]` of clips."""
        *first, last = self.blocks
        maps = clips_bcthw
        for block in first:
            maps = block(maps)
        logits: torch.Tensor = self.cls_head(self.neck(maps, last(maps)))
        return logits
