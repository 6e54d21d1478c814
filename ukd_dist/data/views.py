"""Which frames and which crop of a sample a network sees, and in which order samples come.

Everything here is a pure function of (seed, epoch, sample), never of a rank, a step or what came before: a
resumed run sees what an uninterrupted one sees, and any number of ranks share the same views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd_dist.clip_config import Clip, Views

_ORDER, _VIEW, _STORED, _TURN = 0, 1, 2, 3  # purposes: separate streams of random numbers
_NUMBERS_PER_VIEW = 5

CENTRE = Views().name
FREE = -1


@dataclass(frozen=True)
class Batch:
    """The rows of one step on one rank, and the view of each, all of length B.

    Attributes:
        rows: Row numbers within the split, int64.
        views: Numbers of the rows' stored views, int64; `FREE` where the view is none of them.
        start_frames: First decoded frame, int32.
        short_sides: Short side after resizing, pixels, float32.
        crop_x: Crop position from left (0) to right (1), float32.
        crop_y: Crop position from top (0) to bottom (1), float32.
        mirror: 1 where the clip is mirrored, int32.
    """

    rows: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    start_frames: npt.NDArray[np.int32]
    short_sides: npt.NDArray[np.float32]
    crop_x: npt.NDArray[np.float32]
    crop_y: npt.NDArray[np.float32]
    mirror: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """The part of a picture that is shown of each of B videos, as shares of its height and width.

    Attributes:
        begin: Top and left edge, float32 `[B, 2]`; left is the greater one where the picture is mirrored.
        end: Bottom and right edge, float32 `[B, 2]`.
    """

    begin: npt.NDArray[np.float32]
    end: npt.NDArray[np.float32]


def frame_numbers(batch: Batch, frames: npt.NDArray[np.int64], clip: Clip) -> list[npt.NDArray[np.int32]]:
    """Which frames are shown of each video, each once: after the last one it is repeated.

    Args:
        batch: The views.
        frames: Frames of each view's video `[B]`.
        clip: The clip.

    Returns:
        B rising arrays of 1 to `clip.frames` numbers, int32.
    """
    wanted = batch.start_frames[:, None] + clip.stride * np.arange(clip.frames)
    shown = np.minimum(wanted, frames[:, None] - 1).astype(np.int32)
    return [numbers[: 1 + np.count_nonzero(np.diff(numbers))] for numbers in shown]


def windows(batch: Batch, sizes: npt.NDArray[np.int64], size: int) -> Windows:
    """Where the crops lie in pictures that are not resized yet.

    A picture is resized to the view's short side with its shape kept and its long side rounded; the crop then
    lies at whole pixels of it.

    Args:
        batch: The views.
        sizes: Height and width of each view's video, pixels `[B, 2]`.
        size: Side of the crop, pixels after resizing.
    """
    scales = batch.short_sides.astype(np.float64) / sizes.min(axis=1)
    exact = sizes * scales[:, None]
    rounded = np.floor(exact + 0.5)
    places = np.stack([batch.crop_y, batch.crop_x], axis=1).astype(np.float64)
    # Rounding cuts or widens a picture around its centre.
    begin = np.floor(places * (rounded - size) + 0.5) + (exact - rounded) / 2
    end = begin + size
    mirrored = batch.mirror == 1
    begin[mirrored, 1], end[mirrored, 1] = end[mirrored, 1], begin[mirrored, 1]
    return Windows((begin / exact).astype(np.float32), (end / exact).astype(np.float32))


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
    stored: Views | None = None,
    rows: npt.NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Every step's share of one rank over some epochs, with random views; the remainder is dropped.

    Of V stored views a row is shown one an epoch in turn, so that V epochs show each once.

    Args:
        frames: Frames of each row's video.
        clip: The clip.
        seed: The training's seed.
        epochs: Epoch numbers, for example `range(resumed, total)`.
        batch_size: Clips a step over all ranks; a multiple of `world_size`.
        rank: This rank.
        world_size: Ranks.
        stored: Show these stored views instead of fresh random ones.
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
            if stored is None:
                yield _random_views(drawn, np.full_like(drawn, FREE), frames[drawn], random[drawn], clip)
            else:
                yield stored_views(drawn, _turns(seed, epoch, drawn, stored), frames[drawn], clip, stored)


def evaluation_batches(
    frames: npt.NDArray[np.int64],
    clip: Clip,
    batch_size: int,
    views: Views | None = None,
    portrait: npt.NDArray[np.bool_] | None = None,
) -> Iterator[Batch]:
    """Every view of every row once, rows in order, a row's views together; the last batch may be smaller.

    Args:
        frames: Frames of each row's video.
        clip: The clip.
        batch_size: Clips a batch.
        views: What is seen of a row; default: its centre.
        portrait: Rows whose video is taller than wide, as `stored_views` takes it.
    """
    views = views or Views()
    for begin in range(0, len(frames) * views.count, batch_size):
        clips = np.arange(begin, min(begin + batch_size, len(frames) * views.count))
        rows, numbers = np.divmod(clips, views.count)
        yield stored_views(
            rows, numbers, frames[rows], clip, views, None if portrait is None else portrait[rows]
        )


def stored_views(
    rows: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    frames: npt.NDArray[np.int64],
    clip: Clip,
    views: Views,
    portrait: npt.NDArray[np.bool_] | None = None,
) -> Batch:
    """The views that stored logits speak of: functions of (views, view number, row), whoever looks.

    Random views are drawn as training's are, from a stream of their own. Others are spread evenly: clip i of
    n starts in the middle of the i-th n-th of all possible starts, so that one alone is the video's centre.

    Args:
        rows: Row numbers `[B]`.
        numbers: Number of each row's view, 0 to `views.count - 1`.
        frames: Frames of each row's video.
        clip: The clip.
        views: The views.
        portrait: Videos that are taller than wide, where crops lie along the height; needed for `crops: 3`.
    """
    if views.kind == "random":
        seeds = ([views.seed, number, row, _STORED] for number, row in zip(numbers, rows, strict=True))
        random = np.array([np.random.default_rng(seed).random(_NUMBERS_PER_VIEW) for seed in seeds])
        return _random_views(rows, numbers, frames, random, clip)
    return _even_views(rows, numbers, frames, clip, views, portrait)


def _even_views(
    rows: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    frames: npt.NDArray[np.int64],
    clip: Clip,
    views: Views,
    portrait: npt.NDArray[np.bool_] | None,
) -> Batch:
    assert views.crops == 1 or portrait is not None, "crops along the long side need to know which it is"
    clips, crops = np.divmod(numbers, views.crops)
    half = np.full(len(rows), 0.5, np.float32)
    along = half if views.crops == 1 else (crops / (views.crops - 1)).astype(np.float32)
    return Batch(
        rows=rows,
        views=numbers,
        start_frames=(_spare_frames(frames, clip) * (2 * clips + 1) // (2 * views.clips)).astype(np.int32),
        short_sides=np.full(len(rows), clip.short_side[0], np.float32),
        crop_x=along if portrait is None else np.where(portrait, half, along),
        crop_y=half if portrait is None else np.where(portrait, along, half),
        mirror=np.zeros(len(rows), np.int32),
    )


def _turns(seed: int, epoch: int, rows: npt.NDArray[np.int64], views: Views) -> npt.NDArray[np.int64]:
    """Number of the stored view that a training shows of each row in an epoch."""
    firsts = [int(np.random.default_rng([seed, row, _TURN]).integers(views.count)) for row in rows]
    return (np.array(firsts, np.int64) + epoch) % views.count


def _random_views(
    rows: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    frames: npt.NDArray[np.int64],
    random: npt.NDArray[np.float64],
    clip: Clip,
) -> Batch:
    start, short, x, y, flip = random.T
    low, high = clip.short_side
    return Batch(
        rows=rows,
        views=numbers,
        start_frames=np.floor(start * (_spare_frames(frames, clip) + 1)).astype(np.int32),
        short_sides=np.floor(low + short * (high - low + 1)).astype(np.float32),
        crop_x=x.astype(np.float32),
        crop_y=y.astype(np.float32),
        mirror=((flip < 0.5) & clip.flip).astype(np.int32),
    )


def _spare_frames(frames: npt.NDArray[np.int64], clip: Clip) -> npt.NDArray[np.int64]:
    """Frames that a video has beyond one clip; 0 where it is shorter, and its last frame is repeated."""
    return np.maximum(frames - ((clip.frames - 1) * clip.stride + 1), 0)
