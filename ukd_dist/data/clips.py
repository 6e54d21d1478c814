"""Clips: one DALI pipeline decodes, resizes, crops, corrects and normalises, on a GPU or on a CPU.

The encoded bytes, row numbers and views are handed in from outside, so that batch order and views stay the
pure functions that `views` computes; DALI's own reader shuffles within a window only. Flow clips are in
stored pixels a frame, x before y; a mirrored clip has its x negated. Videos and single JPEG frames enter by
different decoders; all that follows is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.data import jpegs
from ukd_dist.data.modalities import component, stored_codec
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.data.streams import check_cpu_decodes
from ukd_dist.data.views import Batch
from ukd_dist.data_config import Clip, Codec, Modality

# Gamma-corrected dark videos are far from ImageNet's statistics; one mean and deviation serve every channel.
RGB_MEAN, RGB_STD = 0.45, 0.225
# Encoded videos, rows, view numbers, start frames, short sides, crop x and y, mirror: one entry a clip each.
EncodedBatch = tuple[Any, ...]
CHANNELS: dict[Modality, int] = {"rgb": 3, "flow": 2}


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
        num_threads: DALI's threads.

    Yields:
        The clips on `device`. On a CPU they may alias DALI's buffer until the next step.

    Raises:
        UsageError: The shards lack the component, or its codec needs NVDEC and the decoder is a CPU.
    """
    decoder = decoder or device
    labels = torch.from_numpy(shards.rows[split].labels)
    codec = stored_codec(modality, shards.codec)
    encoded = _encoded(shards, split, modality, batches, on_cpu=decoder.type == "cpu")
    for clips_bcthw, rows_b, views_b in decode(
        encoded,
        modality,
        clip,
        batch_size=batch_size,
        flow_bound=shards.encoding.flow_bound,
        device=decoder,
        codec=codec,
        num_threads=num_threads,
    ):
        yield Clips(clips_bcthw.to(device), rows_b.to(device), views_b.to(device), labels[rows_b].to(device))


