"""Clips: exactly the frames, the crop and the colours that a view asks for, on any device."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from tests.devices import CPU, DEVICES
from ukd_dist.clip_config import Clip, Views
from ukd_dist.data import jpegs
from ukd_dist.data.clips import (
    CHANNELS,
    RGB_MEAN,
    RGB_STD,
    EncodedBatch,
    decode,
    decode_clips,
)
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.video import Frame, read_frames
from ukd_dist.data.views import FREE, Batch, evaluation_batches, training_batches
from ukd_dist.data.vp9 import Vp9Encoder
from ukd_dist.data.writers import pack_flow
from ukd_dist.data_config import Codec, Modality
from ukd_dist.errors import UsageError

WIDTH, HEIGHT = 96, 64
BOUND = 20.0
Film = np.ndarray  # an encoded video, uint8


def film(pictures: Iterable[Frame], crf: int = 4) -> Film:
    """Pictures, `[height * 3 / 2, width]`, as a stored video."""
    encoder: Vp9Encoder | None = None
    for picture in pictures:
        encoder = encoder or Vp9Encoder(picture.shape[1], picture.shape[0] * 2 // 3, 30, crf)
        encoder.write(picture)
    assert encoder is not None
    return np.frombuffer(encoder.finish(), np.uint8)


def grey(luma: np.ndarray) -> Frame:
    """A picture of these luma values without colour."""
    height, width = luma.shape
    return np.concatenate([np.rint(luma).astype(np.uint8), np.full((height // 2, width), 128, np.uint8)])


def scene(time: int, width: int = WIDTH, height: int = HEIGHT, saturation: float = 6) -> Frame:
    """A dark, noisy, slightly coloured picture."""
    rng = np.random.default_rng(time)
    across, down = np.arange(width), np.arange(height)[:, None]
    luma = 36 + 20 * np.sin(down / 9 + time / 3) * np.cos(across / 11) + rng.normal(0, 1.5, (height, width))
    tint = np.sin(down[::2] / 7 + across[::2] / 9 + np.array([0, 2])[:, None, None])
    chroma = 128 + saturation * tint + rng.normal(0, 0.5, tint.shape)
    planes = np.concatenate([luma.clip(16, 235), chroma.reshape(-1, width)])
    return np.rint(planes).astype(np.uint8)


def views(
    rows: Sequence[int],
    *,
    start_frames: Sequence[int] | int = 0,
    short_sides: float = HEIGHT,
    crop_x: Sequence[float] | float = 0.5,
    crop_y: Sequence[float] | float = 0.5,
    mirror: Sequence[int] | int = 0,
    numbers: Sequence[int] | int = FREE,
) -> Batch:
    def column(values: object, kind: type) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, kind), len(rows)).copy()

    return Batch(
        column(rows, np.int64),
        column(numbers, np.int64),
        column(start_frames, np.int32),
        column(short_sides, np.float32),
        column(crop_x, np.float32),
        column(crop_y, np.float32),
        column(mirror, np.int32),
    )


def decoded(
    films: Sequence[Film],
    batches: Sequence[Batch],
    clip: Clip,
    modality: Modality = "rgb",
    device: torch.device = CPU,
    num_threads: int = 1,
    codec: Codec = "vp9",
) -> list[np.ndarray]:
    """The clips of each batch, `[batch, channels, frames, size, size]`."""
    return [
        clips_bcthw.cpu().numpy().copy()
        for clips_bcthw, *_ in decode(
            (encoded(films, batch, codec, modality) for batch in batches),
            modality,
            clip,
            batch_size=max(len(batch.rows) for batch in batches),
            flow_bound=BOUND,
            device=device,
            codec=codec,
            num_threads=num_threads,
        )
    ]


def encoded(
    films: Sequence[Film], batch: Batch, codec: Codec = "vp9", modality: Modality = "rgb"
) -> EncodedBatch:
    shapes = np.array([shape(films[row], codec) for row in batch.rows])
    heights = shapes[:, 1:] // ((2, 1) if modality == "flow" else (1, 1))
    return EncodedBatch([films[row] for row in batch.rows], shapes[:, 0], heights, batch)


def shape(film: Film, codec: Codec) -> tuple[int, int, int]:
    """Frames, height and width of the pictures."""
    if codec == "jpeg":
        count = int(film[:4].view("<u4")[0])
        return count, *cv2.imdecode(jpegs.select(film, np.array([0], np.int32))[0], cv2.IMREAD_COLOR).shape[
            :2
        ]
    with av.open(io.BytesIO(film.tobytes())) as file:
        stream = file.streams.video[0]
        return stream.frames, stream.height, stream.width


def whole(size: int = HEIGHT, frames: int = 1, stride: int = 1, gamma: float = 1.0) -> Clip:
    return Clip(frames=frames, stride=stride, size=size, short_side=(size, size), gamma=gamma)


def levels(clips_bcthw: np.ndarray) -> np.ndarray:
    """Normalised rgb as grey levels 0..255."""
    return (clips_bcthw * RGB_STD + RGB_MEAN) * 255


def reference(encoded: Film) -> np.ndarray:
    """A video as rgb 0..255, `[3, frames, H, W]`: BT.601, limited range, by hand and unrounded."""
    shown = []
    with av.open(io.BytesIO(encoded.tobytes())) as file:
        for frame in file.decode(video=0):
            planes = frame.to_ndarray().astype(np.float64)
            height, width = planes.shape[0] * 2 // 3, planes.shape[1]
            luma = (planes[:height] - 16) * 255 / 219
            halves = (planes[height:].reshape(2, height // 2, width // 2) - 128) * 255 / 224
            blue, red = (cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR) for half in halves)
            shown.append([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue])
    return np.clip(np.array(shown), 0, 255).transpose(1, 0, 2, 3)


# Frames.

NUMBERED, LEVEL = 40, 5


@pytest.fixture(scope="module")
def numbered() -> Film:
    """Forty frames over three groups of pictures; frame n is flat grey of luma 16 + 5 n."""
    return film(grey(np.full((HEIGHT, WIDTH), 16 + LEVEL * n)) for n in range(NUMBERED))


def frame_numbers(clips_bcthw: np.ndarray) -> np.ndarray:
    """Which frame of `numbered` each frame of each clip is, `[batch, frames]`."""
    found = levels(clips_bcthw).mean(axis=(1, 3, 4)) * 219 / 255 / LEVEL
    assert np.abs(found - np.rint(found)).max() < 0.25
    return np.rint(found).astype(int)


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (8, 1), (5, 3), (16, 4), (3, 17)])
def test_from_every_start_exactly_the_frames_asked_for_are_shown_and_the_last_is_repeated(
    numbered: Film, frames: int, stride: int
) -> None:
    starts = np.arange(NUMBERED)
    batch = views([0] * NUMBERED, start_frames=starts)
    (clips_bcthw,) = decoded([numbered], [batch], whole(32, frames, stride))
    wanted = starts[:, None] + stride * np.arange(frames)
    np.testing.assert_array_equal(frame_numbers(clips_bcthw), np.minimum(wanted, NUMBERED - 1))


def test_a_video_shorter_than_a_clip_repeats_its_last_frame_instead_of_black() -> None:
    short = film(grey(np.full((HEIGHT, WIDTH), 16 + LEVEL * n)) for n in range(3))
    (clips_bcthw,) = decoded([short], [views([0])], whole(32, frames=8))
    assert frame_numbers(clips_bcthw).tolist() == [[0, 1, 2, 2, 2, 2, 2, 2]]


def test_flow_is_shown_of_the_same_frames_as_rgb() -> None:
    moving = film(pack_flow(np.full((HEIGHT, WIDTH, 2), n - 10, np.float32), BOUND) for n in range(20))
    starts = [0, 3, 7, 15, 19]
    (clips_bcthw,) = decoded(
        [moving], [views([0] * 5, start_frames=starts)], whole(32, frames=6, stride=2), "flow"
    )
    wanted = np.minimum(np.array(starts)[:, None] + 2 * np.arange(6), 19) - 10
    shown = clips_bcthw.mean(axis=(3, 4))
    np.testing.assert_allclose(shown, np.stack([wanted, wanted], axis=1), atol=0.2)


# Colours.


@pytest.mark.parametrize("gamma", [1.0, 3.0])
@pytest.mark.parametrize("saturation", [0.0, 6.0, 15.0])
def test_colours_are_those_of_a_plain_decode_by_hand(gamma: float, saturation: float) -> None:
    dark = film((scene(n, HEIGHT, HEIGHT, saturation) for n in range(6)), crf=24)
    (clips_bcthw,) = decoded([dark], [views([0])], whole(frames=6, gamma=gamma))
    wanted = (reference(dark) / 255) ** (1 / gamma) * 255
    difference = (levels(clips_bcthw[0]) - wanted).mean(axis=(1, 2, 3))
    assert np.abs(difference).max() <= 0.2


def test_a_pixel_is_off_by_no_more_than_the_rounding_to_eight_bits() -> None:
    dark = film(scene(n, HEIGHT, HEIGHT) for n in range(6))
    (clips_bcthw,) = decoded([dark], [views([0])], whole(frames=6))
    assert np.abs(levels(clips_bcthw[0]) - reference(dark)).max() < 0.51


def test_the_darkest_levels_stay_apart_after_gamma() -> None:
    """An 8-bit table would make one level of several of them."""
    ramp = film([grey(np.repeat(np.arange(16, 32), 4)[None].repeat(HEIGHT, 0))] * 2)
    (clips_bcthw,) = decoded([ramp], [views([0])], whole(frames=1, gamma=3.0))
    columns = levels(clips_bcthw)[0, 0, 0].mean(axis=0)[1::4]
    assert columns[0] == pytest.approx(0, abs=1)
    assert all(after - before > 2 for before, after in pairwise(columns))


def test_real_dark_clips_keep_their_colours(arid_data: Path) -> None:
    """Compared at 8 bits, as decoders round: at ARID's darkest, rounding itself shifts the mean by 0.25."""
    for path in sorted((arid_data / "arid_subset" / "videos").glob("*/*.mp4"))[::70]:
        dark = film(islice(read_frames(path, 240, 240), 4), crf=24)
        (clips_bcthw,) = decoded([dark], [views([0], short_sides=240)], whole(240, frames=4, gamma=3.0))
        wanted = (np.rint(reference(dark)) / 255) ** (1 / 3) * 255
        assert np.abs((levels(clips_bcthw[0]) - wanted).mean(axis=(1, 2, 3))).max() <= 0.05


