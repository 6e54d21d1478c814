"""A video's sample: the same components again, and none of a video that changed since it was probed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ukd_dist.data.components import encode_sample
from ukd_dist.data.shards import Sample
from ukd_dist.data.videofacts import RejectedVideoError
from ukd_dist.data.vp9 import Vp9Encoder
from ukd_dist.data_config import Encoding
from ukd_dist.errors import DataError


@pytest.fixture
def film(tmp_path: Path) -> tuple[Sample, Path]:
    """A real video of six frames, and the sample that it is to be."""
    encoder = Vp9Encoder(64, 48, 30.0, 20)
    for number in range(6):
        encoder.write(np.random.default_rng(number).integers(16, 60, (72, 64), np.uint8))
    path = tmp_path / "Run_1_1.mp4"
    path.write_bytes(encoder.finish())
    return Sample("train", 0, "Run_1_1", 0, "Run", "", 6, 30.0, 64, 48), path


def test_a_video_is_encoded_to_the_same_components_again(film: tuple[Sample, Path]) -> None:
    first, second = (encode_sample(*film, ("rgb", "flow"), Encoding()) for _ in range(2))
    assert first == second
    assert set(first) == {"rgb.mp4", "flow.mp4"}


def test_a_video_that_lost_frames_since_it_was_probed_is_named(film: tuple[Sample, Path]) -> None:
    written, path = film
    with pytest.raises(DataError) as raised:
        encode_sample(replace(written, frames=7), path, ("rgb",), Encoding())
    assert str(raised.value) == (
        f"{path} changed while it was sharded: 6 frames; expected 7; "
        "run again when nothing writes to the videos"
    )


def test_a_video_that_was_damaged_since_it_was_probed_is_rejected(film: tuple[Sample, Path]) -> None:
    written, path = film
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(RejectedVideoError, match=str(path)):
        encode_sample(written, path, ("rgb", "flow"), Encoding())
