"""Compressed streams as they are: a source's pictures in a new MP4 without being decoded.

Only what DALI can decode later is taken: elsewhere sharding would succeed and no training could follow.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange

from ukd_dist.data.upright import Orientation
from ukd_dist.data.video import open_video, orientation_of
from ukd_dist.errors import DataError, UsageError

# What DALI decodes out of an MP4, and whether its CPU decoder does.
ON_CPU = {"h264": False, "hevc": False, "mpeg4": False, "vp9": True}
CODEC_NAMES = {"h264": "H.264", "hevc": "HEVC", "mpeg4": "MPEG-4", "vp9": "VP9"}


def copy_stream(path: Path, frames: int) -> bytes:
    """A video's picture stream, unchanged, as an MP4 of its own.

    Args:
        path: The video.
        frames: Frames that decoding it shows.

    Raises:
        DataError: DALI could not decode the stream or would show other frames or colours, or MP4 does not
            take it.
    """
    if orientation_of(path) != Orientation():
        raise _no_copy(path, "its pictures are turned or mirrored, and stored as they lie")
    buffer = io.BytesIO()
    try:
        with (
            open_video(path) as (source, stream),
            av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as target,
        ):
            _check(path, stream.codec_context)
            copied = _copy_packets(source, stream, target)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError):  # of the disk, not of the stream
            raise
        raise _no_copy(path, f"MP4 does not take its stream ({error})") from error
    if copied != frames:
        raise _no_copy(path, f"its stream holds {copied} pictures, of which {frames} are shown")
    return buffer.getvalue()


def check_cpu_decodes(component: npt.NDArray[np.uint8], place: str) -> None:
    """Refuse a stored stream that DALI decodes on a GPU only.

    Args:
        component: The stream.
        place: Which it is, in words.

    Raises:
        UsageError: Its codec needs NVDEC.
    """
    with av.open(io.BytesIO(component.tobytes())) as file:
        codec: str = file.streams.video[0].codec.canonical_name
    if not ON_CPU[codec]:
        raise UsageError(
            f"{CODEC_NAMES[codec]} shards on a machine without NVDEC: {place}",
            expected="VP9 or JPEG, which a CPU decodes, or a process with a GPU (resources.gpus)",
            action="give it a GPU, or shard with data.codec: vp9 or jpeg into another root",
        )


def _copy_packets(source: Any, stream: Any, target: Any) -> int:
    copied = target.add_stream_from_template(stream)
    packets = 0
    for packet in source.demux(stream):
        if packet.size:
            packets += 1
            packet.stream = copied
            target.mux(packet)
    return packets


def _check(path: Path, context: Any) -> None:
    codec = context.codec.canonical_name
    if codec not in ON_CPU:
        raise _no_copy(path, f"DALI decodes no {codec}")
    if context.pix_fmt != "yuv420p" or context.color_range == ColorRange.JPEG:
        raise _no_copy(
            path, f"its pictures are {context.pix_fmt}, range {ColorRange(context.color_range).name}"
        )


def _no_copy(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} cannot be stored as it is: {why}",
        expected=f"{', '.join(CODEC_NAMES.values())}, 4:2:0, 8 bit, limited range, upright and all shown",
        action="set data.codec: vp9 or jpeg",
    )