# Crops, mirrors, sizes.


@pytest.mark.parametrize(
    ("size", "place", "left", "top"),
    [
        (64, (0.0, 0.0), 0, 0),
        (64, (1.0, 0.0), 32, 0),
        (64, (0.5, 0.5), 16, 0),
        (32, (0.0, 1.0), 0, 32),
        (32, (1.0, 1.0), 64, 32),
        (32, (0.25, 0.75), 16, 24),
    ],
)
def test_a_crop_lies_where_its_view_says(size: int, place: tuple[float, float], left: int, top: int) -> None:
    still = film([scene(0)] * 2)
    clip = Clip(frames=1, size=size, short_side=(HEIGHT, HEIGHT), gamma=1.0)
    (clips_bcthw,) = decoded([still], [views([0], crop_x=place[0], crop_y=place[1])], clip)
    wanted = reference(still)[:, :1, top : top + size, left : left + size]
    assert np.abs(levels(clips_bcthw[0]) - wanted).max() < 0.51


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("short_side", [40, 47, 64, 101])
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 0.6), (0.3, 1.0)])
def test_a_crop_of_a_resized_picture_is_that_part_of_the_whole_resized_picture(
    place: tuple[float, float], short_side: int, antialias: bool
) -> None:
    still = film([scene(0, HEIGHT, HEIGHT)] * 2)
    size, (x, y) = 32, (int(share * (short_side - 32) + 0.5) for share in place)
    view = views([0], short_sides=short_side, crop_x=place[0], crop_y=place[1])
    pictures = [
        decoded([still], [view], whole(side, frames=1).model_copy(update={"antialias": antialias}))[0][
            0, :, 0
        ]
        for side in (short_side, size)
    ]
    np.testing.assert_allclose(pictures[1], pictures[0][:, y : y + size, x : x + size], atol=2e-4)


