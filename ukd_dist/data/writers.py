"""A sample's components, made from a video's frames, a writer a modality.

Flow goes through no colour conversion on its way in, since a `gray` picture would be range-converted in
silence. A further modality of decoded frames is a further writer here; one of the compressed stream (motion
vectors) will be handed its packets as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ukd_dist.data.jpeg_encoder import JpegEncoder
from ukd_dist.data.modalities import LUMA_HIGH, LUMA_LOW
from ukd_dist.data.video import Frame
from ukd_dist.data.vp9 import Vp9Encoder
from ukd_dist.data_config import Codec, Encoding, FlowMethod, Modality

_DIS_PRESETS = {
    "dis_medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
}


class ComponentWriter(Protocol):
    """Takes a video's frames one by one and gives the encoded component."""

    def write(self, frame: Frame) -> None:
        """Take the next frame, yuv420p `[height * 3 / 2, width]`."""

    def finish(self) -> bytes:
        """The encoded component."""


def open_writer(
    modality: Modality, width: int, height: int, fps: float, encoding: Encoding, codec: Codec = "vp9"
) -> ComponentWriter:
    """The writer of one component of a video whose frames are `width` x `height`."""
    if modality == "flow":
        return FlowWriter(width, height, fps, encoding)
    assert codec != "copy", "a copied stream is not made of frames"
    if codec == "jpeg":
        return JpegEncoder(width, height, encoding.jpeg_qscale)
    return Vp9Encoder(width, height, fps, encoding.crf_rgb)


class FlowWriter:
    """Optical flow as a component: one flow picture a frame, the last one repeated."""

    def __init__(self, width: int, height: int, fps: float, encoding: Encoding) -> None:
        self._height = height
        self._bound = encoding.flow_bound
        self._flow = flow_method(encoding.flow)
        self._encoder = Vp9Encoder(width, 2 * height, fps, encoding.crf_flow)
        self._previous: Frame | None = None
        self._packed: Frame | None = None

    def write(self, frame: Frame) -> None:
        """Take the next frame; from the second on, a flow picture is written."""
        luma = np.ascontiguousarray(frame[: self._height])
        if self._previous is not None:
            self._packed = pack_flow(self._flow(self._previous, luma), self._bound)
            self._encoder.write(self._packed)
        self._previous = luma

    def finish(self) -> bytes:
        """The encoded component, with as many pictures as frames were written."""
        if self._packed is None:
            raise ValueError("flow needs two frames")
        self._encoder.write(self._packed)
        return self._encoder.finish()


def flow_method(name: FlowMethod) -> Callable[[Frame, Frame], npt.NDArray[np.float32]]:
    """Computes flow `[H, W, 2]`, pixels, from one luma plane `[H, W]` to the next."""
    if name == "farneback":
        return lambda first, second: cv2.calcOpticalFlowFarneback(
            first, second, None, 0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
        )
    dis = cv2.DISOpticalFlow.create(_DIS_PRESETS[name])
    return lambda first, second: dis.calc(first, second, None)


def pack_flow(flow_hwc: npt.NDArray[np.float32], bound: float) -> Frame:
    """Flow `[H, W, 2]` in pixels as a yuv420p picture of twice the height, neutral in colour.

    Levels are spread by arcsinh: evenly below about a pixel a frame, where most flow of dark videos is, then
    ever more coarsely, up to the bound.
    """
    height, width, _ = flow_hwc.shape
    share = np.arcsinh(flow_hwc) / np.arcsinh(bound)
    luma = np.rint((share + 1) * ((LUMA_HIGH - LUMA_LOW) / 2) + LUMA_LOW).clip(LUMA_LOW, LUMA_HIGH)
    packed = np.full((3 * height, width), 128, np.uint8)
    packed[: 2 * height] = luma.transpose(2, 0, 1).reshape(2 * height, width)
    return packed
