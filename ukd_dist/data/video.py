"""Video files in, through PyAV: probed whole, and their frames read; what encodes them again is beside it.

Frames travel as planar 4:2:0 arrays (`yuv420p`, uint8 `[height * 3 / 2, width]`, limited range), so that no
colour conversion stands between a camera's file and a shard; DALI converts once, when a clip is decoded.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import Interpolation

from ukd_dist.data.upright import Orientation
from ukd_dist.data.videofacts import RejectedVideoError, VideoInfo

Frame = npt.NDArray[np.uint8]

# OpenCV's DIS flow ends the whole process on some pictures that are smaller.
MIN_SIDE = 16

_DISK_ERRORS = {errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE, errno.EMFILE, errno.ENOMEM}

# What FFmpeg opens as if it were a video: playlists, which show other files, and text drawn as pictures.
_PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp", "webm_dash_manifest"}
_TEXT_PICTURES = {"adf", "bin", "idf", "tty", "xbin"}
_MATROSKA = "matroska,webm"
# Matrices of AVColorSpace from which DALI, which takes every video for BT.601, would make wrong colours.
_OTHER_MATRICES = {1: "ITU709", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
# swscale's default rounding darkens what it converts between colour spaces, by up to 1.4 levels.
_EXACT = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# A declared rate holds unless the frames' times say otherwise; Matroska rounds those to milliseconds.
_RATE_TOLERANCE = 0.05
# What may be missing at the end of a file that declares its length, but not its frames.
_MISSING_FRAMES, _MISSING_SECONDS = 3, 0.1


def probe(path: Path) -> VideoInfo:
    """Decode every frame and say what is there; the verdict is the same on every machine.

    Raises:
        RejectedVideoError: unreadable, no_video, no_frames, one_frame, too_small, size_changes, truncated or
            damaged.
        OSError: The file is missing or may not be read, which another machine might see otherwise.
    """
    with open_video(path) as (container, stream):
        declared = stream.average_rate
        decoded = _decode(path, container, stream)
        first = last = next(decoded)
        frames = 1
        for frame in decoded:
            frames, last = frames + 1, frame
    if frames == 1:
        raise RejectedVideoError(path, "one_frame", "one frame only, which shows no motion")
    width, height = _orientation(first).size(first.width, first.height)
    if min(width, height) < MIN_SIDE:
        raise RejectedVideoError(path, "too_small", f"{width}x{height} pixels, of at least {MIN_SIDE} a side")
    seconds = None if first.time is None or last.time is None else last.time - first.time
    return VideoInfo(frames, width, height, _mean_fps(declared, frames, seconds))


def read_frames(path: Path, width: int, height: int) -> Iterator[Frame]:
    """The video's frames in the order in which they are shown, upright, `width` x `height` (both even).

    They are scaled by areas, limited in range and of BT.601's matrix. Transparency is dropped, interlaced
    fields stay woven, and pixels count as square.

    Raises:
        RejectedVideoError: As `probe`, but for one_frame and too_small.
    """
    with open_video(path) as (container, stream):
        for frame in _decode(path, container, stream):
            orientation = _orientation(frame)
            stored_width, stored_height = orientation.size(width, height)
            matrix = _OTHER_MATRICES.get(frame.colorspace)
            converted = matrix is not None or frame.format.is_rgb
            scaled = frame.reformat(
                width=stored_width,
                height=stored_height,
                format="yuv420p",
                interpolation=_EXACT if converted else Interpolation.AREA,
                src_colorspace=matrix,
                dst_colorspace="ITU601" if matrix else None,
                dst_color_range="MPEG",  # swscale keeps a full-range source's range otherwise
            )
            yield orientation.turn(scaled.to_ndarray(), stored_width, stored_height)


def _decode(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Every frame that the video shows, or the reason why not all of them can be."""
    frames = hidden = 0
    shape, end_seconds = None, 0.0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:  # some decoders make up what the end of the file cut off
                raise RejectedVideoError(path, "truncated", f"frame {frames} is cut off")
            hidden += packet.is_discard  # by an edit list, which `stream.frames` does not heed
            end_seconds = max(end_seconds, _end_seconds(packet))
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise RejectedVideoError(path, "damaged", f"frame {frames} was decoded with errors")
                found = _shape(frame)
                shape = shape or found
                if found != shape:
                    raise RejectedVideoError(path, "size_changes", _change(frames, shape, found))
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
    _check_length(path, container, stream, end_seconds)


