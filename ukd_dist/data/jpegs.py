"""A video as single JPEG frames in one component, any of which can be had without the others.

The fastest codec on a CPU: a clip costs the decoding of its own frames, and nothing of those between. Layout:
little-endian uint32 numbers, first the count n of frames, then n + 1 offsets from the component's first byte;
frame i lies from offset i to offset i + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBER = np.dtype("<u4")


def join(frames: list[bytes]) -> bytes:
    """Encoded frames as one component."""
    sizes = np.array([_NUMBER.itemsize * (len(frames) + 2), *map(len, frames)])
    header = np.concatenate([[len(frames)], np.cumsum(sizes)]).astype(_NUMBER)
    return header.tobytes() + b"".join(frames)


def select(
    component: npt.NDArray[np.uint8], numbers: npt.NDArray[np.integer[Any]]
) -> list[npt.NDArray[np.uint8]]:
    """The encoded frames of those numbers, as views."""
    frames = int(component[: _NUMBER.itemsize].view(_NUMBER)[0])
    offsets = component[_NUMBER.itemsize :][: _NUMBER.itemsize * (frames + 1)].view(_NUMBER)
    return [component[offsets[number] : offsets[number + 1]] for number in numbers]
