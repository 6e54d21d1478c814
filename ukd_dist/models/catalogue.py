"""The networks by name: what each is and how it samples the decoded frames. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is built.

    Attributes:
        family: Which builder of `networks` makes it.
        every: For each pathway, it sees every n-th decoded frame; slow before fast.
        description: One line for people.
    """

    family: Literal["slowfast_r50", "slowfast_tiny", "x3d_tiny"]
    every: tuple[int, ...]
    description: str


NETWORKS: Mapping[str, Network] = {
    # 4x16 of the SlowFast paper: a window of 64 frames, 4 of them slow, 32 fast (alpha 8, beta 1/8).
    "slowfast_r50_4x16": Network("slowfast_r50", (16, 2), "SlowFast R50 4x16 (Feichtenhofer et al. 2019)"),
    "slowfast_tiny": Network("slowfast_tiny", (4, 1), "narrow SlowFast of depth 18, for CPUs"),
    "x3d_tiny": Network("x3d_tiny", (2,), "X3D narrower than XS (Feichtenhofer 2020), for CPUs"),
}


def check(arch: str, clip: Clip) -> None:
    """Refuse an unknown name, or a clip that does not divide among the pathways.

    Raises:
        UsageError: As said.
    """
    if arch not in NETWORKS:
        raise UsageError(
            f"unknown network '{arch}'",
            expected=f"one of {', '.join(sorted(NETWORKS))}",
            action="correct arch",
        )
    slowest = max(NETWORKS[arch].every)
    if clip.frames % slowest:
        raise UsageError(
            f"{arch} cannot sample its pathways from clips of {clip.frames} frames",
            expected=f"a multiple of {slowest}",
            action="change clip.frames",
        )
