"""Frames: DALI decodes what a view shows of each video and resizes its window, on a GPU or on a CPU.

The encoded bytes, frame numbers and windows are handed in from outside, so that batch order and views stay
the pure functions that `views` computes; DALI's own reader shuffles within a window only. Videos, single JPEG
frames and frames that were decoded before enter by different doors; the resizing that follows is the same.

No frame is asked for twice: DALI decodes a repeated one again, from its key frame on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from ukd_dist.data.modalities import unpacked_levels
from ukd_dist.data.views import Windows
from ukd_dist.data_config import Modality

Form = Literal["video", "stills", "decoded"]


@dataclass(frozen=True)
class Shown:
    """What a batch of B views shows of its videos, and what there is of them.

    Attributes:
        content: B arrays: encoded videos, uint8; or decoded frames, uint8 `[frames, height, width, 3]`; or
            lists of a video's JPEG frames.
        numbers: Of encoded videos: which of their frames, int32, B rising arrays.
        windows: The part of each picture.
    """

    content: list[Any]
    numbers: list[npt.NDArray[np.int32]]
    windows: Windows


def resized(
    batches: Iterable[Shown],
    form: Form,
    modality: Modality,
    *,
    size: int,
    antialias: bool,
    flow_bound: float,
    batch_size: int,
    device: torch.device,
    num_threads: int,
) -> Iterator[list[torch.Tensor]]:
    """Decode and resize.

    Args:
        batches: What to show.
        form: What the contents are.
        modality: What the pictures hold.
        size: Side of the resized windows, pixels.
        antialias: Whether a smaller picture averages over all of a larger one's pixels.
        flow_bound: Flow that the lightest grey level stands for, pixels a frame.
        batch_size: Largest number of pictures of a batch that are pictures by themselves, or of videos.
        device: What decodes and resizes.
        num_threads: DALI's threads.

    Yields:
        Of each batch and video the frames, float32 `[frames, size, size, channels]` on `device`: rgb in
        0..255, flow in pixels a frame. They are views of DALI's memory, valid until the next batch.
    """
    stills: deque[list[int]] = deque()  # of each batch on its way: JPEG frames a video

    def columns() -> Iterator[tuple[Any, ...]]:
        for shown in batches:
            if form != "stills":
                numbers = [shown.numbers] if form == "video" else []
                yield list(shown.content), *numbers, shown.windows.begin, shown.windows.end
                continue
            counts = [len(frames) for frames in shown.content]
            stills.append(counts)
            corners = (
                np.repeat(corner, counts, axis=0) for corner in (shown.windows.begin, shown.windows.end)
            )
            yield [frame for frames in shown.content for frame in frames], *corners

    def graph(content: Any, *others: Any) -> Any:
        from nvidia.dali import fn, types

        *numbers, begin, end = others
        frames = _decoded(content, form, device, *numbers)
        return fn.resize(
            _flow(frames, flow_bound) if modality == "flow" else frames,
            size=[size, size],
            roi_start=begin,
            roi_end=end,
            roi_relative=True,
            antialias=antialias,
            dtype=types.FLOAT,
            interp_type=types.INTERP_LINEAR,
        )

    inputs = 4 if form == "video" else 3
    for frames in _run(graph, columns(), inputs, batch_size, device, num_threads):
        if form == "stills":
            yield list(torch.split(from_dlpack(frames.as_tensor()), stills.popleft()))
        else:
            yield [from_dlpack(video) for video in frames]


def whole(
    videos: Iterable[Any],
    form: Form,
    modality: Modality,
    *,
    most_frames: int,
    device: torch.device,
    num_threads: int,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode videos from their first to their last frame.

    Args:
        videos: Encoded videos, or lists of JPEG frames.
        form: Which of the two.
        modality: What the pictures hold.
        most_frames: Of any of the videos.
        device: What decodes.
        num_threads: DALI's threads.

    Yields:
        Of each video what `Shown.content` takes as decoded: uint8 `[frames, height, width, 3]`, or of flow's
        pictures one channel and both halves; in memory of its own.
    """
    single = form == "stills"

    def graph(content: Any) -> Any:
        frames = _decoded(content, form, device)
        return frames[:, :, :, 0:1] if modality == "flow" else frames

    columns = ((list(video) if single else [video],) for video in videos)
    for frames in _run(graph, columns, 1, most_frames if single else 1, device, num_threads):
        on_host = frames.as_cpu()
        yield np.array(on_host.as_tensor() if single else on_host[0])


def _run(
    graph: Callable[..., Any],
    columns: Iterator[tuple[Any, ...]],
    inputs: int,
    batch_size: int,
    device: torch.device,
    num_threads: int,
) -> Iterator[Any]:
    """What DALI makes of each entry of `columns`."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=2,
    )
    def pipeline() -> Any:
        return graph(*fn.external_source(source=columns, num_outputs=inputs, batch=True))

    built = pipeline()
    built.build()
    while True:
        try:
            (made,) = built.run()
        except StopIteration:
            return
        yield made


def _decoded(content: Any, form: Form, device: torch.device, numbers: Any = None) -> Any:
    from nvidia.dali import fn

    backend = "mixed" if device.type == "cuda" else "cpu"
    if form == "stills":
        # The CPU's way of enlarging chroma, on a GPU too: one network, one picture.
        return fn.decoders.image(content, device=backend, jpeg_fancy_upsampling=True)
    if form == "video":
        return fn.decoders.video(content, device=backend, frames=numbers)
    return fn.reshape(content.gpu() if device.type == "cuda" else content, layout="FHWC")


def _flow(frames: Any, bound: float) -> Any:
    """Pictures of flow as flow: x and y side by side as channels, pixels a frame."""
    from nvidia.dali import fn, types

    pixels = fn.lookup_table(
        frames[:, :, :, 0:1],
        keys=list(range(256)),
        values=unpacked_levels(bound).tolist(),
        dtype=types.FLOAT,
    )
    halves = [fn.slice(pixels, rel_start=[begin], rel_shape=[0.5], axis_names="H") for begin in (0.0, 0.5)]
    return fn.reshape(fn.cat(*halves, axis=3), layout="FHWC")
