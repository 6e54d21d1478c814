"""Real files of every odd kind: one scene, written in many ways, and files that only look like videos.

Every maker takes the path to write to. Frame n of the scene is the same in every file of a size, so that
whatever comes out of a shard can be held against it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from ukd_dist.data.video import Frame

WIDTH, HEIGHT, FRAMES = 96, 64, 12
Maker = Callable[[Path], None]
Adjust = Callable[[Any], Any]


def scene(number: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """RGB, `[height, width, 3]`: four dim quarters of different colours; a bar sinks through its middle."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (110, 30, 30)
    picture[: height // 2, width // 2 :] = (30, 90, 30)
    picture[height // 2 :, : width // 2] = (30, 30, 130)
    picture[height // 2 :, width // 2 :] = (50, 50, 50)
    top = height * (FRAMES // 2 + number) // (2 * FRAMES)
    picture[top : top + height // FRAMES + 1, width * 2 // 5 : width * 3 // 5] = 180
    return picture


@contextmanager
def usual_priority() -> Iterator[None]:
    """Take back what SVT-AV1 does as root: whoever encodes, and all that it starts then, has priority 99."""
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def film(
    codec: str = "libx264",
    container: str = "mp4",
    *,
    frames: Iterable[int] = range(FRAMES),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixels: str = "yuv420p",
    rate: int = 30,
    coding: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    adjust_stream: Adjust = lambda stream: stream,
    adjust_frame: Adjust = lambda frame: frame,
    adjust_picture: Callable[[Frame], Frame] = lambda picture: picture,
    times_ms: Iterable[int] | None = None,
) -> Maker:
    """The scene as a video file; `size` is that of the scene, before `adjust_picture`."""

    def make(path: Path) -> None:
        with (
            usual_priority(),
            av.open(str(path), "w", format=container, options=dict(muxing or {})) as file,
        ):
            stream = file.add_stream(codec, rate=rate, options=dict(coding or {}))
            pictures = [np.ascontiguousarray(adjust_picture(scene(n, *size))) for n in frames]
            stream.height, stream.width, _ = pictures[0].shape
            stream.pix_fmt, stream.thread_count = pixels, 1
            adjust_stream(stream)
            if times_ms is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for picture, time in zip(pictures, times_ms or [None] * len(pictures), strict=True):
                frame = adjust_frame(av.VideoFrame.from_ndarray(picture, format="rgb24"))
                if time is not None:
                    frame.pts, frame.time_base = time, Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())

    return make


def turned(degrees: int, *, mirrored: bool = False) -> Maker:
    """The scene as a phone writes it that was held otherwise: turned pictures, and how to show them.

    Args:
        degrees: By how much a player turns the pictures, counter-clockwise.
        mirrored: Whether it mirrors them afterwards, left to right.
    """

    def store(picture: Frame) -> Frame:
        return np.rot90(picture[:, ::-1] if mirrored else picture, -degrees // 90)

    return film(
        adjust_picture=store,
        adjust_stream=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )


def full_range(pixels: str) -> Adjust:
    def convert(frame: av.VideoFrame) -> av.VideoFrame:
        return frame.reformat(format=pixels, dst_color_range=ColorRange.JPEG)

    return convert


def say_full_range(stream: Any) -> None:
    stream.codec_context.color_range = ColorRange.JPEG


def of_bt709(frame: av.VideoFrame) -> av.VideoFrame:
    exactly = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=exactly)


def say_bt709(stream: Any) -> None:
    stream.codec_context.colorspace = 1


def wide_pixels(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


def content(data: bytes) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def noise(length: int = 100_000) -> bytes:
    return np.random.default_rng(0).bytes(length)


def streams(*parts: tuple[str, Maker | None], container: str = "mp4") -> Maker:
    """Several streams in one file: `video` or `cover` with the maker of its pictures, or `sound`."""

    def make(path: Path) -> None:
        sources = []
        with av.open(str(path), "w", format=container) as file:
            for number, (kind, maker) in enumerate(parts):
                if maker is None:
                    sources.append(file.add_stream("aac", rate=16_000))
                    continue
                home = path.with_name(f"part{number}")
                maker(home)
                source = av.open(str(home)).streams.video[0]
                stream = file.add_stream_from_template(source)
                if kind == "cover":
                    stream.disposition = Disposition.attached_pic
                sources.append((source, stream))
            for part in sources:
                for packet in _packets(part):
                    file.mux(packet)

    return make


def _packets(part: Any) -> Iterable[Any]:
    if not isinstance(part, tuple):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16_000
        return [*part.encode(silence), *part.encode()]
    source, stream = part
    packets = [packet for packet in source.container.demux(source) if packet.dts is not None]
    for packet in packets:
        packet.stream = stream
    return packets


def starting_before_zero(maker: Maker, frames: int) -> Maker:
    """Cut without coding it anew: an edit list hides the first frames, which are there all the same."""

    def make(path: Path) -> None:
        whole = path.with_name("whole")
        maker(whole)
        with av.open(str(whole)) as source, av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    before = int(frames / 30 / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - before, packet.dts - before, stream
                    file.mux(packet)

    return make


def joined(*makers: Maker) -> Maker:
    def make(path: Path) -> None:
        data = b""
        for maker in makers:
            maker(path)
            data += path.read_bytes()
        path.write_bytes(data)

    return make


def cut(maker: Maker) -> Maker:
    """A file that ends within the frame in its middle."""

    def make(path: Path) -> None:
        maker(path)
        position, size = middle(path)
        os.truncate(path, position + size // 2)

    return make


def middle(path: Path) -> tuple[int, int]:
    """Where the bytes of the frame in the middle lie, and how many they are."""
    with av.open(str(path)) as file:
        places = sorted((packet.pos, packet.size) for packet in file.demux(video=0) if packet.size)
    return places[len(places) // 2]


def without_index(maker: Maker) -> Maker:
    """An MP4 whose recorder was switched off: all frames, and no `moov` box that says where."""

    def make(path: Path) -> None:
        maker(path)
        data = path.read_bytes()
        kept, position = b"", 0
        while position < len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            kept += b"" if kind == b"moov" else data[position : position + length]
            position += length
        path.write_bytes(kept)

    return make


def overwritten(maker: Maker) -> Maker:
    """A frame from the middle is other bytes."""

    def make(path: Path) -> None:
        maker(path)
        position, size = middle(path)
        data = path.read_bytes()
        path.write_bytes(data[:position] + noise(size) + data[position + size :])

    return make


def playlist(text: str) -> Maker:
    """A text that names a sound video beside it."""

    def make(path: Path) -> None:
        film()(path.with_name("other.mp4"))
        path.write_text(text.format(other="other.mp4"))

    return make


def link_to(target: str) -> Maker:
    """A symbolic link; to its own name it is a loop."""
    return lambda path: path.symlink_to(target)