def test_without_antialiasing_a_smaller_picture_is_that_of_the_nearest_pixels() -> None:
    """Of stripes of two pixels at a quarter of the size: their mean, or every second stripe."""
    stripes = grey(np.tile([60, 140, 140, 60], HEIGHT // 4)[None].repeat(HEIGHT, 0))
    still = film([stripes] * 2, crf=4)
    clip = whole(HEIGHT // 4, frames=1)
    averaged, sampled = (
        levels(
            decoded([still], [views([0], short_sides=16)], clip.model_copy(update={"antialias": antialias}))[
                0
            ]
        )
        for antialias in (True, False)
    )
    assert np.ptp(averaged[..., 2:-2]) < 8
    assert averaged.mean() == pytest.approx((100 - 16) * 255 / 219, abs=3)
    assert np.abs(averaged - sampled).max() > 20


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 1.0), (0.8, 0.3)])
def test_a_mirrored_clip_is_the_mirrored_crop(place: tuple[float, float]) -> None:
    moving = film(scene(n) for n in range(4))
    batch = views([0, 0], crop_x=place[0], crop_y=place[1], mirror=[0, 1])
    (clips_bcthw,) = decoded([moving], [batch], whole(32, frames=4))
    np.testing.assert_array_equal(clips_bcthw[1], clips_bcthw[0][..., ::-1])


