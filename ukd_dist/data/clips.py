"""Clips: what views show of stored videos, in gamma-corrected, normalised batches, on a GPU or on a CPU.

Flow clips are in stored pixels a frame, x before y; a mirrored clip has its x negated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.data import frames, jpegs
from ukd_dist.data.frame_cache import FrameCache
from ukd_dist.data.shards import Rows, ShardSet, SplitName
from ukd_dist.data.stored import StoredVideos
from ukd_dist.data.views import Batch, frame_numbers, windows
from ukd_dist.data_config import Codec, Modality

# Gamma-corrected dark videos are far from ImageNet's statistics; one mean and deviation serve every channel.
RGB_MEAN, RGB_STD = 0.45, 0.225
CHANNELS: dict[Modality, int] = {"rgb": 3, "flow": 2}


@dataclass(frozen=True)
class EncodedBatch:
    """Stored videos and the view of each, B of them.

    Attributes:
        videos: Components, uint8.
        frames: Frames of each video, int64 `[B]`.
        sizes: Height and width of each video, pixels, int64 `[B, 2]`.
        views: What is shown of them.
    """

    videos: list[npt.NDArray[np.uint8]]
    frames: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    views: Batch


@dataclass(frozen=True)
class Clips:
    """A batch of decoded clips.

    Attributes:
        clips_bcthw: float32, `[batch, channels, frames, size, size]`.
        rows_b: Row numbers, int64.
        views_b: Numbers of the rows' stored views, int64; `views.FREE` where a view is none of them.
        labels_b: Class indexes, int64.
    """

    clips_bcthw: torch.Tensor
    rows_b: torch.Tensor
    views_b: torch.Tensor
    labels_b: torch.Tensor

    def parts(self, count: int) -> Iterator[Clips]:
        """The batch in so many equal parts, in order."""
        split = (
            tensor.chunk(count) for tensor in (self.clips_bcthw, self.rows_b, self.views_b, self.labels_b)
        )
        return (Clips(*tensors) for tensors in zip(*split, strict=True))


def decode_clips(
    shards: ShardSet,
    split: SplitName,
    modality: Modality,
    clip: Clip,
    batches: Iterable[Batch],
    *,
    batch_size: int,
    device: torch.device,
    decoder: torch.device | None = None,
    cache: FrameCache | None = None,
    num_threads: int = 1,
) -> Iterator[Clips]:
    """Decode the batches' clips in order.

    Args:
        shards: Where the videos lie.
        split: Which of its splits.
        modality: Which component.
        clip: Frames, size and gamma.
        batches: Rows and views, `views.training_batches` or `views.evaluation_batches`.
        batch_size: Largest number of rows of a batch.
        device: Where the clips are wanted.
        decoder: What decodes them: cuda with NVDEC and nvJPEG, cpu with DALI's software; default: `device`.
        cache: Of this split and modality, with all rows of the batches; they are not decoded then.
        num_threads: DALI's threads.

    Yields:
        The clips on `device`; on a CPU valid until the next but one are asked for.

    Raises:
        UsageError: The shards lack the component, or its codec needs NVDEC and the decoder is a CPU.
    """
    decoder = decoder or device
    videos = StoredVideos(shards, split, modality, decoder)
    bound, labels = shards.encoding.flow_bound, torch.from_numpy(videos.rows.labels)
    if cache is not None:
        shown = ((_from_memory(cache, videos.rows, batch, clip), batch) for batch in batches)
        made = _clips(shown, "decoded", modality, clip, batch_size, bound, device, decoder, num_threads)
    else:
        made = decode(
            _encoded(videos, batches),
            modality,
            clip,
            batch_size=batch_size,
            flow_bound=bound,
            device=device,
            decoder=decoder,
            codec=videos.codec,
            num_threads=num_threads,
        )
    for clips_bcthw, rows_b, views_b in made:
        yield Clips(clips_bcthw, rows_b.to(device), views_b.to(device), labels[rows_b].to(device))


def decode(
    encoded: Iterable[EncodedBatch],
    modality: Modality,
    clip: Clip,
    *,
    batch_size: int,
    flow_bound: float,
    device: torch.device,
    decoder: torch.device | None = None,
    codec: Codec = "vp9",
    num_threads: int = 1,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Decode stored videos as their views say.

    Args:
        encoded: The videos.
        modality: What the videos show.
        clip: Frames, size and gamma.
        batch_size: Largest number of videos of a batch.
        flow_bound: Flow that the lightest grey level stands for, stored pixels a frame.
        device: Where the clips are wanted.
        decoder: What decodes; default: `device`.
        codec: How the videos are stored; jpeg: as `jpegs` holds them.
        num_threads: DALI's threads.

    Yields:
        The clips, float32 `[batch, channels, frames, size, size]` on `device`, on a CPU valid until the next
        but one are asked for; on the CPU their row numbers and the numbers of their stored views, int64.
    """
    shown = ((_shown(batch, clip, codec), batch.views) for batch in encoded)
    form: frames.Form = "stills" if codec == "jpeg" else "video"
    yield from _clips(
        shown, form, modality, clip, batch_size, flow_bound, device, decoder or device, num_threads
    )


