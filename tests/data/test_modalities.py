"""Flow as a component: what is measured between two frames is what a network is shown."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import EncodedBatch, decode
from ukd_dist.data.modalities import component, stored_codec, unpacked_levels
from ukd_dist.data.video import Frame, read_frames
from ukd_dist.data.views import evaluation_batches
from ukd_dist.data.vp9 import Vp9Encoder
from ukd_dist.data.writers import FlowWriter, flow_method, open_writer, pack_flow
from ukd_dist.data_config import Codec, Encoding, FlowMethod, Modality

SIDE, FRAMES = 128, 12
ENCODING = Encoding()
METHODS: tuple[FlowMethod, ...] = ("dis_medium", "dis_fast", "farneback")
BOUND = ENCODING.flow_bound
STEP = (
    2 * np.arcsinh(BOUND) / (235 - 16)
)  # pixels of flow from one level of luma to the next, where it is small
ACROSS = np.arange(SIDE) / SIDE - 0.5
DOWN = ACROSS[:, None]


def shown(component_bytes: bytes, frames: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """The flow that a network is shown of a whole square video at its own size, `[frames, H, W, 2]`."""
    clip = Clip(frames=frames, stride=1, size=side, short_side=(side, side))
    lengths = np.array([frames])
    (batch,) = evaluation_batches(lengths, clip, 1)
    video = np.frombuffer(component_bytes, np.uint8)
    encoded = [EncodedBatch([video], lengths, np.array([[side, side]]), batch)]
    (clips_bcthw,) = [
        clips.clone()
        for clips, *_ in decode(
            encoded, "flow", clip, batch_size=1, flow_bound=BOUND, device=torch.device("cpu")
        )
    ]
    return clips_bcthw[0].permute(1, 2, 3, 0).numpy()


def pictures(encoded: bytes) -> list[Frame]:
    with av.open(io.BytesIO(encoded)) as file:
        return [frame.to_ndarray() for frame in file.decode(video=0)]


def stored(flows: Sequence[np.ndarray]) -> bytes:
    height, width, _ = flows[0].shape
    encoder = Vp9Encoder(width, 2 * height, 30, ENCODING.crf_flow)
    for flow in flows:
        encoder.write(pack_flow(flow.astype(np.float32), BOUND))
    return encoder.finish()


def zoom(time: int) -> tuple[np.ndarray, np.ndarray]:
    return 8 * ACROSS + 0 * DOWN, 8 * DOWN + 0 * ACROSS


def rotation(time: int) -> tuple[np.ndarray, np.ndarray]:
    return -9 * DOWN + 0 * ACROSS, 9 * ACROSS + 0 * DOWN


def swing(time: int) -> tuple[np.ndarray, np.ndarray]:
    return 12 * np.sin(time / 5) * ACROSS + 3 + 0 * DOWN, -12 * np.cos(time / 5) * DOWN - 2 + 0 * ACROSS


def moving_thing(time: int) -> tuple[np.ndarray, np.ndarray]:
    thing = np.exp(-((ACROSS + 0.2 - time / 40) ** 2 + DOWN**2) / 0.02)
    return 6 * thing, -4 * thing


@pytest.mark.parametrize("motion", [zoom, rotation, swing, moving_thing])
def test_smooth_flow_comes_back_within_eight_hundredths_of_a_pixel(
    motion: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> None:
    flows = [np.stack(motion(time), axis=-1) for time in range(FRAMES)]
    assert np.linalg.norm(shown(stored(flows)) - np.stack(flows), axis=-1).mean() <= 0.08


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(2)),
        elements=st.floats(-100, 100, width=32),
    ),
    st.floats(0.5, 50),
)
@settings(deadline=None)
def test_a_packed_picture_holds_x_above_y_within_half_a_level_and_clipped_at_the_bound(
    flow_hwc: np.ndarray, bound: float
) -> None:
    height, width, _ = flow_hwc.shape
    packed = pack_flow(flow_hwc, bound)
    assert packed.shape == (3 * height, width)
    assert packed.dtype == np.uint8
    assert (packed[2 * height :] == 128).all()
    luma = packed[: 2 * height].astype(np.float64)
    assert luma.min() >= 16
    assert luma.max() <= 235
    kept = np.concatenate([flow_hwc[..., 0], flow_hwc[..., 1]]).clip(-bound, bound)
    level = 2 * np.arcsinh(bound) / (235 - 16)
    np.testing.assert_allclose((luma - 125.5) * level, np.arcsinh(kept), atol=0.501 * level)


def test_a_decoded_level_is_the_flow_that_was_packed() -> None:
    flow = unpacked_levels(BOUND)
    assert flow[[0, 255]] == pytest.approx([-BOUND, BOUND])
    luma = pack_flow(np.stack([flow, -flow], axis=-1)[None], BOUND)[:2]
    shown = np.rint((luma.astype(np.float64) - 16) * 255 / 219)
    assert np.abs(shown - [np.arange(256), 255 - np.arange(256)]).max() <= 1


def test_flow_beyond_the_bound_is_shown_as_the_bound() -> None:
    flow = np.empty((64, 64, 2))
    flow[..., 0], flow[..., 1] = 3 * BOUND, -3 * BOUND
    flow_thwc = shown(stored([flow] * 3), frames=3, side=64)
    np.testing.assert_allclose(flow_thwc[..., 0], BOUND, rtol=2 * STEP)
    np.testing.assert_allclose(flow_thwc[..., 1], -BOUND, rtol=2 * STEP)


def shifting_texture(dx: int, dy: int, frames: int = FRAMES) -> list[Frame]:
    """Pictures whose every point moves by (dx, dy) from each to the next."""
    rng = np.random.default_rng(7)
    reach = 8 * FRAMES
    grey = cv2.GaussianBlur(rng.normal(0, 1, (SIDE + 2 * reach,) * 2), (0, 0), 2)
    grey = np.clip(60 + 15 * grey / grey.std(), 16, 235)
    filmed = []
    for time in range(frames):
        top, left = reach - dy * time, reach - dx * time
        planes = np.full((SIDE * 3 // 2, SIDE), 128, np.uint8)
        planes[:SIDE] = np.rint(grey[top : top + SIDE, left : left + SIDE])
        filmed.append(planes)
    return filmed


def flow_of(frames: Sequence[Frame], encoding: Encoding = ENCODING) -> bytes:
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    writer = FlowWriter(width, height, 30, encoding)
    for frame in frames:
        writer.write(frame)
    return writer.finish()


# DIS fast finds flow at a quarter of the resolution and interpolates.
@pytest.mark.parametrize(
    ("method", "tolerance"), [("dis_medium", 0.15), ("farneback", 0.15), ("dis_fast", 0.3)]
)
@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (1, 0), (0, 5), (-6, 4)])
def test_a_texture_that_moves_by_some_pixels_a_frame_is_seen_to(
    method: FlowMethod, tolerance: float, dx: int, dy: int
) -> None:
    flow_thwc = shown(flow_of(shifting_texture(dx, dy), Encoding(flow=method)))
    inside = flow_thwc[:, 16:-16, 16:-16]
    assert inside.mean((0, 1, 2)) == pytest.approx([dx, dy], abs=tolerance)
    assert np.median(np.abs(inside - [dx, dy])) < tolerance + 0.05


def test_a_still_video_has_no_flow_but_for_half_a_level() -> None:
    """No level of luma means 0: the two nearest lie half a level to either side."""
    flow_thwc = shown(flow_of(shifting_texture(0, 0)))
    assert np.abs(flow_thwc).mean() <= 1.01 * STEP / 2


@pytest.mark.parametrize("frames", [2, 3, 17])
def test_there_are_as_many_flow_pictures_as_frames_and_the_last_is_repeated(frames: int) -> None:
    moving = shifting_texture(2, 1, frames=2) * 9
    encoded = pictures(flow_of(moving[:frames]))
    assert len(encoded) == frames
    assert encoded[0].shape == (3 * SIDE, SIDE)
    error = np.abs(encoded[-1].astype(int) - encoded[-2])
    assert error.mean() < 1


def test_flow_of_a_single_frame_is_refused() -> None:
    writer = FlowWriter(SIDE, SIDE, 30, ENCODING)
    writer.write(shifting_texture(0, 0, frames=1)[0])
    with pytest.raises(ValueError, match="flow needs two frames"):
        writer.finish()


def test_each_modality_is_a_video_of_its_own_name() -> None:
    frames = shifting_texture(1, 1, frames=4)
    shapes = {}
    for modality in ("rgb", "flow"):
        writer = open_writer(modality, SIDE, SIDE, 30, ENCODING)
        for frame in frames:
            writer.write(frame)
        shapes[component(modality, "vp9")] = [picture.shape for picture in pictures(writer.finish())]
    assert shapes == {"rgb.mp4": [(SIDE * 3 // 2, SIDE)] * 4, "flow.mp4": [(SIDE * 3, SIDE)] * 4}


@pytest.mark.parametrize(
    ("codec", "names"),
    [
        ("vp9", ["rgb.mp4", "flow.mp4"]),
        ("copy", ["rgb.mp4", "flow.mp4"]),
        ("jpeg", ["rgb.jpegs", "flow.mp4"]),
    ],
)
def test_a_component_is_named_by_its_codec_and_flow_is_vp9_in_all_of_them(
    codec: Codec, names: list[str]
) -> None:
    modalities: tuple[Modality, ...] = ("rgb", "flow")
    assert [component(modality, codec) for modality in modalities] == names
    assert stored_codec("flow", codec) == "vp9"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_frames_have_the_same_flow_bytes(method: FlowMethod) -> None:
    encoding = Encoding(flow=method)
    assert flow_of(shifting_texture(3, -2), encoding) == flow_of(shifting_texture(3, -2), encoding)


def test_each_method_finds_another_flow() -> None:
    assert len({flow_of(shifting_texture(3, -2), Encoding(flow=method)) for method in METHODS}) == 3


def end_point_errors(frames: Sequence[Frame], encoding: Encoding) -> np.ndarray:
    """How far stored and decoded flow is off the computed one where that is within the bound, pixels."""
    height = frames[0].shape[0] * 2 // 3
    method = flow_method(encoding.flow)
    found = np.stack([method(*(f[:height].copy() for f in pair)) for pair in pairwise(frames)])
    planes = np.stack(pictures(flow_of(frames, encoding)))[:-1, : 2 * height].astype(np.float64)
    kept = np.sinh(((planes - 16) / 109.5 - 1) * np.arcsinh(encoding.flow_bound))
    difference = kept.reshape(len(found), 2, height, -1).transpose(0, 2, 3, 1) - found
    within = np.abs(found).max(axis=-1) <= encoding.flow_bound
    return np.asarray(np.linalg.norm(difference, axis=-1)[within])


def first_frames(folder: Path, nth: int) -> Iterator[list[Frame]]:
    for path in sorted(folder.glob("*/*.mp4"))[::nth]:
        yield list(islice(read_frames(path, 320, 240), 8))


@pytest.mark.parametrize("method", METHODS)
def test_stored_flow_of_drawn_clips_ends_within_eight_hundredths_of_a_pixel(
    videos: Path, method: FlowMethod
) -> None:
    encoding = Encoding(flow=method)
    errors = [end_point_errors(frames, encoding).mean() for frames in first_frames(videos / "videos", 9)]
    assert np.mean(errors) <= 0.08


@pytest.mark.parametrize("method", METHODS)
def test_stored_flow_of_real_clips_ends_within_eight_hundredths_of_a_pixel(
    arid_data: Path, method: FlowMethod
) -> None:
    encoding = Encoding(flow=method)
    clips = first_frames(arid_data / "arid_subset" / "videos", 15)
    errors = [end_point_errors(frames, encoding).mean() for frames in clips]
    assert np.mean(errors) <= 0.08


@pytest.mark.parametrize("method", METHODS)
def test_the_same_flow_is_found_whatever_the_number_of_threads(method: FlowMethod) -> None:
    before = cv2.getNumThreads()
    try:
        encoded = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            encoded.append(flow_of(shifting_texture(3, -2), Encoding(flow=method)))
    finally:
        cv2.setNumThreads(before)
    assert encoded[0] == encoded[1]