def decode(
    encoded: Iterator[EncodedBatch],
    modality: Modality,
    clip: Clip,
    *,
    batch_size: int,
    flow_bound: float,
    device: torch.device,
    codec: Codec = "vp9",
    num_threads: int = 1,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Decode encoded videos as their views say.

    Args:
        encoded: `encoded_batch` of each batch.
        modality: What the videos show.
        clip: Frames, size and gamma.
        batch_size: Largest number of videos of a batch.
        flow_bound: Flow that the lightest grey level stands for, stored pixels a frame.
        device: What decodes.
        codec: How the videos are stored; jpeg: as `jpegs` holds them.
        num_threads: DALI's threads.

    Yields:
        The clips on `device`; on the CPU their row numbers and the numbers of their stored views, int64.
    """
    device_id = (device.index or 0) if device.type == "cuda" else None
    stills = clip.frames if codec == "jpeg" else 1  # samples of the pipeline that make one clip
    source = _single_frames(encoded, clip) if codec == "jpeg" else encoded
    pipeline = _build(
        source, modality, clip, batch_size * stills, flow_bound, device_id, num_threads, codec == "jpeg"
    )
    # Copies on one stream of their own: waiting for them must not wait for the training step before.
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    while True:
        try:
            clips, *numbers = pipeline.run()
        except StopIteration:
            return
        rows_b, views_b = (
            torch.from_numpy(np.asarray(n.as_tensor()).reshape(-1)[::stills].astype(np.int64))
            for n in numbers
        )
        shared: torch.Tensor = torch.utils.dlpack.from_dlpack(clips.as_tensor())
        if codec == "jpeg":
            shared = shared.reshape(-1, clip.frames, *shared.shape[1:]).transpose(1, 2)
        yield _owned(shared, copying), rows_b, views_b


def _owned(shared: torch.Tensor, copying: torch.cuda.Stream | None) -> torch.Tensor:
    """DALI's output in order of memory; on a GPU a copy: DALI reuses its buffer while kernels read."""
    if copying is None:
        return shared.contiguous()
    with torch.cuda.stream(copying):
        owned = shared.clone(memory_format=torch.contiguous_format)
    copying.synchronize()
    owned.record_stream(torch.cuda.current_stream(owned.device))
    return owned


def _encoded(
    shards: ShardSet,
    split: SplitName,
    modality: Modality,
    batches: Iterable[Batch],
    *,
    on_cpu: bool,
) -> Iterator[EncodedBatch]:
    name = component(modality, shards.codec)
    unchecked = on_cpu and stored_codec(modality, shards.codec) == "copy"
    sound: set[int] = set()
    for batch in batches:
        videos = [shards.read(split, int(row), name) for row in batch.rows]
        if unchecked:
            for row, video in zip(batch.rows.tolist(), videos, strict=True):
                if row not in sound:
                    check_cpu_decodes(video, f"'{shards.rows[split].keys[row]}' in {shards.directory}")
                    sound.add(row)
        yield encoded_batch(videos, batch)


def _single_frames(encoded: Iterable[EncodedBatch], clip: Clip) -> Iterator[EncodedBatch]:
    """Batches of the clips' frames, in order, each with what its clip's view says but the first frame."""
    for videos, rows, views, starts, *crops in encoded:
        frames = [
            frame
            for video, start in zip(videos, starts.tolist(), strict=True)
            for frame in jpegs.select(video, start, clip.stride, clip.frames)
        ]
        yield frames, *(np.repeat(column, clip.frames) for column in (rows, views, *crops))


def encoded_batch(videos: Sequence[npt.NDArray[np.uint8]], batch: Batch) -> EncodedBatch:
    """Encoded videos with the views of a batch, as `decode` takes them."""
    return (
        list(videos),
        batch.rows,
        batch.views,
        batch.start_frames,
        batch.short_sides,
        batch.crop_x,
        batch.crop_y,
        batch.mirror,
    )


def _build(
    source: Iterator[EncodedBatch],
    modality: Modality,
    clip: Clip,
    batch_size: int,
    flow_bound: float,
    device_id: int | None,
    num_threads: int,
    single_frames: bool,
) -> Any:
    from nvidia.dali import fn, math, pipeline_def, types

    backend = "cpu" if device_id is None else "mixed"

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=2
    )
    def pipeline() -> tuple[Any, Any, Any]:
        encoded, rows, views, *starts, short_side, crop_x, crop_y, mirror = fn.external_source(
            source=source, num_outputs=7 if single_frames else 8, batch=True
        )
        if single_frames:
            # The CPU's way of enlarging chroma, on a GPU too: one network, one picture.
            frames = fn.decoders.image(encoded, device=backend, jpeg_fancy_upsampling=True)
        else:
            frames = fn.decoders.video(
                encoded,
                device=backend,
                start_frame=starts[0],
                sequence_length=clip.frames,
                stride=clip.stride,
                pad_mode="edge",
            )
        if modality == "flow":
            halves = [
                fn.slice(frames, rel_start=[begin], rel_shape=[0.5], axis_names="H")[:, :, :, 0:1]
                for begin in (0.0, 0.5)
            ]
            frames = fn.cat(*halves, axis=3)
            frames = fn.reshape(frames, layout="FHWC")
        resized = fn.resize(
            frames, resize_shorter=short_side, dtype=types.FLOAT, interp_type=types.INTERP_LINEAR
        )
        cropped = fn.crop_mirror_normalize(
            resized,
            dtype=types.FLOAT,
            crop=(clip.size, clip.size),
            crop_pos_x=crop_x,
            crop_pos_y=crop_y,
            mirror=mirror,
            mean=[0.0] * CHANNELS[modality],
            std=[255.0] * CHANNELS[modality],
            output_layout="CHW" if single_frames else "CFHW",
        )
        if modality == "rgb":
            corrected = math.pow(math.clamp(cropped, 0.0, 1.0), 1.0 / clip.gamma)
            return (corrected - RGB_MEAN) * (1.0 / RGB_STD), rows, views
        flow = (cropped * 2.0 - 1.0) * flow_bound
        return fn.cat(flow[0:1] * (1.0 - 2.0 * mirror), flow[1:2], axis=0), rows, views

    built = pipeline()
    built.build()
    return built
