"""Public Kinetics-400 checkpoints, network by network: what `init: kinetics400` stands for.

Their hosts publish no sha256. OpenMMLab's file names end in its first eight digits, which are checked. Left
out: i3d_nl_r101, for which no weights are public. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ukd_dist.errors import UsageError
from ukd_dist.initial import FORMS

_PYTORCHVIDEO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
_NONLOCAL = "https://s3.amazonaws.com/video-nonlocal"
_OPENMMLAB = "https://download.openmmlab.com/mmaction/recognition"


@dataclass(frozen=True)
class Published:
    """A public checkpoint.

    Attributes:
        url: Where it is.
        source: Who published it.
        sha256: The first digits of the file's that are publicly known; empty where none are.
    """

    url: str
    source: str
    sha256: str = ""


def _pytorchvideo(name: str) -> Published:
    return Published(f"{_PYTORCHVIDEO}/{name}.pyth", "PyTorchVideo")


def _openmmlab(name: str) -> Published:
    return Published(f"{_OPENMMLAB}/{name}.pth", "MMAction2", name.rpartition("-")[2])


PRETRAINED: Mapping[str, Published] = {
    "c2d_r50": _pytorchvideo("C2D_8x8_R50"),
    "i3d_r50": _pytorchvideo("I3D_8x8_R50"),
    "slow_r50": _pytorchvideo("SLOW_8x8_R50"),
    "slowfast_r50_4x16": _pytorchvideo("SLOWFAST_4x16_R50"),
    "slowfast_r50_8x8": _pytorchvideo("SLOWFAST_8x8_R50"),
    "slowfast_r101": _pytorchvideo("SLOWFAST_8x8_R101"),
    "r2plus1d_r50": _pytorchvideo("R2PLUS1D_16x4_R50"),
    "x3d_xs": _pytorchvideo("X3D_XS"),
    "x3d_s": _pytorchvideo("X3D_S"),
    "x3d_m": _pytorchvideo("X3D_M"),
    "x3d_l": _pytorchvideo("X3D_L"),
    "mvit_b_16x4": _pytorchvideo("MVIT_B_16x4"),
    # Of the paper's 32 frames, which PySlowFast's own (8 frames) are not.
    "i3d_nl_r50": Published(f"{_NONLOCAL}/i3d_nonlocal_32x2_IN_pretrain_400k.pkl", "video-nonlocal-net"),
    # Trained on Kinetics-400 alone; those of IG-65M or Sports-1M are had by their URLs.
    "ircsn_r152": _openmmlab(
        "csn/vmz/vmz_ircsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-5c933ae1"
    ),
    "ipcsn_r152": _openmmlab(
        "csn/vmz/vmz_ipcsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-d565828d"
    ),
    "tpn_r50": _openmmlab(
        "tpn/tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb/"
        "tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb-44362b55"
    ),
}


def published(arch: str) -> Published:
    """The checkpoint that `init: kinetics400` of a network means.

    Raises:
        UsageError: None is known.
    """
    try:
        return PRETRAINED[arch]
    except KeyError:
        raise UsageError(
            f"no public Kinetics-400 weights of {arch} are known",
            expected=f"init: {FORMS}; kinetics400 of one of {', '.join(sorted(PRETRAINED))}",
            action="give a checkpoint's path or URL, or remove init",
        ) from None
