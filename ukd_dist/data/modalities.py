"""What a sample's components hold, and how they are made from a video's frames.

`rgb` is the video itself. `flow` is dense optical flow from each frame to the next (DIS), u above v as the
luma of one picture of twice the height: 16..235 spans -bound..+bound stored pixels a frame. It goes through
no colour conversion on its way in, since a `gray` picture would be range-converted in silence.
A further modality of decoded frames is a further writer here; one of the compressed stream (motion vectors)
will be handed its packets as well.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ukd_dist.config import Encoding, Modality
from ukd_dist.data.video import Frame, Vp9Encoder

LUMA_LOW, LUMA_HIGH = 16.0, 235.0


class ComponentWriter(Protocol):
    """Takes a video's frames one by one and gives the encoded component."""

    def write(self, frame: Frame) -> None:
        """Take the next frame, yuv420p `[height * 3 / 2, width]`."""

    def finish(self) -> bytes:
        """The encoded component."""


def component(modality: Modality) -> str:
    """The component's file extension inside a sample: `rgb` is stored as `<key>.rgb.mp4`."""
    return f"{modality}.mp4"


def open_writer(
    modality: Modality, width: int, height: int, fps: float, encoding: Encoding
) -> ComponentWriter:
    """The writer of one component of a video whose frames are `width` x `height`."""
    if modality == "rgb":
        return Vp9Encoder(width, height, fps, encoding.crf_rgb)
    return FlowWriter(width, height, fps, encoding)


class FlowWriter:
    """Optical flow as a component: one flow picture a frame, the last one repeated."""

    def __init__(self, width: int, height: int, fps: float, encoding: Encoding) -> None:
        self._height = height
        self._bound = encoding.flow_bound
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._encoder = Vp9Encoder(width, 2 * height, fps, encoding.crf_flow)
        self._previous: Frame | None = None
        self._packed: Frame | None = None

    def write(self, frame: Frame) -> None:
        """Take the next frame; from the second on, a flow picture is written."""
        luma = np.ascontiguousarray(frame[: self._height])
        if self._previous is not None:
            flow_hwc = self._dis.calc(self._previous, luma, None)
            self._packed = pack_flow(flow_hwc, self._bound)
            self._encoder.write(self._packed)
        self._previous = luma

    def finish(self) -> bytes:
        """The encoded component, with as many pictures as frames were written."""
        if self._packed is None:
            raise ValueError("flow needs two frames")
        self._encoder.write(self._packed)
        return self._encoder.finish()


def pack_flow(flow_hwc: npt.NDArray[np.float32], bound: float) -> Frame:
    """Flow `[H, W, 2]` in pixels as a yuv420p picture of twice the height, neutral in colour."""
    height, width, _ = flow_hwc.shape
    scale = (LUMA_HIGH - LUMA_LOW) / (2 * bound)
    luma = np.clip(np.rint((flow_hwc + bound) * scale + LUMA_LOW), LUMA_LOW, LUMA_HIGH)
    packed = np.full((3 * height, width), 128, np.uint8)
    packed[: 2 * height] = luma.transpose(2, 0, 1).reshape(2 * height, width)
    return packed
