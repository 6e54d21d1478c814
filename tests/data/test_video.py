"""Videos as they come: what is accepted with which figures, and what is rejected for which reason."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ukd_dist.data.video import Frame, probe, read_frames
from ukd_dist.data.videofacts import RejectedVideoError, stored_size
from ukd_dist.errors import DataError, UkdError

WIDTH, HEIGHT, FRAMES = 96, 64, 24
FASTSTART = {"movflags": "faststart"}
ROOT = Path(__file__).parents[2]


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """A dark, noisy picture, `[height, width, 3]`; frame n is the same in every video of a size."""
    return np.random.default_rng(number).integers(20, 60, (height, width, 3), np.uint8)


def encode(
    *,
    codec: str = "libx264",
    container: str = "mp4",
    frames: int = FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: int = 30,
    pixels: str = "yuv420p",
    muxing: Mapping[str, str] | None = None,
    coding: Mapping[str, str] | None = None,
) -> bytes:
    """A whole video file; it passes through a real one, which faststart reads again."""
    with (
        tempfile.NamedTemporaryFile() as home,
        av.open(home.name, "w", format=container, options=dict(muxing or {})) as file,
    ):
        stream = file.add_stream(codec, rate=fps, options=dict(coding or {}))
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.thread_count = 1
        for number in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")))
        file.mux(stream.encode())
        file.close()
        return Path(home.name).read_bytes()


def encode_sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def packets(video: bytes) -> list[tuple[int, int]]:
    """Position and size of every frame's bytes in a file, in the file's order."""
    with av.open(io.BytesIO(video)) as file:
        return sorted((packet.pos, packet.size) for packet in file.demux(video=0) if packet.size)


@pytest.fixture(scope="module")
def tail_video() -> bytes:
    """H.264 whose index is at the file's end."""
    return encode()


@pytest.fixture(scope="module")
def faststart_video() -> bytes:
    """H.264 whose index is at the file's beginning."""
    return encode(muxing=FASTSTART)


@pytest.fixture
def rejection(tmp_path: Path) -> Callable[[bytes], RejectedVideoError]:
    """Probes bytes as a file and gives the rejection."""

    def probe_bytes(content: bytes) -> RejectedVideoError:
        path = tmp_path / "Run_1_1.mp4"
        path.write_bytes(content)
        with pytest.raises(RejectedVideoError) as raised:
            probe(path)
        assert raised.value.path == path
        assert str(raised.value) == (
            f"{path}: {raised.value.detail}; expected a video of at least 2 frames, all of them sound; "
            "mend it, or take it off its list"
        )
        return raised.value

    return probe_bytes


def test_an_ordinary_video_is_accepted_with_its_figures(tmp_path: Path, tail_video: bytes) -> None:
    path = tmp_path / "ordinary.mp4"
    path.write_bytes(tail_video)
    info = probe(path)
    assert (info.frames, info.width, info.height, info.fps) == (FRAMES, WIDTH, HEIGHT, 30.0)


@pytest.mark.parametrize(
    ("codec", "container", "size", "fps", "pixels"),
    [
        ("mpeg4", "avi", (WIDTH, HEIGHT), 30, "yuv420p"),
        ("mpeg4", "mp4", (320, 240), 25, "yuv420p"),
        ("libx264", "mp4", (97, 61), 30, "yuv444p"),
        ("mpeg4", "avi", (33, 47), 15, "yuv420p"),
        ("libx264", "matroska", (64, 128), 60, "yuv422p"),
        ("libvpx-vp9", "webm", (WIDTH, HEIGHT), 24, "yuv420p"),
        ("mjpeg", "avi", (WIDTH, HEIGHT), 10, "yuvj422p"),
    ],
)
def test_other_codecs_containers_sizes_and_rates_are_accepted_with_their_figures(
    tmp_path: Path, codec: str, container: str, size: tuple[int, int], fps: int, pixels: str
) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(encode(codec=codec, container=container, frames=7, size=size, fps=fps, pixels=pixels))
    info = probe(path)
    assert (info.frames, info.width, info.height, info.fps) == (7, *size, fps)


def test_a_video_cut_without_recoding_is_accepted_with_the_frames_that_it_shows(
    tmp_path: Path, tail_video: bytes
) -> None:
    """Its edit list hides frames that it still holds, and that it declares."""
    path = tmp_path / "cut.mp4"
    with av.open(io.BytesIO(tail_video)) as source, av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                ten_frames = int(10 / 30 / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - ten_frames,
                    packet.dts - ten_frames,
                    stream,
                )
                file.mux(packet)
    assert probe(path).frames == FRAMES - 10


def test_real_clips_are_accepted(arid_data: Path) -> None:
    clips = sorted((arid_data / "arid_subset" / "videos").glob("*/*.mp4"))[::30]
    for clip in clips:
        info = probe(clip)
        assert (info.width, info.height, round(info.fps)) == (320, 240, 30)
        assert 15 <= info.frames <= 200


