"""Which verdict each kind of odd or damaged video gets, in one table; the sound ones' clips are right."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.data.odd_videos import (
    FRAMES,
    HEIGHT,
    WIDTH,
    Maker,
    content,
    cut,
    film,
    full_range,
    joined,
    link_to,
    noise,
    of_bt709,
    overwritten,
    playlist,
    say_bt709,
    say_full_range,
    scene,
    starting_before_zero,
    streams,
    turned,
    wide_pixels,
    without_index,
)
from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import RGB_MEAN, RGB_STD, EncodedBatch, decode
from ukd_dist.data.components import encode_sample
from ukd_dist.data.shards import Sample
from ukd_dist.data.video import probe
from ukd_dist.data.videofacts import RejectedVideoError, VideoInfo, stored_size
from ukd_dist.data.views import evaluation_batches
from ukd_dist.data_config import Encoding

SIDE = 32
SOUND, PORTRAIT = "sound", (HEIGHT, WIDTH)
QUIET = {"x265-params": "log-level=none"}
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n"
MATROSKA_TIMES_MS = (0, 10, 20, 100, 110, 400, 410, 420, 1000, 1100, 1110, 1500)
HEVC, MJPEG = film("libx265", coding=QUIET), film("mjpeg", "avi", pixels="yuvj420p")
STILL = film("png", "image2pipe", frames=[0], pixels="rgb24")
GIF = film("gif", "gif", pixels="bgr8", rate=25)
ENCRYPTED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


@dataclass(frozen=True)
class Kind:
    """A kind of video: how it is made, what becomes of it, and what a sound one shows."""

    name: str
    verdict: str
    make: Maker
    file: str = "clip.mp4"
    size: tuple[int, int] = (WIDTH, HEIGHT)
    fps: float = 30
    shown: tuple[int, ...] = tuple(range(FRAMES))

    def __str__(self) -> str:
        return self.name


KINDS = [
    # Codecs and containers
    Kind("H.264", SOUND, film()),
    Kind("HEVC", SOUND, HEVC),
    Kind("MPEG-4", SOUND, film("mpeg4", "avi")),
    Kind("MPEG-2 in a transport stream", SOUND, film("mpeg2video", "mpegts")),
    Kind("MPEG-1", SOUND, film("mpeg1video", "mpeg")),
    Kind("Motion JPEG", SOUND, MJPEG),
    Kind("VP8", SOUND, film("libvpx", "webm")),
    Kind("VP9", SOUND, film("libvpx-vp9", "webm")),
    Kind("AV1", SOUND, film("libsvtav1")),
    Kind("WMV", SOUND, film("wmv2", "asf")),
    Kind("FFV1", SOUND, film("ffv1", "matroska")),
    Kind("uncompressed", SOUND, film("rawvideo", "avi")),
    Kind("animated GIF", SOUND, GIF, fps=25),
    Kind("fragmented MP4", SOUND, film(muxing={"movflags": "frag_keyframe+empty_moov"})),
    # Pixels
    Kind("4:2:2", SOUND, film(pixels="yuv422p")),
    Kind("4:4:4", SOUND, film(pixels="yuv444p")),
    Kind("RGB", SOUND, film("libx264rgb", pixels="rgb24")),
    Kind("10 bit", SOUND, film("libx265", pixels="yuv420p10le", coding=QUIET)),
    Kind("4:2:2 of 10 bit", SOUND, film(pixels="yuv422p10le")),
    Kind("4:4:4 of 12 bit with alpha", SOUND, film("prores_ks", "mov", pixels="yuva444p10le")),
    Kind("RGB with alpha", SOUND, film("png", "mov", pixels="rgba")),
    Kind(
        "full range by name",
        SOUND,
        film(pixels="yuvj420p", adjust_frame=full_range("yuvj420p"), adjust_stream=say_full_range),
    ),
    Kind(
        "full range by mark",
        SOUND,
        film("ffv1", "matroska", adjust_frame=full_range("yuv420p"), adjust_stream=say_full_range),
    ),
    Kind("BGR", SOUND, film("rawvideo", "avi", pixels="bgr24")),
    Kind("BT.709", SOUND, film(adjust_frame=of_bt709, adjust_stream=say_bt709)),
    Kind("interlaced", SOUND, film(coding={"x264-params": "tff=1:interlaced=1"})),
    Kind("pixels that are no squares", SOUND, film(adjust_stream=wide_pixels)),
    # Orientation: as the camera was held
    Kind("shown turned by 90 degrees", SOUND, turned(90)),
    Kind("shown turned by 180 degrees", SOUND, turned(180)),
    Kind("shown turned by 270 degrees", SOUND, turned(270)),
    Kind("shown mirrored", SOUND, turned(0, mirrored=True)),
    Kind("shown turned by 90 degrees and mirrored", SOUND, turned(90, mirrored=True)),
    # Sizes
    Kind("portrait", SOUND, film(size=PORTRAIT), size=PORTRAIT),
    Kind("odd size", SOUND, film(pixels="yuv444p", size=(97, 61)), size=(97, 61)),
    Kind("4K", SOUND, film(size=(3840, 2160), coding={"preset": "ultrafast"}), size=(3840, 2160)),
    Kind("2 by 2 pixels", "too_small", film(size=(2, 2))),
    Kind("8 by 40 pixels", "too_small", film(size=(8, 40))),
    Kind(
        "another size midway",
        "size_changes",
        joined(film(container="h264"), film(container="h264", size=PORTRAIT)),
    ),
    # Times
    Kind("two frames", SOUND, film(frames=[3, 4]), shown=(3, 4)),
    Kind("variable rate", SOUND, film(times_ms=MATROSKA_TIMES_MS), fps=11 / 1.5),
    Kind(
        "variable rate in Matroska", SOUND, film("ffv1", "matroska", times_ms=MATROSKA_TIMES_MS), fps=11 / 1.5
    ),
    Kind(
        "one frame an hour", SOUND, film(frames=[0, 1], times_ms=[0, 3_600_000]), fps=1 / 3600, shown=(0, 1)
    ),
    Kind(
        "times below zero",
        SOUND,
        film(container="matroska", times_ms=range(-200, 1000, 100)),
        fps=10,
    ),
    Kind(
        "beginning hidden by an edit list", SOUND, starting_before_zero(film(), 5), shown=tuple(range(5, 12))
    ),
    # Several streams
    Kind("with sound before the pictures", SOUND, streams(("sound", None), ("video", film()))),
    Kind("two videos in one", SOUND, streams(("video", film()), ("video", film(frames=range(11, -1, -1))))),
    Kind("a cover before the video", SOUND, streams(("cover", STILL), ("video", film()))),
    Kind("sound alone", "no_video", streams(("sound", None))),
    Kind("sound with a cover", "no_video", streams(("sound", None), ("cover", STILL))),
    # Nothing that moves
    Kind("one frame", "one_frame", film(frames=[0])),
    Kind("PNG", "one_frame", STILL),
    Kind("JPEG", "one_frame", film("mjpeg", "image2pipe", frames=[0], pixels="yuvj420p")),
    Kind("still GIF", "one_frame", film("gif", "gif", frames=[0], pixels="bgr8", rate=25)),
    # No video
    Kind("empty", "no_frames", content(b"")),
    Kind("zeros", "unreadable", content(bytes(100_000))),
    Kind("noise", "unreadable", content(noise())),
    Kind("text", "unreadable", content(b"this is no video\n" * 500)),
    Kind("text that FFmpeg would draw", "unreadable", content(b"this is no video\n" * 500), file="clip.txt"),
    Kind("playlist of files", "unreadable", playlist("ffconcat version 1.0\nfile {other}\n")),
    Kind("playlist of a stream", "unreadable", playlist(PLAYLIST), file="clip.m3u8"),
    Kind("encrypted", "no_frames", film(muxing=ENCRYPTED)),
    # Damage
    Kind("without its index", "unreadable", without_index(film())),
    Kind("without its end", "unreadable", cut(film())),
    Kind("without its end, index in front", "truncated", cut(film(muxing={"movflags": "faststart"}))),
    Kind(
        "fragmented, without its end",
        "truncated",
        cut(film(muxing={"movflags": "frag_keyframe+empty_moov"})),
    ),
    Kind("WebM without its end", "truncated", cut(film("libvpx-vp9", "webm"))),
    Kind("AVI without its end", "truncated", cut(film("mpeg4", "avi"))),
    Kind("H.264 overwritten midway", "damaged", overwritten(film())),
    Kind("HEVC overwritten midway", "damaged", overwritten(HEVC)),
    Kind("MPEG-4 overwritten midway", "damaged", overwritten(film("mpeg4"))),
    Kind("Motion JPEG overwritten midway", "damaged", overwritten(film("mjpeg", "mov", pixels="yuvj420p"))),
    Kind("AV1 overwritten midway", "damaged", overwritten(film("libsvtav1"))),
    Kind("ProRes overwritten midway", "damaged", overwritten(film("prores_ks", "mov", pixels="yuv422p10le"))),
    # No file
    Kind("directory", "unreadable", Path.mkdir),
    Kind("named pipe", "unreadable", os.mkfifo),
    Kind("device", "unreadable", link_to("/dev/zero")),
    Kind("link to itself", "unreadable", link_to("clip.mp4")),
]
ACCEPTED = [kind for kind in KINDS if kind.verdict == SOUND]


@pytest.fixture
def made(kind: Kind, tmp_path: Path) -> Path:
    path = tmp_path / kind.file
    kind.make(path)
    return path


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_video_gets_its_verdict(kind: Kind, made: Path) -> None:
    if kind.verdict == SOUND:
        info = probe(made)
        assert (info.frames, info.width, info.height) == (len(kind.shown), *kind.size)
        assert info.fps == pytest.approx(kind.fps, rel=1e-3)
        return
    with pytest.raises(RejectedVideoError) as raised:
        probe(made)
    assert raised.value.reason == kind.verdict
    assert str(made.parent) not in raised.value.detail, "what is listed is the same on every machine"


@pytest.mark.parametrize("kind", ACCEPTED, ids=str)
def test_the_stored_clip_of_a_sound_video_is_what_a_player_shows(kind: Kind, made: Path) -> None:
    clip_fhwc = stored_clip(made, probe(made), frames=len(kind.shown))
    expected_fhwc = np.stack([centre(scene(number, *kind.size)) for number in kind.shown])
    nearest = [
        int(np.argmin([np.abs(frame - other).mean() for other in expected_fhwc])) for frame in clip_fhwc
    ]
    assert nearest == list(range(len(kind.shown))), "frames in the order in which they are shown"
    difference = clip_fhwc - expected_fhwc
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 1.5, "levels of 255, a channel each"
    assert np.abs(np.median(difference, axis=(0, 1, 2))).max() < 2.5
    assert np.abs(difference).mean() < 6


def stored_clip(path: Path, info: VideoInfo, *, frames: int) -> np.ndarray:
    """A video through its shard's component and DALI on a CPU, `[frames, SIDE, SIDE, 3]` of 0..255."""
    encoding = Encoding(short_side=2 * SIDE, crf_rgb=4)
    width, height = stored_size(info.width, info.height, encoding.short_side)
    sample = Sample("train", 0, "clip", 0, "Run", "", info.frames, info.fps, width, height)
    components = encode_sample(sample, path, ("rgb", "flow"), encoding)
    clip = Clip(frames=frames, stride=1, size=SIDE, short_side=(SIDE, SIDE), gamma=1.0)
    video, lengths = np.frombuffer(components["rgb.mp4"], np.uint8), np.array([info.frames])
    (batch,) = evaluation_batches(lengths, clip, 1)
    ((clips_bcthw, *_),) = decode(
        [EncodedBatch([video], lengths, np.array([[height, width]]), batch)],
        "rgb",
        clip,
        batch_size=1,
        flow_bound=encoding.flow_bound,
        device=torch.device("cpu"),
    )
    return (clips_bcthw[0].numpy().transpose(1, 2, 3, 0) * RGB_STD + RGB_MEAN) * 255


def centre(picture: np.ndarray) -> np.ndarray:
    """The centre of a picture whose short side was made `SIDE`."""
    height, width, _ = picture.shape
    width, height = (max(SIDE, round(length * SIDE / min(width, height))) for length in (width, height))
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return small[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(
    "name",
    [
        "with spaces.mp4",
        "with.dots.v2.mp4",
        "Läufer_跑步.mp4",
        "a:colon|and%03d.mp4",
        f"{'x' * 251}.mp4",
        "-dash",
    ],
)
def test_a_files_name_does_not_matter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film()(tmp_path / "plain.mp4")
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(tmp_path / name).frames == probe(Path(name)).frames == FRAMES


def test_a_missing_file_is_no_verdict_since_another_machine_may_see_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "clip.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_no_verdict_since_another_machine_may_read_it(tmp_path: Path) -> None:
    film()(tmp_path / "clip.mp4")
    (tmp_path / "clip.mp4").chmod(0)
    with pytest.raises(PermissionError):
        probe(tmp_path / "clip.mp4")


def test_no_encoder_leaves_this_process_at_another_priority(tmp_path: Path) -> None:
    """Every test after it, and all that they start, would run before everything else on the machine."""
    film("libsvtav1")(tmp_path / "a.mp4")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
