"""The pictures: dark, noisy, and the same for the same video; the files: H.264 as ARID's are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from ukd_dist.data.synthetic import Video, render


@pytest.fixture(scope="module")
def luma(dataset: Path) -> dict[str, np.ndarray]:
    """Full-range grey of the test videos, one a class, (T, 240, 320), by file name."""
    return {path.name: _grey(path) for path in sorted(dataset.glob("videos/*/*_7_1.mp4"))}


def _grey(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray()[:240] for frame in container.decode(container.streams.video[0])]
    return (np.stack(frames).astype(np.float32) - 16) * 255 / 219


def test_videos_are_h264_of_arids_size_rate_and_length(dataset: Path) -> None:
    for path in dataset.glob("videos/*/*.mp4"):
        with av.open(str(path)) as container:
            (stream,) = container.streams
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (320, 240, 30)
            times = sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None)
            np.testing.assert_allclose(times, np.arange(len(times)) / 30, atol=1e-6)
            assert 30 <= len(times) <= 120


def test_videos_are_as_dark_as_arid(luma: dict[str, np.ndarray]) -> None:
    assert all(12 < video.mean() < 30 for video in luma.values())


def test_noise_survives_encoding_and_changes_from_frame_to_frame(luma: dict[str, np.ndarray]) -> None:
    for video in luma.values():
        assert np.median(np.diff(video, axis=0).std(axis=0)) / np.sqrt(2) > 0.4


def test_files_are_small_but_keep_the_noise(dataset: Path) -> None:
    sizes = [path.stat().st_size / 1024 for path in dataset.glob("videos/*/*.mp4")]
    assert 100 < np.mean(sizes) < 500


def test_groups_look_different_and_clips_of_a_group_alike() -> None:
    def scene(group: int, clip: int) -> np.ndarray:
        pictures = list(render(Video(label=8, group=group, clip=clip, seed=0)))
        return np.asarray(np.mean(pictures, axis=0)[:240] - 16)

    # Clips of a group frame it a little differently: compare what is left at a coarse scale.
    coarse = {key: scene(*key).reshape(6, 40, 8, 40).mean(axis=(1, 3)) for key in [(1, 1), (1, 2), (7, 1)]}
    within = np.abs(coarse[1, 1] - coarse[1, 2]).mean()
    assert np.abs(coarse[1, 1] - coarse[7, 1]).mean() > 2 * within


@pytest.mark.parametrize(
    "other", [Video(9, 1, 2, 0), Video(9, 2, 1, 0), Video(8, 1, 1, 0), Video(9, 1, 1, 1)]
)
def test_any_other_video_has_other_pixels(other: Video) -> None:
    ours, theirs = next(render(Video(9, 1, 1, 0))), next(render(other))
    assert not np.array_equal(ours, theirs)


def test_pictures_are_planar_yuv() -> None:
    picture = next(render(Video(0, 1, 1, 0)))
    assert picture.shape == (360, 320)
    assert picture.dtype == np.uint8
    assert abs(picture[240:].mean() - 128) < 2
