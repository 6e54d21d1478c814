"""Frames become VP9 in MP4, through PyAV; single JPEG frames and copied streams are beside it."""

from __future__ import annotations

import io
from fractions import Fraction

import av

from ukd_dist.data.video import Frame

# Options for VP9 that DALI decodes on a CPU and on NVDEC; a key frame every 16 keeps random access short.
_VP9 = {"b": "0", "g": "16", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "threads": "1"}


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