def test_mirroring_flow_also_turns_its_x_around() -> None:
    across, down = np.arange(WIDTH) / 8 - 4, np.arange(HEIGHT)[:, None] / 16
    flow = np.stack([across + 0 * down, down + 0 * across], axis=-1).astype(np.float32)
    moving = film([pack_flow(flow, BOUND)] * 3)
    (clips_bcthw,) = decoded([moving], [views([0, 0], mirror=[0, 1])], whole(frames=3), "flow")
    plain, mirrored = clips_bcthw
    np.testing.assert_array_equal(mirrored[0], -plain[0][..., ::-1])
    np.testing.assert_array_equal(mirrored[1], plain[1][..., ::-1])


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (64, 64)])
@pytest.mark.parametrize("short_side", [32, 64, 128])
def test_the_short_side_is_brought_to_the_views_size_and_the_shape_is_kept(
    width: int, height: int, short_side: int
) -> None:
    """Grey rises by one level a pixel to the right and half a level a pixel downwards."""
    luma = 40 + np.arange(width) + np.arange(height)[:, None] / 2
    still = film([grey(luma)] * 2)
    (clips_bcthw,) = decoded([still], [views([0], short_sides=short_side)], whole(32, frames=1))
    scale = short_side / min(width, height)
    picture = levels(clips_bcthw)[0, 0, 0] * 219 / 255 + 16
    assert picture.mean() == pytest.approx(luma.mean(), abs=0.6)
    assert np.diff(picture.mean(axis=0)).mean() == pytest.approx(1 / scale, rel=0.06)
    assert np.diff(picture.mean(axis=1)).mean() == pytest.approx(0.5 / scale, rel=0.06)


def test_resizing_leaves_flow_in_stored_pixels() -> None:
    steady = film([pack_flow(np.full((HEIGHT, WIDTH, 2), (6, -3), np.float32), BOUND)] * 2)
    for short_side in (32, 64, 128):
        (clips_bcthw,) = decoded([steady], [views([0], short_sides=short_side)], whole(32), "flow")
        assert clips_bcthw.mean(axis=(0, 2, 3, 4)) == pytest.approx([6, -3], abs=2 * BOUND / 255)


