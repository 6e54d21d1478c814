"""Checkpoints in the exact form of other systems: their names and shapes, by the rules of each.

A residual network is a list of places. Every system's name of a place is written out here, apart from the
product's rules. A tensor is filled with its number, so that each can be told from every other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Attributes:
        stage: 1 is the stem, 2 to 5 are the residual stages, 6 is the head.
        block: Number of the residual block.
        part: stem, shortcut, a, b, c; pointwise (of ip-CSN, before b); fuse; theta, phi, g, out, sum
            (non-local); head.
        kind: conv, or norm.
        what: weight, bias, running_mean or running_var.
        pathway: 1 of SlowFast's fast one.
    """

    stage: int
    block: int
    part: str
    kind: str
    what: str
    pathway: int = 0


Shapes = dict[Place, tuple[int, ...]]
Naming = Callable[[Place], str]


def residual(
    depth: int,
    *,
    stem: tuple[int, int, int],
    a: Callable[[int, int], int],
    b: tuple[int, int, int] = (1, 3, 3),
    depthwise: bool = False,
    pointwise: bool = False,
    wider: Mapping[int, int] | None = None,
    width: int = 64,
    pathway: int = 0,
) -> Shapes:
    """A pathway of bottleneck blocks.

    Args:
        depth: 50 or 152.
        stem: Kernel of the first convolution.
        a: Frames that a block's first convolution sees, by stage and block.
        b: Kernel of its second one.
        depthwise: The second one keeps channels apart.
        pointwise: It follows one of 1x1x1 with a norm.
        wider: Channels that a stage gets beside the last one's.
        width: Channels of the stem.
        pathway: Of SlowFast.
    """
    shapes: Shapes = {}

    def conv(stage: int, block: int, part: str, *shape: int) -> None:
        shapes[Place(stage, block, part, "conv", "weight", pathway)] = shape
        for what in NORM:
            shapes[Place(stage, block, part, "norm", what, pathway)] = (shape[0],)

    conv(1, 0, "stem", width, 3, *stem)
    before = width
    for stage, count in enumerate(BLOCKS[depth], 2):
        inner, outer = width * 2 ** (stage - 2), width * 2**stage
        before += (wider or {}).get(stage, 0)
        for block in range(count):
            if block == 0:
                conv(stage, block, "shortcut", outer, before, 1, 1, 1)
            conv(stage, block, "a", inner, before, a(stage, block), 1, 1)
            if pointwise:
                conv(stage, block, "pointwise", inner, inner, 1, 1, 1)
            conv(stage, block, "b", inner, 1 if depthwise else inner, *b)
            conv(stage, block, "c", outer, inner, 1, 1, 1)
            before = outer
    return shapes


def head(inputs: int, classes: int = 400) -> Shapes:
    return {
        Place(6, 0, "head", "conv", "weight"): (classes, inputs),
        Place(6, 0, "head", "conv", "bias"): (classes,),
    }


def slowfast_r50(fusion_frames: int = 5) -> Shapes:
    """SlowFast R50: what is led over from the fast pathway is twice as wide as it."""
    wider = {2: 16, 3: 64, 4: 128, 5: 256}
    shapes = residual(50, stem=(1, 7, 7), a=lambda stage, _: 3 if stage > 3 else 1, wider=wider)
    shapes |= residual(50, stem=(5, 7, 7), a=lambda *_: 3, width=8, pathway=1)
    for stage, fast in ((1, 8), (2, 32), (3, 64), (4, 128)):
        shapes[Place(stage, 0, "fuse", "conv", "weight")] = (2 * fast, fast, fusion_frames, 1, 1)
        shapes |= {Place(stage, 0, "fuse", "norm", what): (2 * fast,) for what in NORM}
    return shapes | head(2048 + 256)


