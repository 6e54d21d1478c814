"""Which frames and which crop of a sample a network sees, and in which order samples come.

Everything here is a pure function of (seed, epoch, sample), never of a rank, a step or what came before: a
resumed run sees what an uninterrupted one sees, and any number of ranks share the same views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd_dist.config import Clip

_ORDER, _VIEW = 0, 1  # purposes: separate streams of random numbers
_NUMBERS_PER_VIEW = 5

CENTRE = "centre"


@dataclass(frozen=True)
class Batch:
    """The rows of one step on one rank, and the view of each, all of length B.

    Attributes:
        rows: Row numbers within the split, int64.
        start_frames: First decoded frame, int32.
        short_sides: Short side after resizing, pixels, float32.
        crop_x: Crop position from left (0) to right (1), float32.
        crop_y: Crop position from top (0) to bottom (1), float32.
        mirror: 1 where the clip is mirrored, int32.
    """

    rows: npt.NDArray[np.int64]
    start_frames: npt.NDArray[np.int32]
    short_sides: npt.NDArray[np.float32]
    crop_x: npt.NDArray[np.float32]
    crop_y: npt.NDArray[np.float32]
    mirror: npt.NDArray[np.int32]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Training steps of an epoch: the permutation's remainder is dropped, but never the only batch."""
    return max(1, num_rows // batch_size)


def training_batches(
    frames: npt.NDArray[np.int64],
    clip: Clip,
    *,
    seed: int,
    epochs: range,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    rows: npt.NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Every step's share of one rank over some epochs, with random views; the remainder is dropped.

    Args:
        frames: Frames of each row's video.
        clip: The clip.
        seed: The training's seed.
        epochs: Epoch numbers, for example `range(resumed, total)`.
        batch_size: Clips a step over all ranks; a multiple of `world_size`.
        rank: This rank.
        world_size: Ranks.
        rows: The rows that are trained on, int64; None for all. A row's view is the same in every subset.
    """
    share = batch_size // world_size
    trained_on = np.arange(len(frames)) if rows is None else rows
    for epoch in epochs:
        order = trained_on[np.random.default_rng([seed, epoch, _ORDER]).permutation(len(trained_on))]
        random = np.random.default_rng([seed, epoch, _VIEW]).random((len(frames), _NUMBERS_PER_VIEW))
        for step in range(steps_per_epoch(len(order), batch_size)):
            # Fewer rows than one batch: the permutation repeats, so that ranks still get equal shares.
            begin = step * batch_size + rank * share
            drawn = np.resize(order, max(len(order), batch_size))[begin : begin + share]
            yield _random_views(drawn, frames[drawn], random[drawn], clip)


def evaluation_batches(frames: npt.NDArray[np.int64], clip: Clip, batch_size: int) -> Iterator[Batch]:
    """Every row once, in row order, seen at its centre; the last batch may be smaller."""
    for begin in range(0, len(frames), batch_size):
        rows = np.arange(begin, min(begin + batch_size, len(frames)))
        half = np.full(len(rows), 0.5, np.float32)
        yield Batch(
            rows=rows,
            start_frames=(_spare_frames(frames[rows], clip) // 2).astype(np.int32),
            short_sides=np.full(len(rows), clip.short_side[0], np.float32),
            crop_x=half,
            crop_y=half,
            mirror=np.zeros(len(rows), np.int32),
        )


def _random_views(
    rows: npt.NDArray[np.int64], frames: npt.NDArray[np.int64], random: npt.NDArray[np.float64], clip: Clip
) -> Batch:
    start, short, x, y, flip = random.T
    low, high = clip.short_side
    return Batch(
        rows=rows,
        start_frames=np.floor(start * (_spare_frames(frames, clip) + 1)).astype(np.int32),
        short_sides=np.floor(low + short * (high - low + 1)).astype(np.float32),
        crop_x=x.astype(np.float32),
        crop_y=y.astype(np.float32),
        mirror=((flip < 0.5) & clip.flip).astype(np.int32),
    )


def _spare_frames(frames: npt.NDArray[np.int64], clip: Clip) -> npt.NDArray[np.int64]:
    """Frames that a video has beyond one clip; 0 where it is shorter, and its last frame is repeated."""
    return np.maximum(frames - ((clip.frames - 1) * clip.stride + 1), 0)
