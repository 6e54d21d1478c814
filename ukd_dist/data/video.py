"""Video files in and encoded streams out, through PyAV; single JPEG frames and copied streams are beside it.

Frames travel as planar 4:2:0 arrays (`yuv420p`, uint8 `[height * 3 / 2, width]`, limited range), so that no
colour conversion stands between a camera's file and a shard; DALI converts once, when a clip is decoded.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from ukd_dist.errors import DataError

Frame = npt.NDArray[np.uint8]

_DISK_ERRORS = {errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE, errno.EMFILE, errno.ENOMEM}

# Options for VP9 that DALI decodes on a CPU and on NVDEC; a key frame every 16 keeps random access short.
_VP9 = {"b": "0", "g": "16", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "threads": "1"}


class RejectedVideoError(DataError):
    """A video that cannot teach anything; `reason` is one of the words that rejects.jsonl and metrics use."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(
            f"{path}: {detail}",
            expected="a video of at least 2 frames, all of them sound",
            action="mend it, or take it off its list",
        )
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.reason, self.detail)


@dataclass(frozen=True)
class VideoInfo:
    """What decoding a whole video showed.

    Attributes:
        frames: Decoded frames, at least 2.
        width: Pixels.
        height: Pixels.
        fps: Mean frames a second.
    """

    frames: int
    width: int
    height: int
    fps: float


def probe(path: Path) -> VideoInfo:
    """Decode every frame and say what is there; the verdict is the same on every machine.

    Raises:
        RejectedVideoError: unreadable, no_video, no_frames, one_frame, truncated or damaged.
    """
    with _open(path) as (container, stream):
        width, height, rate = stream.width, stream.height, stream.average_rate
        frames = sum(1 for _ in _decode(path, container, stream))
    if frames == 1:
        raise RejectedVideoError(path, "one_frame", "one frame only, which shows no motion")
    return VideoInfo(frames, width, height, float(rate or Fraction(30)))


def read_frames(path: Path, width: int, height: int) -> Iterator[Frame]:
    """The video's frames, scaled to `width` x `height` (both even).

    Raises:
        RejectedVideoError: As `probe`, but for one_frame.
    """
    with _open(path) as (container, stream):
        for frame in _decode(path, container, stream):
            scaled = frame.reformat(
                width=width,
                height=height,
                format="yuv420p",
                interpolation="AREA",
                dst_color_range="MPEG",  # swscale keeps a full-range source's range otherwise
            )
            yield scaled.to_ndarray()


def _decode(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Every frame that the video shows, or the reason why not all of them can be."""
    frames = hidden = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:  # some decoders make up what the end of the file cut off
                raise RejectedVideoError(path, "truncated", f"frame {frames} is cut off")
            hidden += packet.is_discard  # by an edit list, which `stream.frames` does not heed
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise RejectedVideoError(path, "damaged", f"frame {frames} was decoded with errors")
                frames += 1
                yield frame
    except (av.FFmpegError, ValueError) as error:
        _refuse_unreadable_disk(error)
        # A first frame that fails is a stream without frames; later ones are damage.
        if frames:
            raise RejectedVideoError(
                path, "damaged", f"frame {frames} cannot be decoded ({_reason(error)})"
            ) from error
    if frames == 0:
        raise RejectedVideoError(path, "no_frames", "no frame can be decoded")
    if frames + hidden < stream.frames:
        raise RejectedVideoError(
            path, "truncated", f"{frames + hidden} of {stream.frames} declared frames are there"
        )


def _refuse_unreadable_disk(error: Exception) -> None:
    """Raise again what speaks of a disk or a permission: another machine might well read the video."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the path of this machine."""
    return str(getattr(error, "strerror", None) or error)


def stored_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in a shard: even, as 4:2:0 wants them, and never scaled up."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return _even(width, scale), _even(height, scale)


def _even(length: int, scale: float) -> int:
    return max(2, 2 * min(round(length * scale / 2), length // 2))


class Vp9Encoder:
    """Encodes yuv420p frames to VP9 in MP4, in memory; equal frames and settings give equal bytes."""

    def __init__(self, width: int, height: int, fps: float, crf: int) -> None:
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4", options={"fflags": "+bitexact"})
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libvpx-vp9", rate=rate, options={**_VP9, "crf": str(crf)})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.thread_count = 1

    def write(self, frame: Frame) -> None:
        """Encode one frame, `[height * 3 / 2, width]`."""
        self._mux(av.VideoFrame.from_ndarray(frame, format="yuv420p"))

    def finish(self) -> bytes:
        """The whole file; the encoder is of no use afterwards."""
        self._mux(None)
        self._container.close()
        return self._buffer.getvalue()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


class _open:  # noqa: N801 - a context manager that reads as a function
    """Open a video's first picture stream, decoded on one thread and strict about damage."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[Any, Any]:
        if self._path.stat().st_size == 0:
            raise RejectedVideoError(self._path, "no_frames", "the file is empty")
        try:
            self._container = av.open(str(self._path))
        except (av.FFmpegError, ValueError) as error:
            _refuse_unreadable_disk(error)
            detail = f"not a readable video ({_reason(error)})"
            raise RejectedVideoError(self._path, "unreadable", detail) from error
        if not self._container.streams.video:
            self._container.close()
            raise RejectedVideoError(self._path, "no_video", "no picture stream")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            self._container.close()
            raise RejectedVideoError(self._path, "unreadable", "its codec is not known")
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1
        return self._container, stream

    def __exit__(self, *_: object) -> None:
        self._container.close()
