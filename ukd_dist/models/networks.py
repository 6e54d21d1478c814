"""Networks from pytorchvideo's builders, behind one signature: clips in, logits out."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from ukd_dist.clip_config import Clip
from ukd_dist.models.catalogue import NETWORKS, check

_TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_KEPT_ALIVE: list[object] = []  # a torch library's definitions go with it


class VideoNetwork(nn.Module):
    """A network that samples its pathways from the decoded frames.

    Args:
        body: Takes one clip tensor, or a list with one for each pathway.
        every: Each pathway sees every n-th decoded frame.
    """

    def __init__(self, body: nn.Module, every: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.every = every
        self._held: list[nn.Module] = []

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, classes]` of clips `[batch, channels, frames, height, width]`."""
        pathways = [clips_bcthw[:, :, ::n] for n in self.every]
        logits: torch.Tensor = self.body(pathways[0] if len(pathways) == 1 else pathways)
        return logits

    def hold(self, modules: Sequence[nn.Module]) -> None:
        """Keep modules of the body in evaluation mode, also while the rest is trained."""
        self._held = list(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoNetwork:
        """Training or evaluation mode, but for what is held."""
        super().train(mode)
        for module in self._held:
            module.eval()
        return self


def build(
    arch: str, *, num_classes: int, channels: int, clip: Clip, dropout: float, seed: int
) -> VideoNetwork:
    """A network by name with weights drawn from `seed`.

    Args:
        arch: A name of `catalogue.NETWORKS`.
        num_classes: Logits a clip.
        channels: Channels of the clips: 3 for rgb, 2 for flow.
        clip: Frames and size of the clips.
        dropout: Probability before the classifier.
        seed: Of the weights; the global generator is left as it was.

    Raises:
        UsageError: No network has the name, or the clip is too short for its pathways.
    """
    check(arch, clip)
    network = NETWORKS[arch]
    frames = tuple(-(-clip.frames // n) for n in network.every)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network.family == "x3d_tiny":
            body = _x3d_tiny(num_classes, channels, frames[0], clip.size, dropout)
        elif network.family == "slowfast_tiny":
            body = _slowfast_tiny(num_classes, channels, network.every, dropout)
        else:
            body = _slowfast_r50(num_classes, channels, network.every, dropout)
    return VideoNetwork(body, network.every)


def _slowfast_r50(num_classes: int, channels: int, every: tuple[int, ...], dropout: float) -> nn.Module:
    alpha = every[0] // every[1]
    body: nn.Module = _pytorchvideo().slowfast.create_slowfast(
        input_channels=(channels, channels),
        model_depth=50,
        model_num_class=num_classes,
        dropout_rate=dropout,
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        head_pool=nn.AdaptiveAvgPool3d,
    )
    return body


def _slowfast_tiny(num_classes: int, channels: int, every: tuple[int, ...], dropout: float) -> nn.Module:
    body: nn.Module = _pytorchvideo().slowfast.create_slowfast(
        input_channels=(channels, channels),
        model_depth=18,
        model_num_class=num_classes,
        dropout_rate=dropout,
        slowfast_channel_reduction_ratio=(4,),
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(every[0] // every[1], 1, 1),
        stem_dim_outs=(16, 4),
        stem_conv_kernel_sizes=((1, 5, 5), (5, 5, 5)),
        head_pool=nn.AdaptiveAvgPool3d,
    )
    return body


def _x3d_tiny(num_classes: int, channels: int, frames: int, size: int, dropout: float) -> nn.Module:
    body: nn.Module = _pytorchvideo().x3d.create_x3d(
        input_channel=channels,
        input_clip_length=frames,
        input_crop_size=size,
        model_num_class=num_classes,
        dropout_rate=dropout,
        width_factor=1.0,
        depth_factor=1.0,
        stem_dim_in=8,
        head_dim_out=256,
        head_activation=None,
    )
    return body


@cache
def _pytorchvideo() -> Any:
    """pytorchvideo.models, importable beside any build of torchvision.

    It imports torchvision.ops for a detection head that nothing here needs, and torchvision's compiled
    operators do not load beside a CPU-only torch; declaring the schemas that its import looks up is enough.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        with contextlib.suppress(ImportError, RuntimeError):
            importlib.import_module("torchvision")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _TORCHVISION_SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _KEPT_ALIVE.append(library)
    for module in ("slowfast", "x3d"):
        importlib.import_module(f"pytorchvideo.models.{module}")
    return importlib.import_module("pytorchvideo.models")
