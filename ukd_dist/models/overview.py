"""The networks as a list for people, and one of them counted for a clip that they name."""

from __future__ import annotations

from dataclasses import dataclass

from ukd_dist.clip_config import Clip
from ukd_dist.models.catalogue import NETWORKS, Network, pathways
from ukd_dist.models.pretrained import PRETRAINED

_CLASSES, _CHANNELS = 400, 3


@dataclass(frozen=True)
class Overview:
    """A network and what it costs, for 400 classes of rgb.

    Attributes:
        name: As `arch` names it.
        parameters: Weights.
        gmacs: 10^9 multiply-adds of one clip, in convolutions and matrix products.
        frames: Decoded frames of that clip.
        size: Its side, pixels.
        every: For each pathway, it sees every n-th of these frames.
        builder: Whose code builds it.
        source: Who described it; empty for a network of the user's.
        pretrained: Whose weights `init: kinetics400` means; empty where none are public.
    """

    name: str
    parameters: int
    gmacs: float
    frames: int
    size: int
    every: tuple[int, ...]
    builder: str
    source: str
    pretrained: str


def overview() -> list[Overview]:
    """Every network, with the figures of the catalogue."""
    return [
        _overview(name, network, figures.frames, figures.size, figures.parameters, figures.gmacs)
        for name, network in NETWORKS.items()
        for figures in (network.figures,)
    ]


def counted(arch: str, frames: int | None = None, size: int | None = None) -> Overview:
    """One network, built and counted.

    Args:
        arch: A name, or package.module:function.
        frames: Decoded frames of the clip; None: as the catalogue states it, or as `data.clip` without any.
        size: Its side, pixels; None: likewise.

    Raises:
        UsageError: It cannot be built for such clips.
    """
    import torch

    from ukd_dist.models.costs import cost
    from ukd_dist.models.networks import build

    network = NETWORKS.get(arch)
    stated = network.figures if network else Clip()
    frames, size = frames or stated.frames, size or stated.size
    clip = Clip(frames=frames, size=size, short_side=(size, size))
    with torch.device("meta"):
        built = build(arch, num_classes=_CLASSES, channels=_CHANNELS, clip=clip, dropout=0.0, seed=0)
    found = cost(built, _CHANNELS, frames, size)
    return _overview(arch, network, frames, size, found.parameters, found.gmacs)


def _overview(
    arch: str, network: Network | None, frames: int, size: int, parameters: int, gmacs: float
) -> Overview:
    builder, source = (network.builder, network.source) if network else (arch.partition(":")[0], "")
    weights = PRETRAINED[arch].source if arch in PRETRAINED else ""
    return Overview(arch, parameters, gmacs, frames, size, pathways(arch), builder, source, weights)
