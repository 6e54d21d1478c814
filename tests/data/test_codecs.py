"""Every codec shows the frames that a view asks for, in the source's colours, or says that it cannot."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange
from hypothesis import given
from hypothesis import strategies as st

from tests.data.odd_videos import Maker, turned
from tests.data.test_clips import decoded, film, grey, levels, scene, views, whole
from tests.devices import CPU, DEVICES
from tests.finished_shards import finish
from ukd_dist.clip_config import Clip
from ukd_dist.data import jpegs
from ukd_dist.data.clips import decode_clips
from ukd_dist.data.components import encode_sample
from ukd_dist.data.frame_cache import FrameCache
from ukd_dist.data.jpeg_encoder import JpegEncoder, full_range
from ukd_dist.data.modalities import component
from ukd_dist.data.shards import Sample, ShardSet
from ukd_dist.data.stored import StoredVideos
from ukd_dist.data.streams import copy_stream
from ukd_dist.data.video import Frame, probe, read_frames
from ukd_dist.data.views import evaluation_batches, training_batches
from ukd_dist.data_config import Codec, Encoding
from ukd_dist.errors import DataError, UsageError

CODECS: tuple[Codec, ...] = ("vp9", "copy", "jpeg")
WIDTH, HEIGHT = 96, 64
SIZES = [(96, 64), (64, 96), (128, 128)]
Film = np.ndarray  # a component, uint8


def source(path: Path, frames: Iterable[Frame], codec: str = "libvpx-vp9", **coding: str) -> Path:
    """A source video of 4:2:0 frames, in a container of its own and with a single key frame."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=30, options={"g": "999", "crf": "10", "b": "0", **coding})
        for number, planes in enumerate(frames):
            if number == 0:
                stream.width, stream.height = planes.shape[1], planes.shape[0] * 2 // 3
                stream.pix_fmt, stream.thread_count = "yuv420p", 1
            file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        file.mux(stream.encode())
    return path


def store(path: Path, codec: Codec) -> Film:
    """The rgb component of a source in shards of a codec."""
    info = probe(path)
    sample = Sample("train", 0, "key", 0, "Run", "", info.frames, info.fps, info.width, info.height)
    encoded = encode_sample(sample, path, ("rgb",), Encoding(), codec)
    assert list(encoded) == [component("rgb", codec)]
    return np.frombuffer(encoded[component("rgb", codec)], np.uint8)


# Frames.

NUMBERED, BITS = 40, 6


def numbered_frame(number: int) -> Frame:
    """The frame's number in six vertical bars, the lowest bit on the left; bright is 1."""
    bars = [200 if number >> bit & 1 else 40 for bit in range(BITS)]
    return grey(np.repeat(bars, 16)[None].repeat(HEIGHT, 0))


@pytest.fixture(scope="module", params=CODECS)
def numbered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Film, Codec]:
    path = tmp_path_factory.mktemp("numbered") / "numbered.webm"
    return store(source(path, map(numbered_frame, range(NUMBERED))), request.param), request.param


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (8, 1), (5, 3), (16, 4)])
def test_from_every_start_each_codec_shows_exactly_the_frames_asked_for_and_repeats_the_last(
    numbered: tuple[Film, Codec], frames: int, stride: int
) -> None:
    stored, codec = numbered
    starts = np.arange(NUMBERED)
    batch = views([0] * NUMBERED, start_frames=starts)
    clip = Clip(frames=frames, stride=stride, size=HEIGHT, short_side=(HEIGHT, HEIGHT), gamma=1.0)
    left, right = (
        decoded([stored], [replace(batch, crop_x=np.full(NUMBERED, x, np.float32))], clip, codec=codec)[0]
        for x in (0.0, 1.0)
    )
    bright = [levels(left)[:, 0, :, 24:40, bit * 16 + 4 : bit * 16 + 12] for bit in range(3)]
    bright += [levels(right)[:, 0, :, 24:40, bit * 16 + 20 : bit * 16 + 28] for bit in range(3)]
    shown = sum((bars.mean(axis=(2, 3)) > 110).astype(int) << bit for bit, bars in enumerate(bright))
    wanted = starts[:, None] + stride * np.arange(frames)
    np.testing.assert_array_equal(shown, np.minimum(wanted, NUMBERED - 1))


def test_a_clip_of_single_frames_does_not_depend_on_its_neighbours_or_the_size_of_the_batch() -> None:
    films = [jpegs_of(scene(n + 50 * row, *size) for n in range(12)) for row, size in enumerate(SIZES)]
    clip = whole(48, frames=5, stride=2)
    places = {"start_frames": [3, 0, 6], "crop_x": [0.1, 0.7, 1.0], "mirror": [1, 0, 1], "numbers": [4, 5, 6]}
    (together,) = decoded(films, [views([0, 1, 2], **places)], clip, codec="jpeg", num_threads=2)
    singly = [views([i], **{name: values[i] for name, values in places.items()}) for i in range(3)]
    apart = decoded(films, [views([0, 1, 2], **places), *singly], clip, codec="jpeg")
    np.testing.assert_array_equal(together, apart[0])
    np.testing.assert_array_equal(together, np.concatenate(apart[1:]))


