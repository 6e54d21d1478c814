"""VP9 out of frames: the same bytes for the same frames, with what DALI needs to decode them."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from ukd_dist.data.video import Frame, probe
from ukd_dist.data.vp9 import Vp9Encoder


def planes(number: int, width: int = 64, height: int = 48) -> Frame:
    return np.random.default_rng(number).integers(16, 60, (height * 3 // 2, width), np.uint8)


def vp9(count: int = 20, fps: float = 30.0, crf: int = 24) -> bytes:
    encoder = Vp9Encoder(64, 48, fps, crf)
    for number in range(count):
        encoder.write(planes(number))
    return encoder.finish()


ALONE = """
import hashlib
from tests.data.test_vp9 import vp9
print(hashlib.sha256(vp9()).hexdigest())
"""


@pytest.mark.parametrize("fill", ["0", "165"])
def test_the_same_frames_have_the_same_bytes_whatever_the_memory_held(fill: str) -> None:
    environment = {**os.environ, "MALLOC_PERTURB_": fill}
    output = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment, check=True, capture_output=True
    ).stdout
    assert output.decode().strip() == hashlib.sha256(vp9()).hexdigest() == hashlib.sha256(vp9()).hexdigest()


@pytest.mark.parametrize("fps", [30.0, 25.0, 30_000 / 1001, 12.5])
def test_an_encoded_video_has_the_frames_size_and_rate_that_it_was_given(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "stored.mp4"
    path.write_bytes(vp9(count=5, fps=fps))
    info = probe(path)
    assert (info.frames, info.width, info.height, info.fps) == (5, 64, 48, fps)


def test_an_encoded_video_is_plain_vp9_with_a_key_frame_every_sixteen() -> None:
    with av.open(io.BytesIO(vp9(count=40))) as file:
        (stream,) = file.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) in {
            ("vp9", "yuv420p"),
            ("libvpx-vp9", "yuv420p"),
        }
        keys = [
            number
            for number, packet in enumerate(p for p in file.demux(stream) if p.size)
            if packet.is_keyframe
        ]
    assert keys == [0, 16, 32]


def test_a_lower_crf_keeps_more_of_the_noise() -> None:
    def error(crf: int) -> float:
        with av.open(io.BytesIO(vp9(crf=crf))) as file:
            decoded = [frame.to_ndarray() for frame in file.decode(video=0)]
        return float(np.mean([np.abs(d - planes(n).astype(np.float64)) for n, d in enumerate(decoded)]))

    assert error(8) < error(24) < error(48)