def orientation_of(path: Path) -> Orientation:
    """How a video's first picture is held.

    Raises:
        RejectedVideoError: As `probe`.
    """
    with open_video(path) as (container, stream):
        return _orientation(next(_decode(path, container, stream)))


def _shape(frame: av.VideoFrame) -> tuple[int, int, Orientation]:
    return frame.width, frame.height, _orientation(frame)


def _orientation(frame: av.VideoFrame) -> Orientation:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else Orientation.from_matrix(bytes(matrix))


def _change(number: int, first: tuple[int, int, Orientation], other: tuple[int, int, Orientation]) -> str:
    if first[:2] == other[:2]:
        return f"frame {number} is turned otherwise than the first"
    return f"frame {number} is {other[0]}x{other[1]}, the first {first[0]}x{first[1]}"


def _end_seconds(packet: Any) -> float:
    """When what the packet shows is over; 0 where it does not say."""
    if packet.pts is None or packet.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _check_length(path: Path, container: Any, stream: Any, end_seconds: float) -> None:
    """Matroska and WebM declare no frames, but how long they are; damaged ones end early in silence."""
    # Other containers' lengths are guesses by FFmpeg; with several streams it is the longest one's.
    if container.format.name != _MATROSKA or container.duration is None or len(container.streams) > 1:
        return
    declared_seconds = container.duration / av.time_base
    allowed_seconds = max(_MISSING_SECONDS, _MISSING_FRAMES / (stream.average_rate or 30))
    if declared_seconds - end_seconds > allowed_seconds:
        detail = f"{end_seconds:.2f} of {declared_seconds:.2f} declared seconds are there"
        raise RejectedVideoError(path, "truncated", detail)


def _mean_fps(declared: Fraction | None, frames: int, seconds: float | None) -> float:
    """Frames a second between the first and the last one; as declared, where that agrees."""
    measured = (frames - 1) / seconds if seconds else None
    if measured is None or (declared and abs(measured / float(declared) - 1) < _RATE_TOLERANCE):
        return float(declared or 30)
    return measured


def _refuse_unreadable_disk(error: Exception) -> None:
    """Raise again what speaks of a disk or a permission: another machine might well read the video."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error


def _reason(error: Exception) -> str:
    """What FFmpeg says, without the path of this machine."""
    return str(getattr(error, "strerror", None) or error)


class open_video:  # noqa: N801 - a context manager that reads as a function
    """Open a video's first moving picture, decoded on one thread and strict about damage."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[Any, Any]:
        try:
            self._check_file()
            # A name is a name, whatever colons it holds, and no file leads to the network.
            url, only_files = f"file:{self._path}", {"protocol_whitelist": "file"}
            self._container = av.open(url, container_options=only_files)
        except (av.FFmpegError, ValueError, OSError) as error:
            _refuse_unreadable_disk(error)
            raise self._rejection("unreadable", f"not a readable video ({_reason(error)})") from error
        try:
            return self._container, self._stream()
        except RejectedVideoError:
            self._container.close()
            raise

    def _check_file(self) -> None:
        status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise self._rejection("unreadable", "not a file")
        if status.st_size == 0:
            raise self._rejection("no_frames", "the file is empty")

    def _stream(self) -> Any:
        if self._container.format.name in _PLAYLISTS | _TEXT_PICTURES:
            raise self._rejection("unreadable", f"not a video, but {self._container.format.long_name}")
        moving = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not moving:
            raise self._rejection("no_video", "no picture stream")
        if moving[0].codec_context is None:
            raise self._rejection("unreadable", "its codec is not known")
        moving[0].codec_context.options = {"err_detect": "explode"}
        moving[0].codec_context.thread_count = 1
        return moving[0]

    def _rejection(self, reason: str, detail: str) -> RejectedVideoError:
        return RejectedVideoError(self._path, reason, detail)

    def __exit__(self, *_: object) -> None:
        self._container.close()
