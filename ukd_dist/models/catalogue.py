"""The networks by name: what each is and how it samples the decoded frames. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError
from ukd_dist.models.own import check_own, is_own


@dataclass(frozen=True)
class Figures:
    """What a network costs, for 400 classes of rgb.

    Attributes:
        frames: Decoded frames of the clip that is counted.
        size: Its side, pixels.
        parameters: Weights.
        gmacs: 10^9 multiply-adds in convolutions and matrix products.
    """

    frames: int
    size: int
    parameters: int
    gmacs: float


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is built.

    Attributes:
        every: For each pathway, it sees every n-th decoded frame; slow before fast.
        source: Who described it, and as which TxS of the paper: T frames, S apart.
        figures: What it costs.
        builder: Whose code builds it.
        least: Decoded frames, and pixels a side, that it needs.
        unit: Frames of the slowest pathway, and pixels, of which a clip must have a multiple.
    """

    every: tuple[int, ...]
    source: str
    figures: Figures
    builder: str = "pytorchvideo"
    least: tuple[int, int] = (1, 16)
    unit: tuple[int, int] = (1, 1)


_OURS = "pytorchvideo, ukd-dist"
_SLOWFAST = "Feichtenhofer et al. 2019"
_NONLOCAL = "Wang et al. 2018"
_CSN = "Tran et al. 2019"
_X3D = "Feichtenhofer 2020"
_I3D = "Carreira and Zisserman 2017"

# A window of 64 frames of a video, decoded as 64 of stride 1 (SlowFast) or 32 of stride 2 (the others), shows
# each network T frames, S apart; X3D about as many.
NETWORKS: Mapping[str, Network] = {
    "slowfast_r50_4x16": Network((16, 2), f"{_SLOWFAST}, 4x16", Figures(64, 256, 34_480_216, 36.1)),
    "slowfast_r50_8x8": Network((8, 2), f"{_SLOWFAST}, 8x8", Figures(64, 256, 34_566_488, 65.71)),
    "slowfast_r101": Network((8, 2), f"{_SLOWFAST}, 8x8", Figures(64, 256, 62_826_968, 125.9)),
    "slow_r50": Network((4,), f"{_SLOWFAST}, 8x8", Figures(32, 256, 32_454_096, 54.52)),
    "c2d_r50": Network((4,), f"{_NONLOCAL}, 8x8", Figures(32, 256, 24_327_632, 25.46), least=(8, 16)),
    "i3d_r50": Network((4,), f"{_I3D}, 8x8", Figures(32, 256, 28_043_472, 37.1), least=(8, 16)),
    "i3d_nl_r50": Network(
        (1,), f"{_NONLOCAL}, 32x2", Figures(32, 224, 35_401_936, 41.26), _OURS, least=(7, 32)
    ),
    "i3d_nl_r101": Network(
        (1,), f"{_NONLOCAL}, 32x2", Figures(32, 224, 54_394_064, 56.11), _OURS, least=(7, 32)
    ),
    "ircsn_r152": Network((1,), f"{_CSN}, 32x2", Figures(32, 256, 29_703_568, 96.71)),
    "ipcsn_r152": Network((1,), f"{_CSN}, 32x2", Figures(32, 256, 33_016_592, 108.8), _OURS),
    "tpn_r50": Network((1,), "Yang et al. 2020, 32x2", Figures(32, 224, 71_800_272, 198.2), _OURS),
    "r2plus1d_r50": Network((2,), "Tran et al. 2018, 16x4", Figures(32, 256, 28_107_600, 75.15)),
    "x3d_xs": Network((8,), f"{_X3D}, 4x12", Figures(32, 160, 3_794_274, 0.605), least=(8, 32)),
    "x3d_s": Network((2,), f"{_X3D}, 13x6", Figures(26, 160, 3_794_274, 1.963), least=(2, 32)),
    "x3d_m": Network((2,), f"{_X3D}, 16x5", Figures(32, 224, 3_794_274, 4.732), least=(2, 32)),
    "x3d_l": Network((2,), f"{_X3D}, 16x5", Figures(32, 312, 6_153_384, 18.37), least=(2, 32)),
    "mvit_b_16x4": Network(  # one token: 2 frames, 4 by 4 pixels
        (2,), "Fan et al. 2021, 16x4", Figures(32, 224, 36_610_672, 70.6), unit=(2, 4)
    ),
    "slowfast_tiny": Network((4, 1), "narrow SlowFast, depth 18", Figures(16, 64, 1_086_372, 0.095)),
    "x3d_tiny": Network((2,), "narrow, shallow X3D", Figures(16, 64, 269_588, 0.015), least=(2, 32)),
}


def check(arch: str, clip: Clip) -> None:
    """Refuse an unknown name, a module of the user's that is not there, or clips that a network cannot take.

    Nothing heavy is imported, nor any module of the user's.

    Raises:
        UsageError: As said.
    """
    if is_own(arch):
        check_own(arch)
        return
    if arch not in NETWORKS:
        raise UsageError(
            f"unknown network '{arch}'",
            expected=f"one of {', '.join(sorted(NETWORKS))}, or package.module:function",
            action="correct arch",
        )
    network = NETWORKS[arch]
    frames, pixels = network.unit
    what = f"{arch} cannot sample its pathways from clips of {clip.frames} frames"
    _check(what, "frames", clip.frames, network.least[0], frames * max(network.every))
    what = f"{arch} cannot take clips of {clip.size} pixels a side"
    _check(what, "size", clip.size, network.least[1], pixels)


def pathways(arch: str) -> tuple[int, ...]:
    """For each pathway of a network, by name or of the user's: it sees every n-th decoded frame."""
    return (1,) if is_own(arch) else NETWORKS[arch].every


def _check(problem: str, field: str, value: int, least: int, multiple: int) -> None:
    wanted = []
    if value % multiple:
        wanted.append(f"a multiple of {multiple}")
    if value < least:
        wanted.append(f"at least {least}")
    if wanted:
        raise UsageError(problem, expected=" and ".join(wanted), action=f"change clip.{field}")
