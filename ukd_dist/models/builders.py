"""The bodies of the networks, from pytorchvideo's builders with the arguments of what was published.

Names of weights are pytorchvideo's, so that checkpoints of its zoo fit without renaming. Other than there,
heads pool over whatever frames and size a clip has, and give logits, not probabilities.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from ukd_dist.models.nonlocal_blocks import add_nonlocal_blocks
from ukd_dist.models.tpn import TemporalPyramidNetwork

_TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_KEPT_ALIVE: list[object] = []  # a torch library's definitions go with it
_BUILDERS = ("slowfast", "x3d", "resnet", "csn", "r2plus1d", "vision_transformers")
_ONE, _THREE = (1, 1, 1), (3, 1, 1)


@dataclass(frozen=True)
class Wanted:
    """What a body is built for.

    Attributes:
        num_classes: Logits a clip.
        channels: Channels of the clips.
        every: Each pathway sees every n-th decoded frame.
        frames: How many each pathway sees.
        size: Side of the clips, pixels.
        dropout: Probability before the classifier.
    """

    num_classes: int
    channels: int
    every: tuple[int, ...]
    frames: tuple[int, ...]
    size: int
    dropout: float


def _slowfast(wanted: Wanted, *, depth: int, fusion_frames: int, **narrow: Any) -> nn.Module:
    body: nn.Module = pytorchvideo().slowfast.create_slowfast(
        input_channels=(wanted.channels, wanted.channels),
        model_depth=depth,
        model_num_class=wanted.num_classes,
        dropout_rate=wanted.dropout,
        slowfast_fusion_conv_kernel_size=(fusion_frames, 1, 1),
        slowfast_fusion_conv_stride=(wanted.every[0] // wanted.every[1], 1, 1),
        head_pool=nn.AdaptiveAvgPool3d,
        **narrow,
    )
    return body


def _resnet(wanted: Wanted, *, depth: int = 50, **published: Any) -> Any:
    return pytorchvideo().resnet.create_resnet(
        input_channel=wanted.channels,
        model_depth=depth,
        model_num_class=wanted.num_classes,
        dropout_rate=wanted.dropout,
        head_pool=nn.AdaptiveAvgPool3d,
        **published,
    )


_SLOW: dict[str, Any] = {"stem_conv_kernel_size": (1, 7, 7)}
_C2D = _SLOW | {"stage1_pool": nn.MaxPool3d, "stage_conv_a_kernel_size": (_ONE,) * 4}
_I3D: dict[str, Any] = {
    "stem_conv_kernel_size": (5, 7, 7),
    "stage1_pool": nn.MaxPool3d,
    "stage_conv_a_kernel_size": (_THREE, [_THREE, _ONE], [_THREE, _ONE], [_ONE, _THREE]),
}


def _pool_of_wang(kernel_size: object, stride: object, padding: object) -> nn.Module:  # noqa: ARG001
    """pool1 over pairs of frames, padded to the 56x56 of the paper's table; the authors' code has 55x55."""
    return nn.MaxPool3d((2, 3, 3), (2, 2, 2), (0, 1, 1))


def _nonlocal(wanted: Wanted, *, depth: int) -> nn.Module:
    """NL-I3D (Wang et al. 2018, Table 1): 32 frames are 16 after conv1, 8 after pool1, 4 after pool2.

    Of ResNet-101's 23 blocks of res4, those are inflated that are so in ResNet-50: the figures published for
    it (SlowFast, Table 2; X3D, Table 4) count no others. A non-local block follows every seventh one, as in
    video-nonlocal-net (lib/models/resnet_video_org.py), and in ResNet-50 every second.
    """
    after_res4 = {50: (1, 3, 5), 101: (6, 13, 20)}[depth]
    res4 = [_THREE, _ONE] * 3 + [_ONE] * (17 if depth == 101 else 0)
    changed: dict[str, Any] = {
        "stem_conv_stride": (2, 2, 2),
        "stem_pool": _pool_of_wang,
        "stage_conv_a_kernel_size": (_THREE, [_THREE, _ONE], res4, [_ONE, _THREE]),
    }
    body = _resnet(wanted, depth=depth, **_I3D | changed)
    # blocks: stem, res2, pool2, res3, res4, res5, head.
    layers = importlib.import_module("pytorchvideo.layers.nonlocal_net")
    add_nonlocal_blocks(body.blocks, {3: (1, 3), 4: after_res4}, layers.create_nonlocal)
    return body  # type: ignore[no-any-return]


def _csn(wanted: Wanted, *, bottleneck: Callable[..., nn.Module] | None = None) -> nn.Module:
    """CSN as VMZ released it, whose batch norms have epsilon 1e-3."""
    body: nn.Module = pytorchvideo().csn.create_csn(
        input_channel=wanted.channels,
        model_depth=152,
        model_num_class=wanted.num_classes,
        dropout_rate=wanted.dropout,
        stem_pool=nn.MaxPool3d,
        head_pool=nn.AdaptiveAvgPool3d,
        **({"bottleneck": bottleneck} if bottleneck else {}),
    )
    for module in body.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return body


def _interaction_preserved(**block: Any) -> nn.Module:
    """A bottleneck whose depthwise convolution follows a pointwise one (ip-CSN)."""
    block["conv_b"] = _pointwise_depthwise
    bottleneck: nn.Module = pytorchvideo().resnet.create_bottleneck_block(**block)
    return bottleneck


def _pointwise_depthwise(in_channels: int, out_channels: int, **depthwise: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.Conv3d(out_channels, out_channels, **depthwise),
    )


def _tpn(wanted: Wanted) -> nn.Module:
    backbone = _resnet(wanted, **_SLOW, head=None)
    return TemporalPyramidNetwork(backbone.blocks, wanted.num_classes, wanted.dropout)


def _r2plus1d(wanted: Wanted) -> nn.Module:
    body: nn.Module = pytorchvideo().r2plus1d.create_r2plus1d(
        input_channel=wanted.channels,
        model_num_class=wanted.num_classes,
        dropout_rate=wanted.dropout,
        head_pool=nn.AdaptiveAvgPool3d,
        head_activation=None,
    )
    return body


def _x3d(wanted: Wanted, **expansion: Any) -> nn.Module:
    body: nn.Module = pytorchvideo().x3d.create_x3d(
        input_channel=wanted.channels,
        input_clip_length=wanted.frames[0],
        input_crop_size=wanted.size,
        model_num_class=wanted.num_classes,
        dropout_rate=wanted.dropout,
        head_activation=None,
        **expansion,
    )
    return body


def _mvit(wanted: Wanted) -> nn.Module:
    """MViT-B: 16 blocks; the 2nd, 4th and 15th halve height and width, and double channels and heads."""
    create = pytorchvideo().vision_transformers.create_multiscale_vision_transformers
    doubled = [[1, 2.0], [3, 2.0], [14, 2.0]]
    with torch.device("cpu"):  # the builder computes widths with tensors, which `meta` would not
        body: nn.Module = create(
            spatial_size=wanted.size,
            temporal_size=wanted.frames[0],
            input_channels=wanted.channels,
            embed_dim_mul=doubled,
            atten_head_mul=doubled,
            pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
            pool_kv_stride_adaptive=[1, 8, 8],
            pool_kvq_kernel=[3, 3, 3],
            head_dropout_rate=wanted.dropout,
            head_num_classes=wanted.num_classes,
        )
    return body


_NARROW_SLOWFAST: dict[str, Any] = {
    "slowfast_channel_reduction_ratio": (4,),
    "stem_dim_outs": (16, 4),
    "stem_conv_kernel_sizes": ((1, 5, 5), (5, 5, 5)),
}
_NARROW_X3D: dict[str, Any] = {
    "width_factor": 1.0,
    "depth_factor": 1.0,
    "stem_dim_in": 8,
    "head_dim_out": 256,
}

BODIES: Mapping[str, Callable[[Wanted], nn.Module]] = {
    "slowfast_r50_4x16": partial(_slowfast, depth=50, fusion_frames=5),
    "slowfast_r50_8x8": partial(_slowfast, depth=50, fusion_frames=7),
    "slowfast_r101": partial(_slowfast, depth=101, fusion_frames=5),
    "slow_r50": partial(_resnet, **_SLOW),
    "c2d_r50": partial(_resnet, **_C2D),
    "i3d_r50": partial(_resnet, **_I3D),
    "i3d_nl_r50": partial(_nonlocal, depth=50),
    "i3d_nl_r101": partial(_nonlocal, depth=101),
    "ircsn_r152": _csn,
    "ipcsn_r152": partial(_csn, bottleneck=_interaction_preserved),
    "tpn_r50": _tpn,
    "r2plus1d_r50": _r2plus1d,
    "x3d_xs": _x3d,
    "x3d_s": _x3d,
    "x3d_m": _x3d,
    "x3d_l": partial(_x3d, depth_factor=5.0),
    "mvit_b_16x4": _mvit,
    "slowfast_tiny": partial(_slowfast, depth=18, fusion_frames=5, **_NARROW_SLOWFAST),
    "x3d_tiny": partial(_x3d, **_NARROW_X3D),
}


@cache
def pytorchvideo() -> Any:
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
    for module in _BUILDERS:
        importlib.import_module(f"pytorchvideo.models.{module}")
    return importlib.import_module("pytorchvideo.models")