def i3d_nl_r50() -> Shapes:
    """NL-I3D R50: five non-local blocks of half the channels, with biases."""
    inflated = {2: {0, 1, 2}, 3: {0, 2}, 4: {0, 2, 4}, 5: {1}}
    shapes = residual(50, stem=(5, 7, 7), a=lambda stage, block: 3 if block in inflated[stage] else 1)
    for stage, block, width in ((3, 1, 512), (3, 3, 512), (4, 1, 1024), (4, 3, 1024), (4, 5, 1024)):
        for part in ("theta", "phi", "g"):
            shapes[Place(stage, block, part, "conv", "weight")] = (width // 2, width, 1, 1, 1)
            shapes[Place(stage, block, part, "conv", "bias")] = (width // 2,)
        shapes[Place(stage, block, "out", "conv", "weight")] = (width, width // 2, 1, 1, 1)
        shapes[Place(stage, block, "out", "conv", "bias")] = (width,)
        shapes |= {Place(stage, block, "sum", "norm", what): (width,) for what in NORM}
    return shapes | head(2048)


def csn_r152(*, preserved: bool) -> Shapes:
    """ip-CSN (`preserved`) or ir-CSN."""
    shapes = residual(152, stem=(3, 7, 7), a=lambda *_: 1, b=(3, 3, 3), depthwise=True, pointwise=preserved)
    return shapes | head(2048)


def slow_r50() -> Shapes:
    """TPN's backbone."""
    return residual(50, stem=(1, 7, 7), a=lambda stage, _: 3 if stage > 3 else 1)


def tpn_neck() -> dict[str, tuple[int, ...]]:
    """TPN's neck by mmaction2's names, without the classifier that only its training has."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, norm: bool = True) -> None:
        shapes[f"neck.{name}.conv.weight"] = shape
        if norm:
            shapes.update({f"neck.{name}.bn.{what}": (shape[0],) for what in NORM})

    for direction in (1, 2):
        for level in (0, 1):
            conv(f"level_fusion_{direction}.downsamples.{level}.conv", 1024, 1024 // 32, 1, 1, 1)
        conv(f"level_fusion_{direction}.fusion_conv", 2048, 2048, 1, 1, 1)
    conv("spatial_modulation.spatial_modulation.0.0", 2048, 1024, 1, 3, 3)
    for level in (0, 1):
        conv(f"temporal_modulation_ops.{level}.conv", 1024, 2048 // 32, 3, 1, 1, norm=False)
    conv("downsample_ops.0.conv", 1024, 1024, 3, 1, 1, norm=False)
    conv("pyramid_fusion", 2048, 4096, 1, 1, 1)
    return shapes


def tpn_auxiliary() -> dict[str, tuple[int, ...]]:
    """The classifier beside TPN's neck."""
    norm = {f"neck.aux_head.conv.bn.{what}": (2048,) for what in NORM}
    fc = {"neck.aux_head.fc.weight": (400, 2048), "neck.aux_head.fc.bias": (400,)}
    return {"neck.aux_head.conv.conv.weight": (2048, 1024, 1, 3, 3), **norm, **fc}


def pyslowfast_x3d(name: str) -> str:
    """PySlowFast's name of an X3D's tensor, given pytorchvideo's, whose stem calls space time."""
    stem = {"conv.conv_t": "conv_xy", "conv.conv_xy": "conv", "norm": "bn"}
    tail = {
        "pool.pre_conv": "conv_5",
        "pool.pre_norm": "conv_5_bn",
        "pool.post_conv": "lin_5",
        "proj": "projection",
    }
    inside = {
        "branch1_conv": "branch1",
        "branch1_norm": "branch1_bn",
        "branch2.norm_b.0": "branch2.b_bn",
        "branch2.norm_b.1.block.0": "branch2.se.fc1",
        "branch2.norm_b.1.block.2": "branch2.se.fc2",
        **{f"branch2.conv_{letter}": f"branch2.{letter}" for letter in "abc"},
        **{f"branch2.norm_{letter}": f"branch2.{letter}_bn" for letter in "ac"},
    }
    _, block, *middle, what = name.split(".")
    if block == "0":
        return f"s1.pathway0_stem.{stem['.'.join(middle)]}.{what}"
    if block == "5":
        return f"head.{tail['.'.join(middle)]}.{what}"
    return f"s{int(block) + 1}.pathway0_res{middle[1]}.{inside['.'.join(middle[2:])]}.{what}"


def pytorchvideo(
    place: Place, *, pooled: bool = False, parallel: bool = False, preserved: bool = False
) -> str:
    """The names of ours.

    Args:
        place: The place.
        preserved: Of ip-CSN, where the second convolution is the last of three layers.
        pooled: A pooling after stage 2 counts as a block (c2d, i3d).
        parallel: There are two pathways.
    """
    index = place.stage - 1 + (1 if pooled and place.stage > 2 else 0)
    if place.part == "head":
        return f"blocks.{6 if parallel else index}.proj.{place.what}"
    if place.part == "fuse":
        part = "conv_fast_to_slow" if place.kind == "conv" else "norm"
        return f"blocks.{index}.multipathway_fusion.{part}.{place.what}"
    prefix = f"blocks.{index}." + (f"multipathway_blocks.{place.pathway}." if parallel else "")
    if place.part == "stem":
        return f"{prefix}{place.kind}.{place.what}"
    if place.part in ("theta", "phi", "g", "out", "sum"):
        part = "norm" if place.kind == "norm" else f"conv_{place.part}"
        return f"{prefix}nonlocal_blocks.{place.block}.{part}.{place.what}"
    prefix += f"res_blocks.{place.block}."
    if place.part == "shortcut":
        return f"{prefix}branch1_{place.kind}.{place.what}"
    if place.part == "b" and place.kind == "conv" and preserved:
        return f"{prefix}branch2.conv_b.2.{place.what}"
    if place.part == "pointwise":
        return f"{prefix}branch2.conv_b.{0 if place.kind == 'conv' else 1}.{place.what}"
    return f"{prefix}branch2.{place.kind}_{place.part}.{place.what}"


def pyslowfast(place: Place) -> str:
    norm = place.kind == "norm"
    if place.part == "head":
        return f"head.projection.{place.what}"
    if place.part == "stem":
        return f"s1.pathway{place.pathway}_stem.{'bn' if norm else 'conv'}.{place.what}"
    if place.part == "fuse":
        return f"s{place.stage}_fuse.{'bn' if norm else 'conv_f2s'}.{place.what}"
    if place.part in ("theta", "phi", "g", "out", "sum"):
        part = "bn" if norm else f"conv_{place.part}"
        return f"s{place.stage}.pathway0_nonlocal{place.block}.{part}.{place.what}"
    branch = "branch1" if place.part == "shortcut" else f"branch2.{place.part}"
    return f"s{place.stage}.pathway{place.pathway}_res{place.block}.{branch}{'_bn' * norm}.{place.what}"


def mmaction2(place: Place) -> str:
    kind = "bn" if place.kind == "norm" else "conv"
    if place.part == "head":
        return f"cls_head.fc_cls.{place.what}"
    if place.part == "stem":
        return f"backbone.conv1.{kind}.{place.what}"
    layer = f"backbone.layer{place.stage - 1}.{place.block}"
    part = {"shortcut": "downsample", "a": "conv1", "b": "conv2", "c": "conv3"}[place.part]
    return f"{layer}.{part}.{kind}.{place.what}"


def mmaction2_csn(place: Place, *, preserved: bool) -> str:
    """The second convolution is a sequence, of two convolutions with norms where it is ip-CSN's."""
    kind = "bn" if place.kind == "norm" else "conv"
    layer = f"backbone.layer{place.stage - 1}.{place.block}"
    if place.part == "pointwise":
        return f"{layer}.conv2.0.{kind}.{place.what}"
    if place.part == "b":
        return f"{layer}.conv2.{1 if preserved else 0}.{kind}.{place.what}"
    return mmaction2(place)


def vmz(place: Place, *, preserved: bool) -> str:
    """torchvision's VideoResNet."""
    kind = 1 if place.kind == "norm" else 0
    if place.part == "head":
        return f"fc.{place.what}"
    if place.part == "stem":
        return f"stem.{kind}.{place.what}"
    layer = f"layer{place.stage - 1}.{place.block}"
    if place.part == "shortcut":
        return f"{layer}.downsample.{kind}.{place.what}"
    if place.part == "pointwise":
        return f"{layer}.conv2.0.{kind}.{place.what}"
    if place.part == "b" and preserved and kind == 0:
        return f"{layer}.conv2.0.2.{place.what}"
    return f"{layer}.conv{'abc'.index(place.part) + 1}.{kind}.{place.what}"


_BLOB = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def _ending(place: Place) -> str:
    return _BLOB[place.what] if place.kind == "norm" else place.what[0]


def caffe2(place: Place) -> str:
    """video-nonlocal-net's blobs, and those of PySlowFast's first zoo."""
    fast, end, norm = "t_" * place.pathway, _ending(place), "bn_" * (place.kind == "norm")
    if place.part == "head":
        return f"pred_{end}"
    if place.part == "stem":
        return f"{fast}res_conv1_bn_{end}" if norm else f"{fast}conv1_{end}"
    if place.part == "fuse":
        last = "pool1" if place.stage == 1 else f"res{place.stage}_{BLOCKS[50][place.stage - 2] - 1}"
        middle = "" if place.stage == 1 else "_branch2c_bn"
        return f"t_{last}{middle}_subsample_{norm}{end}"
    if place.part in ("theta", "phi", "g", "out", "sum"):
        part = "bn" if norm else place.part
        return f"nonlocal_conv{place.stage}_{place.block}_{part}_{end}"
    branch = "1" if place.part == "shortcut" else f"2{place.part}"
    return f"{fast}res{place.stage}_{place.block}_branch{branch}_{norm}{end}"


def vmz_caffe2(place: Place, *, preserved: bool) -> str:
    """VMZ's blobs: blocks are counted through all stages."""
    end, norm = _ending(place), place.kind == "norm"
    if place.part == "head":
        return f"last_out_L400_{end}"
    if place.part == "stem":
        return f"conv1_spatbn_relu_{end}" if norm else f"conv1_{end}"
    number = sum(BLOCKS[152][: place.stage - 2]) + place.block
    if place.part == "shortcut":
        return f"shortcut_projection_{number}_{'spatbn_' * norm}{end}"
    middle = "_middle" * (place.part == "pointwise")
    order = {"a": 1, "pointwise": 2, "b": 2, "c": 3} if preserved else {"a": 1, "b": 3, "c": 4}
    return f"comp_{number}_{'spatbn' if norm else 'conv'}_{order[place.part]}{middle}_{end}"


def numbered(shapes: Mapping[Place, tuple[int, ...]], naming: Naming) -> dict[str, torch.Tensor]:
    """A tensor for each place under a system's name of it, filled with the place's number, from 1."""
    return {
        naming(place): torch.full(shape, float(number))
        for number, (place, shape) in enumerate(shapes.items(), 1)
    }


def python2_pickle(blobs: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """What Python 2's cPickle wrote, protocol 2, of `dict(blobs=blobs)` with numpy arrays."""

    def string(text: bytes) -> bytes:
        return (
            b"U" + bytes([len(text)]) + text
            if len(text) < 256
            else b"T" + struct.pack("<i", len(text)) + text
        )

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def array(value: npt.NDArray[np.float32]) -> bytes:
        shape = b"(" + b"".join(map(integer, value.shape)) + b"t"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + string(b"b") + b"tR"
        kind = b"cnumpy\ndtype\n(" + string(b"f4") + b"K\x00K\x01tR"
        kind += b"(K\x03" + string(b"<") + b"NNN" + integer(-1) + integer(-1) + b"K\x00tb"
        return made + b"(K\x01" + shape + kind + b"\x89" + string(value.tobytes()) + b"tb"

    pairs = b"".join(string(name.encode()) + array(value) for name, value in blobs.items())
    return b"\x80\x02}" + string(b"blobs") + b"}(" + pairs + b"us."


def each(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    return ((name, value.numpy()) for name, value in tensors.items())