# What cannot be used is rejected for a reason.


def test_an_empty_file_has_no_frames(rejection: Callable[[bytes], RejectedVideoError]) -> None:
    error = rejection(b"")
    assert (error.reason, error.detail) == ("no_frames", "the file is empty")


def test_text_in_a_videos_name_is_unreadable(rejection: Callable[[bytes], RejectedVideoError]) -> None:
    error = rejection(b"this is no video\n" * 100)
    assert error.reason == "unreadable"
    assert error.detail.startswith("not a readable video (")


def test_sound_alone_is_no_video(rejection: Callable[[bytes], RejectedVideoError]) -> None:
    error = rejection(encode_sound())
    assert (error.reason, error.detail) == ("no_video", "no picture stream")


def test_one_frame_shows_no_motion(rejection: Callable[[bytes], RejectedVideoError]) -> None:
    error = rejection(encode(frames=1))
    assert (error.reason, error.detail) == ("one_frame", "one frame only, which shows no motion")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_without_its_tail_a_file_with_the_index_there_is_unreadable(
    rejection: Callable[[bytes], RejectedVideoError], tail_video: bytes, share: float
) -> None:
    assert rejection(tail_video[: int(share * len(tail_video))]).reason == "unreadable"


def cut_after(video: bytes, frames: float) -> bytes:
    """A file's bytes up to the end of some frames and a part of the next one."""
    position, size = packets(video)[int(frames)]
    return video[: position + int(frames % 1 * size)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
@pytest.mark.parametrize("frames", [3.5, 12.0, FRAMES - 1, FRAMES - 0.5])
def test_without_its_tail_a_file_with_the_index_in_front_is_truncated(
    rejection: Callable[[bytes], RejectedVideoError], codec: str, frames: float
) -> None:
    """Some decoders make a whole picture of half its bytes: the container must be asked as well."""
    video = encode(codec=codec, muxing=FASTSTART)
    assert rejection(cut_after(video, frames)).reason == "truncated"


def test_an_avi_without_its_tail_is_truncated(rejection: Callable[[bytes], RejectedVideoError]) -> None:
    video = encode(codec="mpeg4", container="avi")
    error = rejection(cut_after(video, 9.0))
    assert (error.reason, error.detail) == ("truncated", f"9 of {FRAMES} declared frames are there")


def verdict(path: Path) -> object:
    try:
        return probe(path)
    except RejectedVideoError as error:
        return error.reason, error.detail


def test_no_cut_of_a_streamable_file_is_accepted(tmp_path: Path, faststart_video: bytes) -> None:
    """Every cut within its index, and many within its frames."""
    path = tmp_path / "streamable.mp4"
    first, _ = packets(faststart_video)[0]
    length = len(faststart_video)
    for kept in [*range(first), *range(first, length, 131), length - 1]:
        path.write_bytes(faststart_video[:kept])
        assert isinstance(verdict(path), tuple), f"{kept} of {length} bytes"


@pytest.mark.parametrize("filling", [b"\x00", b"\xff"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
def test_a_frame_that_was_overwritten_is_damage(
    rejection: Callable[[bytes], RejectedVideoError], codec: str, filling: bytes
) -> None:
    video = encode(codec=codec)
    position, size = packets(video)[FRAMES // 2]
    error = rejection(video[:position] + filling * size + video[position + size :])
    assert error.reason == "damaged"
    assert error.detail.startswith("frame ")


def disturbed(video: bytes, seed: int) -> bytes:
    """A copy with 16 other bytes somewhere behind the first frame."""
    rng = np.random.default_rng(seed)
    frames = packets(video)
    damaged = np.frombuffer(video, np.uint8).copy()
    begin = rng.integers(frames[1][0], sum(frames[-1]) - 16)
    damaged[begin : begin + 16] ^= rng.integers(1, 256, 16).astype(np.uint8)
    return damaged.tobytes()


def decoder_hides_damage(video: bytes) -> bool:
    """Whether every frame is decoded, but not all as they were written, by the decoder's own account."""
    with av.open(io.BytesIO(video)) as file:
        stream = file.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1  # with more, the account is not given
        try:
            return any(frame.is_corrupt for frame in file.decode(stream))
        except av.FFmpegError:
            return False


def test_damage_that_the_decoder_would_paint_over_is_damage(
    rejection: Callable[[bytes], RejectedVideoError],
) -> None:
    video = encode(coding={"x264-params": "cpu-independent=1:mbtree=0"})
    hidden = [copy for copy in (disturbed(video, seed) for seed in range(60)) if decoder_hides_damage(copy)]
    assert hidden
    for copy in hidden:
        error = rejection(copy)
        assert error.reason == "damaged"
        assert error.detail.endswith("was decoded with errors")


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_disturbed_video_gets_a_verdict_and_the_same_one_again(
    tmp_path_factory: pytest.TempPathFactory, tail_video: bytes, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "disturbed.mp4"
    path.write_bytes(disturbed(tail_video, seed))
    assert verdict(path) == verdict(path)


def test_whatever_byte_of_its_index_is_wrong_a_video_gets_a_verdict(tmp_path: Path) -> None:
    path, video = tmp_path / "disturbed.mp4", encode(frames=4, muxing=FASTSTART)
    first, _ = packets(video)[0]
    for position in range(first):
        path.write_bytes(video[:position] + bytes([video[position] ^ 0xFF]) + video[position + 1 :])
        verdict(path)


def test_a_rejection_travels_between_processes_whole() -> None:
    error = RejectedVideoError(Path("Run/Run_1_1.mp4"), "damaged", "frame 3 cannot be decoded")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (RejectedVideoError, str(error))
    assert (copy.path, copy.reason, copy.detail) == (error.path, error.reason, error.detail)
    assert isinstance(copy, DataError | UkdError)
    assert copy.exit_code == 1


# Frames out of files.


def test_frames_come_as_they_were_encoded(tmp_path: Path) -> None:
    path = tmp_path / "lossless.mp4"
    path.write_bytes(encode(frames=3, coding={"qp": "0"}))
    for number, frame in enumerate(read_frames(path, WIDTH, HEIGHT)):
        written = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
        np.testing.assert_array_equal(frame, written.to_ndarray())
    assert number == 2


def test_frames_of_odd_size_are_scaled_to_the_even_stored_one(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    path.write_bytes(encode(frames=2, size=(97, 61), pixels="yuv444p"))
    assert [frame.shape for frame in read_frames(path, 96, 60)] == [(90, 96)] * 2


def test_frames_are_made_smaller_by_averaging(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(encode(frames=2))
    for large, small in zip(read_frames(path, WIDTH, HEIGHT), read_frames(path, 48, 32), strict=True):
        averaged = large[:HEIGHT].reshape(32, 2, 48, 2).mean(axis=(1, 3))
        assert np.abs(small[:32] - averaged).max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (32, 32)])
def test_a_full_range_video_is_brought_to_limited_range(tmp_path: Path, size: tuple[int, int]) -> None:
    """Phones write full range; read as limited range, its darkest sixteenth would all be black."""
    path = tmp_path / "full.mp4"
    planes = np.full((96, 64), 128, np.uint8)
    planes[:32], planes[32:64] = 0, 255
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.codec_context.color_range = ColorRange.JPEG
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(planes, format="yuvj420p")
            frame.color_range = ColorRange.JPEG
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    luma = next(read_frames(path, *size))[: size[1]]
    assert (luma.min(), luma.max()) == (16, 235)


def test_a_video_that_is_cut_off_after_probing_is_rejected_when_it_is_read(
    tmp_path: Path, faststart_video: bytes
) -> None:
    path = tmp_path / "lost.mp4"
    path.write_bytes(cut_after(faststart_video, 9.5))
    with pytest.raises(RejectedVideoError) as raised:
        list(read_frames(path, WIDTH, HEIGHT))
    assert raised.value.reason == "truncated"


# The size in a shard.

LENGTHS = st.integers(2, 8192)


@given(LENGTHS, LENGTHS, st.none() | st.integers(16, 2160))
@example(99, 99, None)
@example(240, 320, 67)
def test_the_stored_size_is_even_and_never_larger_than_the_source(
    width: int, height: int, short_side: int | None
) -> None:
    stored = stored_size(width, height, short_side)
    assert all(length % 2 == 0 and length >= 2 for length in stored)
    assert stored[0] <= width
    assert stored[1] <= height


@given(LENGTHS, LENGTHS, st.integers(16, 2160))
def test_a_larger_source_gets_the_short_side_asked_for_and_keeps_its_shape(
    width: int, height: int, short_side: int
) -> None:
    stored = stored_size(width, height, short_side)
    scale = min(1.0, short_side / min(width, height))
    # The nearest even number is at most 1 away, or just below an odd source that is not scaled.
    assert stored == (pytest.approx(width * scale, abs=1.001), pytest.approx(height * scale, abs=1.001))


@pytest.mark.parametrize(
    ("source", "short_side", "stored"),
    [
        ((320, 240), None, (320, 240)),
        ((320, 240), 64, (86, 64)),
        ((240, 320), 64, (64, 86)),
        ((320, 240), 256, (320, 240)),
        ((321, 241), None, (320, 240)),
        ((1920, 1080), 256, (456, 256)),
    ],
)
def test_stored_sizes_of_usual_videos(
    source: tuple[int, int], short_side: int | None, stored: tuple[int, int]
) -> None:
    assert stored_size(*source, short_side) == stored