def _clips(
    batches: Iterable[tuple[frames.Shown, Batch]],
    form: frames.Form,
    modality: Modality,
    clip: Clip,
    batch_size: int,
    flow_bound: float,
    device: torch.device,
    decoder: torch.device,
    num_threads: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    pending: deque[Batch] = deque()

    def shown() -> Iterator[frames.Shown]:
        for content, views in batches:
            pending.append(views)
            yield content

    # Copies on one stream of their own: waiting for them must not wait for the training step before.
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    shape = CHANNELS[modality], clip.frames, clip.size, clip.size
    # On a CPU two pieces of memory serve all batches: asking for it anew costs a quarter of the work on it.
    memory = cycle([torch.empty((batch_size, *shape)) for _ in range(2)]) if device.type == "cpu" else None
    for videos in frames.resized(
        shown(),
        form,
        modality,
        size=clip.size,
        antialias=clip.antialias,
        flow_bound=flow_bound,
        batch_size=batch_size * clip.frames if form == "stills" else batch_size,
        device=decoder,
        num_threads=num_threads,
    ):
        views = pending.popleft()
        with torch.cuda.stream(copying):
            fresh = torch.empty((len(videos), *shape), device=device) if memory is None else next(memory)
            clips_bcthw = fresh[: len(videos)]
            _finish(videos, views, modality, clip.gamma, clips_bcthw)
        if copying is not None:
            copying.synchronize()
            clips_bcthw.record_stream(torch.cuda.current_stream(device))
        yield clips_bcthw, torch.from_numpy(views.rows), torch.from_numpy(views.views)


def _encoded(videos: StoredVideos, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
    for batch in batches:
        read = [videos.read(row) for row in batch.rows.tolist()]
        yield EncodedBatch(read, videos.rows.frames[batch.rows], videos.rows.sizes[batch.rows], batch)


def _shown(batch: EncodedBatch, clip: Clip, codec: Codec) -> frames.Shown:
    numbers = frame_numbers(batch.views, batch.frames, clip)
    content: list[Any] = batch.videos
    if codec == "jpeg":
        content = [jpegs.select(video, shown) for video, shown in zip(content, numbers, strict=True)]
    return frames.Shown(content, numbers, windows(batch.views, batch.sizes, clip.size))


def _from_memory(cache: FrameCache, rows: Rows, batch: Batch, clip: Clip) -> frames.Shown:
    numbers = frame_numbers(batch, rows.frames[batch.rows], clip)
    content = [cache.read(row, shown) for row, shown in zip(batch.rows.tolist(), numbers, strict=True)]
    return frames.Shown(content, numbers, windows(batch, rows.sizes[batch.rows], clip.size))


def _finish(
    videos: list[torch.Tensor], views: Batch, modality: Modality, gamma: float, clips_bcthw: torch.Tensor
) -> None:
    """Make one clip of each video's resized frames `[frames, size, size, channels]`; the last is repeated."""
    scale = 255 ** (-1 / gamma) / RGB_STD
    for clip_cthw, frames_thwc, mirrored in zip(clips_bcthw, videos, views.mirror, strict=True):
        there = len(frames_thwc)
        part = clip_cthw[:, :there].copy_(frames_thwc.to(clips_bcthw.device).permute(3, 0, 1, 2))
        if modality == "rgb":
            part.pow_(1 / gamma).mul_(scale).sub_(RGB_MEAN / RGB_STD)
        elif mirrored:
            part[0].neg_()
        clip_cthw[:, there:] = part[:, -1:]