# Colours.


def planes_of(video: bytes) -> list[Frame]:
    with av.open(io.BytesIO(video)) as file:
        return [frame.to_ndarray() for frame in file.decode(video=0)]


def exact_rgb(frames: Iterable[Frame], *, full: bool = False) -> np.ndarray:
    """4:2:0 planes as rgb 0..255, `[3, frames, H, W]`: BT.601 by hand, unrounded."""
    black, luma_span, chroma_span = (0, 255, 255) if full else (16, 219, 224)
    shown = []
    for planes in frames:
        height, width = planes.shape[0] * 2 // 3, planes.shape[1]
        luma = (planes[:height].astype(np.float64) - black) * 255 / luma_span
        halves = planes[height:].reshape(2, height // 2, width // 2) - 128.0
        blue, red = (cv2.resize(half * 255 / chroma_span, (width, height)) for half in halves)
        shown.append([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue])
    return np.clip(np.array(shown), 0, 255).transpose(1, 0, 2, 3)


def after_gamma(rgb: np.ndarray) -> np.ndarray:
    return np.asarray((rgb / 255) ** (1 / 3) * 255)


def square(frame: Frame) -> Frame:
    """The left of a 4:2:0 frame that is wider than high."""
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    chroma = frame[height:].reshape(2, height // 2, width // 2)[..., : height // 2]
    return np.concatenate([frame[:height, :height], chroma.reshape(height // 2, height)])


def dark_frames(path: Path) -> list[Frame]:
    return [square(frame) for frame in islice(read_frames(path, 320, 240), 6)]


def jpegs_of(frames: Iterable[Frame], qscale: int = 2) -> Film:
    encoder: JpegEncoder | None = None
    for frame in frames:
        encoder = encoder or JpegEncoder(frame.shape[1], frame.shape[0] * 2 // 3, qscale)
        encoder.write(frame)
    assert encoder is not None
    return np.frombuffer(encoder.finish(), np.uint8)


def shown_of(stored: Film, codec: Codec, size: int, frames: int = 6) -> np.ndarray:
    """What a network is shown of a square video, as grey levels after gamma, `[3, frames, H, W]`."""
    clip = whole(size, frames=frames, gamma=3.0)
    (clips_bcthw,) = decoded([stored], [views([0], short_sides=size)], clip, codec=codec)
    return levels(clips_bcthw[0])


def drawn(videos: Path) -> list[Path]:
    return sorted((videos / "videos").glob("*/*.mp4"))[::9]


def test_colours_of_drawn_dark_clips_are_those_of_an_exact_conversion_of_what_is_stored(videos: Path) -> None:
    """Of vp9 and jpeg: every channel, after gamma, which makes one level of the darkest into 40."""
    for path in drawn(videos):
        frames = dark_frames(path)
        jpeg, vp9 = jpegs_of(frames), film(frames, crf=24)
        stills = [planes_of(still.tobytes())[0] for still in jpegs.select(jpeg, np.arange(6))]
        exact = {"jpeg": exact_rgb(stills, full=True), "vp9": exact_rgb(planes_of(vp9.tobytes()))}
        for codec, stored in (("jpeg", jpeg), ("vp9", vp9)):
            difference = shown_of(stored, codec, 240) - after_gamma(exact[codec])
            assert np.abs(difference.mean(axis=(1, 2, 3))).max() <= 0.2, (path.name, codec)


def test_neither_codec_makes_drawn_dark_clips_darker_or_brighter_than_their_source(videos: Path) -> None:
    for path in drawn(videos):
        frames = dark_frames(path)
        wanted = after_gamma(exact_rgb(frames))
        for codec, stored in (("jpeg", jpegs_of(frames)), ("vp9", film(frames, crf=24))):
            assert abs((shown_of(stored, codec, 240) - wanted).mean()) <= 0.2, (path.name, codec)


def test_real_dark_clips_as_jpegs_are_as_near_to_their_source_as_vp9(arid_data: Path) -> None:
    """PSNR after gamma, dB; figures of all clips are in docs/results.md."""
    ratio = {"jpeg": [], "vp9": []}
    for path in sorted((arid_data / "arid_subset" / "videos").glob("*/*.mp4"))[::70]:
        frames = dark_frames(path)
        wanted = after_gamma(exact_rgb(frames))
        for codec, stored in (("jpeg", jpegs_of(frames)), ("vp9", film(frames, crf=24))):
            error = ((shown_of(stored, codec, 240) - wanted) ** 2).mean()
            ratio[codec].append(10 * np.log10(255**2 / error))
    assert min(ratio["vp9"]) > 33
    assert min(ratio["jpeg"]) > 33
    assert np.mean(ratio["jpeg"]) > np.mean(ratio["vp9"])


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_shows_the_single_frames_that_a_cpu_shows(device: torch.device) -> None:
    films = [jpegs_of(scene(n + 50 * row, *size) for n in range(12)) for row, size in enumerate(SIZES)]
    batches = [views([0, 1, 2], start_frames=[0, 5, 9], crop_x=[0, 0.5, 1], mirror=[0, 1, 1]), views([1])]
    clip = whole(48, frames=4, stride=2, gamma=3.0)
    on_cpu = decoded(films, batches, clip, codec="jpeg")
    on_device = decoded(films, batches, clip, codec="jpeg", device=device)
    for cpu, there in zip(on_cpu, on_device, strict=True):
        assert there.shape == cpu.shape
        assert abs((levels(there) - levels(cpu)).mean()) < 0.2


# Single frames as a component.


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=9), st.data())
def test_single_frames_that_are_joined_are_selected(frames: list[bytes], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(frames) - 1), max_size=12))
    selected = jpegs.select(np.frombuffer(jpegs.join(frames), np.uint8), np.array(numbers, np.int32))
    assert [frame.tobytes() for frame in selected] == [frames[number] for number in numbers]


def test_every_single_frame_is_a_jpeg_of_its_own_that_any_reader_opens() -> None:
    frames = [scene(n) for n in range(3)]
    for frame, encoded in zip(frames, jpegs.select(jpegs_of(frames), np.arange(3)), strict=True):
        opened = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
        assert np.abs(opened - exact_rgb([frame])[:, 0]).mean() < 2.5


def test_frames_are_brought_to_full_range_with_one_rounding() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frame = full_range(np.concatenate([ramp, ramp[:8]]))
    luma = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255)
    chroma = np.clip((np.arange(128) - 128) * 255 / 224 + 128, 0, 255)
    np.testing.assert_allclose(frame.reshape(-1), np.concatenate([luma, chroma]), atol=0.5)


def test_the_same_frames_have_the_same_jpegs_and_a_lower_qscale_keeps_more() -> None:
    frames = [scene(n, 64, 64) for n in range(3)]
    wanted = exact_rgb(frames)

    def error(qscale: int) -> float:
        opened = [
            cv2.imdecode(j, cv2.IMREAD_COLOR) for j in jpegs.select(jpegs_of(frames, qscale), np.arange(3))
        ]
        return float(np.abs(np.array(opened)[..., ::-1].transpose(3, 0, 1, 2) - wanted).mean())

    assert jpegs_of(frames).tobytes() == jpegs_of(frames).tobytes()
    assert error(2) < error(8) < error(31)


# Copied streams.


def packets(video: Path | io.BytesIO) -> list[bytes]:
    with av.open(video if isinstance(video, io.BytesIO) else str(video)) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx-vp9", "webm"), ("libx264", "mkv"), ("mpeg4", "mp4")])
def test_a_copied_stream_holds_the_sources_pictures_and_the_same_bytes_each_time(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    path = source(tmp_path / f"source.{suffix}", [scene(n) for n in range(20)], codec)
    copied = copy_stream(path, 20)
    assert copied == copy_stream(path, 20)
    for shown, wanted in zip(planes_of(copied), planes_of(path.read_bytes()), strict=True):
        np.testing.assert_array_equal(shown, wanted)
    if suffix != "mkv":  # H.264 out of Matroska has the same packets as well, but its parameters moved
        assert packets(io.BytesIO(copied)) == packets(path)


def test_a_copied_sample_has_flow_beside_it(tmp_path: Path) -> None:
    path = source(tmp_path / "source.webm", [scene(n) for n in range(5)])
    sample = Sample("train", 0, "key", 0, "Run", "", 5, 30.0, WIDTH, HEIGHT)
    encoded = encode_sample(sample, path, ("rgb", "flow"), Encoding(), "copy")
    assert encoded["rgb.mp4"] == copy_stream(path, 5)
    assert encoded["flow.mp4"] == encode_sample(sample, path, ("flow",), Encoding())["flow.mp4"]


def refusal(call: Callable[[], object], kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as raised:
        call()
    return str(raised.value)


def test_a_stream_that_dali_could_not_serve_is_not_copied(tmp_path: Path) -> None:
    av1_like = source(tmp_path / "a.avi", [scene(n) for n in range(3)], "ffv1")
    assert refusal(lambda: copy_stream(av1_like, 3)) == (
        f"{av1_like} cannot be stored as it is: DALI decodes no ffv1; expected H.264, HEVC, MPEG-4, VP9, "
        "4:2:0, 8 bit, limited range, upright and all shown; set data.codec: vp9 or jpeg"
    )


def test_a_stream_with_pictures_that_are_never_shown_is_not_copied(tmp_path: Path) -> None:
    path = source(tmp_path / "source.webm", [scene(n) for n in range(6)])
    assert "its stream holds 6 pictures, of which 5 are shown;" in refusal(lambda: copy_stream(path, 5))


def test_a_full_range_stream_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "full.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_range = ColorRange.JPEG
        file.mux(stream.encode(av.VideoFrame.from_ndarray(scene(0), format="yuv420p")))
        file.mux(stream.encode())
    assert "cannot be stored as it is: its pictures are yuvj420p, range JPEG;" in refusal(
        lambda: copy_stream(path, 1)
    )


@pytest.mark.parametrize("maker", [turned(90), turned(0, mirrored=True)])
def test_a_stream_of_turned_pictures_is_not_copied(maker: Maker, tmp_path: Path) -> None:
    maker(path := tmp_path / "phone.mp4")
    assert "its pictures are turned or mirrored, and stored as they lie;" in refusal(
        lambda: copy_stream(path, probe(path).frames)
    )


# Shards.


def shard_of(directory: Path, paths: list[Path], codec: Codec) -> ShardSet:
    """Finished shards of some videos, one class."""
    content = []
    for row, path in enumerate(paths):
        info = probe(path)
        described = (info.frames, info.fps, info.width, info.height)
        sample = Sample("train", row, path.stem, 0, "Run", "", *described)
        content.append((sample, encode_sample(sample, path, ("rgb",), Encoding(), codec)))
    return finish(directory, content, ("Run",), codec=codec)


def clips_of(shards: ShardSet, device: torch.device = CPU) -> list[np.ndarray]:
    clip = Clip(frames=4, stride=2, size=48, short_side=(48, 48))
    batches = evaluation_batches(shards.rows["train"].frames, clip, 2)
    made = decode_clips(shards, "train", "rgb", clip, batches, batch_size=2, device=device)
    return [clips.clips_bcthw.numpy().copy() for clips in made]


@pytest.mark.parametrize("codec", ["vp9", "jpeg", "copy"])
def test_clips_of_frames_in_memory_are_those_decoded_one_by_one(tmp_path: Path, codec: Codec) -> None:
    paths = [
        source(tmp_path / f"video{row}.webm", [scene(n + 40 * row) for n in range(5 + 4 * row)])
        for row in range(3)
    ]
    shards = shard_of(tmp_path / codec, paths, codec)
    clip = Clip(frames=4, stride=2, size=48, short_side=(48, 64))
    rows = shards.rows["train"]
    cache = FrameCache(
        StoredVideos(shards, "train", "rgb", CPU),
        "rgb",
        np.arange(3),
        most_gib=0.1,
        decoder=CPU,
        num_threads=1,
    )

    def made(cache: FrameCache | None) -> list[np.ndarray]:
        batches = training_batches(rows.frames, clip, seed=3, epochs=range(4), batch_size=3)
        found = decode_clips(shards, "train", "rgb", clip, batches, batch_size=3, device=CPU, cache=cache)
        return [clips.clips_bcthw.numpy().copy() for clips in found]

    np.testing.assert_array_equal(made(cache), made(None))


def test_the_same_views_of_the_same_videos_look_the_same_in_every_codec(tmp_path: Path) -> None:
    paths = [
        source(tmp_path / f"video{row}.webm", [scene(n + 40 * row) for n in range(9 + row)])
        for row in range(3)
    ]
    shown = {codec: clips_of(shard_of(tmp_path / codec, paths, codec)) for codec in CODECS}
    assert [clips.shape for clips in shown["jpeg"]] == [(2, 3, 4, 48, 48), (1, 3, 4, 48, 48)]
    for codec in ("vp9", "jpeg"):
        for clips, wanted in zip(shown[codec], shown["copy"], strict=True):
            difference = levels(clips) - levels(wanted)
            assert np.abs(difference).mean() < 6, codec  # after gamma 3, and noise of 1.5 levels
            assert abs(difference.mean()) < 0.5, codec


def test_h264_shards_on_a_machine_without_nvdec_are_refused_before_dali_fails(tmp_path: Path) -> None:
    path = source(tmp_path / "Run_1_1.mp4", [scene(n) for n in range(6)], "libx264")
    shards = shard_of(tmp_path / "shards", [path], "copy")
    assert refusal(lambda: clips_of(shards), UsageError) == (
        f"H.264 shards on a machine without NVDEC: 'Run_1_1' in {tmp_path / 'shards'}; "
        "expected VP9 or JPEG, which a CPU decodes, or a process with a GPU (resources.gpus); "
        "give it a GPU, or shard with data.codec: vp9 or jpeg into another root"
    )
