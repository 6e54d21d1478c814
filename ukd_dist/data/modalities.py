"""What a sample's components hold: which there are, and what the levels of stored flow stand for.

`rgb` is the video itself, in the codec of the shards. `flow` is dense optical flow from each frame to the
next in stored pixels, u above v as the luma of one picture of twice the height: 16..235 spans
arcsinh(-bound)..arcsinh(+bound). It is VP9 whatever the codec of rgb: DALI decodes that everywhere, and
smooth pictures stay small. How components are made is `writers`'.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ukd_dist.data_config import Codec, Modality

LUMA_LOW, LUMA_HIGH = 16.0, 235.0
FLOW_LEVELS = "arcsinh"  # how levels are spread over flow; the first shards spread them evenly


def stored_codec(modality: Modality, codec: Codec) -> Codec:
    """How a modality is stored in shards of a codec: flow is VP9 in all of them."""
    return codec if modality == "rgb" else "vp9"


def component(modality: Modality, codec: Codec) -> str:
    """The component's file extension inside a sample: `rgb` as VP9 is stored as `<key>.rgb.mp4`."""
    return f"{modality}.{'jpegs' if stored_codec(modality, codec) == 'jpeg' else 'mp4'}"


def unpacked_levels(bound: float) -> npt.NDArray[np.float32]:
    """The flow of each level 0..255 of a picture decoded to rgb, pixels a frame `[256]`."""
    return np.asarray(np.sinh((np.arange(256) / 127.5 - 1) * np.arcsinh(bound)), np.float32)