def test_videos_of_other_sizes_and_lengths_share_a_batch() -> None:
    films = [
        film(scene(n, width, height) for n in range(length))
        for width, height, length in [(96, 64, 9), (64, 96, 3), (128, 128, 30)]
    ]
    clip = whole(64, frames=4)
    (together,) = decoded(films, [views([0, 1, 2])], clip)
    apart = [decoded(films, [views([row])], clip)[0][0] for row in range(3)]
    np.testing.assert_array_equal(together, np.stack(apart))


def test_a_clip_does_not_depend_on_its_neighbours_the_order_or_the_threads() -> None:
    films = [film(scene(n + 50 * row) for n in range(12)) for row in range(4)]
    clip = whole(48, frames=5)
    places = {"start_frames": [3, 0, 6, 2], "crop_x": [0.1, 0.7, 0.5, 1.0], "mirror": [1, 0, 0, 1]}
    (together,) = decoded(films, [views([0, 1, 2, 3], **places)], clip, num_threads=2)
    backwards = {name: values[::-1] for name, values in places.items()}
    singly = [views([3 - i], **{name: values[i] for name, values in backwards.items()}) for i in range(4)]
    apart = decoded(films, singly, clip)
    np.testing.assert_array_equal(together, np.concatenate(apart)[::-1])


# The stream of batches.


@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_evaluation_gives_every_row_once_with_its_label_and_a_smaller_last_batch(
    shards: ShardSet, modality: Modality
) -> None:
    clip = Clip(frames=3, stride=2, size=48, short_side=(48, 56))
    rows = shards.rows["train"]
    batches = evaluation_batches(rows.frames, clip, batch_size=3)
    seen = [
        (clips.clips_bcthw.clone(), clips.rows_b.clone(), clips.labels_b.clone())
        for clips in decode_clips(shards, "train", modality, clip, batches, batch_size=3, device=CPU)
    ]
    assert [pixels.shape for pixels, _, _ in seen] == [
        (batch, CHANNELS[modality], 3, 48, 48) for batch in (3, 3, 2)
    ]
    for pixels, rows_b, labels_b in seen:
        assert (pixels.dtype, rows_b.dtype, labels_b.dtype) == (torch.float32, torch.int64, torch.int64)
        assert pixels.device == rows_b.device == labels_b.device == CPU
        assert torch.isfinite(pixels).all()
    assert torch.cat([rows_b for _, rows_b, _ in seen]).tolist() == list(range(len(rows)))
    assert torch.cat([labels_b for _, _, labels_b in seen]).tolist() == rows.labels.tolist()


