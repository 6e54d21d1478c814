"""Frames to single JPEGs. These are full range: planes are brought there, since rgb would cost colours."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags

from ukd_dist.data.jpegs import join
from ukd_dist.data.video import Frame

_LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA: quality is given in these
_LEVELS = np.arange(256)
_FULL_LUMA = np.rint((_LEVELS - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)
_FULL_CHROMA = np.rint((_LEVELS - 128) * (255 / 224) + 128).clip(0, 255).astype(np.uint8)


class JpegEncoder:
    """Encodes yuv420p frames to JPEGs; equal frames and settings give equal bytes."""

    def __init__(self, width: int, height: int, qscale: int) -> None:
        self._frames: list[bytes] = []
        self._encoder = av.VideoCodecContext.create("mjpeg", "w")
        self._encoder.width, self._encoder.height = width, height
        self._encoder.pix_fmt = "yuvj420p"
        self._encoder.time_base = Fraction(1, 30)  # asked for, and in no byte of a JPEG
        self._encoder.thread_count = 1
        self._encoder.flags |= Flags.qscale | Flags.bitexact
        self._encoder.global_quality = qscale * _LAMBDA
        self._encoder.options = {"qmin": str(qscale), "qmax": str(qscale)}

    def write(self, frame: Frame) -> None:
        """Encode one frame, limited range, `[height * 3 / 2, width]`."""
        self._take(av.VideoFrame.from_ndarray(full_range(frame), format="yuvj420p"))

    def finish(self) -> bytes:
        """The whole component; the encoder is of no use afterwards."""
        self._take(None)
        return join(self._frames)

    def _take(self, frame: av.VideoFrame | None) -> None:
        if frame is not None:
            frame.pts = len(self._frames)
        self._frames += [bytes(packet) for packet in self._encoder.encode(frame)]


def full_range(frame: Frame) -> Frame:
    """A limited-range yuv420p frame as JPEG's full range, each plane rounded once."""
    height = frame.shape[0] * 2 // 3
    return np.concatenate([_FULL_LUMA[frame[:height]], _FULL_CHROMA[frame[height:]]])