def test_training_clips_come_with_the_rows_and_labels_of_their_batches(shards: ShardSet) -> None:
    clip = Clip(frames=2, stride=2, size=32, short_side=(32, 40))
    rows = shards.rows["train"]

    def batches() -> Iterator[Batch]:
        return training_batches(rows.frames, clip, seed=4, epochs=range(2), batch_size=4)

    found = [
        (clips.rows_b.tolist(), clips.views_b.tolist(), clips.labels_b.tolist())
        for clips in decode_clips(shards, "train", "rgb", clip, batches(), batch_size=4, device=CPU)
    ]
    assert found == [
        (batch.rows.tolist(), [FREE] * 4, rows.labels[batch.rows].tolist()) for batch in batches()
    ]
    assert len(found) == 2 * (len(rows) // 4)


@pytest.mark.parametrize("modality", ["rgb", "flow"])
@pytest.mark.parametrize("views", [Views(), Views(kind="random", clips=3, seed=5)], ids=lambda v: v.name)
def test_a_student_of_stored_views_is_shown_exactly_what_its_teachers_were_shown(
    shards: ShardSet, modality: Modality, views: Views
) -> None:
    clip = Clip(frames=4, stride=3, size=32, short_side=(32, 48))
    rows = shards.rows["train"]

    def shown(batches: Iterator[Batch], batch_size: int) -> dict[tuple[int, int], bytes]:
        return {
            (row, view): pixels.numpy().tobytes()
            for clips in decode_clips(
                shards, "train", modality, clip, batches, batch_size=batch_size, device=CPU
            )
            for row, view, pixels in zip(
                clips.rows_b.tolist(), clips.views_b.tolist(), clips.clips_bcthw, strict=True
            )
        }

    teachers = shown(evaluation_batches(rows.frames, clip, 5, views), 5)
    epochs = range(7, 7 + views.count)
    students = shown(
        training_batches(rows.frames, clip, seed=4, epochs=epochs, batch_size=4, stored=views), 4
    )
    assert len(set(teachers.values())) == len(teachers) == len(rows) * views.count
    assert students == teachers


def test_a_row_is_decoded_from_its_own_video(shards: ShardSet) -> None:
    clip = Clip(frames=1, size=64, short_side=(64, 64), gamma=1.0)
    rows = shards.rows["test"]
    batches = evaluation_batches(rows.frames, clip, len(rows))
    (clips,) = decode_clips(shards, "test", "rgb", clip, batches, batch_size=len(rows), device=CPU)
    for row in range(len(rows)):
        plain = reference(shards.read("test", row, "rgb.mp4"))
        middle, left = (int(rows.frames[row]) - 1) // 2, (plain.shape[-1] - 64) // 2
        wanted = plain[:, middle, :64, left : left + 64]
        assert np.abs(levels(clips.clips_bcthw[row, :, 0].numpy()) - wanted).max() < 0.51


def test_no_batches_give_no_clips() -> None:
    no_batches: Iterator[EncodedBatch] = iter([])
    assert list(decode(no_batches, "rgb", whole(), batch_size=2, flow_bound=BOUND, device=CPU)) == []


def test_an_error_on_the_way_to_the_videos_comes_through_as_it_is(numbered: Film) -> None:
    def until_something_is_missing() -> Iterator[EncodedBatch]:
        yield encoded([numbered], views([0]))
        raise UsageError("the shards have no component 'flow.mp4'", expected="rgb.mp4", action="shard again")

    with pytest.raises(UsageError, match=r"^the shards have no component 'flow\.mp4'; expected rgb"):
        list(decode(until_something_is_missing(), "rgb", whole(), batch_size=1, flow_bound=BOUND, device=CPU))


def test_clips_stay_as_they_are_until_the_next_but_one_are_asked_for(numbered: Film) -> None:
    batches = (encoded([numbered], views([0], start_frames=start)) for start in (0, 9, 4))
    made = decode(batches, "rgb", whole(), batch_size=1, flow_bound=BOUND, device=CPU)
    first, *_ = next(made)
    kept = first.clone()
    second, *_ = next(made)
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


# On a GPU. Its body runs on a CPU too, where the two ways are one.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_every_device_shows_what_a_cpu_shows(modality: Modality, device: torch.device) -> None:
    width, height = 192, 144  # NVDEC takes no VP9 smaller than 128
    if modality == "rgb":
        films = [film(scene(n + 50 * row, width, height) for n in range(20)) for row in range(3)]
    else:
        across, down = np.arange(width) / 16 - 6, np.arange(height)[:, None] / 12 - 6
        flow = np.stack([across + 0 * down, down + 0 * across], axis=-1)
        films = [
            film(pack_flow(np.float32(flow * np.cos(n / 5 + row)), BOUND) for n in range(20))
            for row in range(3)
        ]
    batches = [
        views([0, 1, 2], start_frames=[0, 5, 17], short_sides=128, crop_x=[0, 0.5, 1], mirror=[0, 1, 1]),
        views([2], start_frames=3, short_sides=112),
    ]
    clip = whole(112, frames=6, stride=2, gamma=3.0)
    on_cpu = decoded(films, batches, clip, modality)
    on_device = decoded(films, batches, clip, modality, device=device)
    unit = 1 / 255 / RGB_STD if modality == "rgb" else 2 * BOUND / 255  # one level of 8 bits
    for cpu, there in zip(on_cpu, on_device, strict=True):
        assert there.shape == cpu.shape
        assert np.abs(there - cpu).mean() < unit
        assert abs((there - cpu).mean()) < 0.2 * unit
