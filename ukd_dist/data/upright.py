"""Pictures as their camera was held: phones store a turned picture and a matrix that says how to show it.

Neither FFmpeg's decoders nor DALI apply the matrix, so that what is stored here would lie on its side. Only
quarter turns and mirrors are known; a matrix of any other angle counts as the nearest of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright: rows and columns swapped first, then mirrored.

    Attributes:
        transposed: Columns become rows.
        mirror_x: Left becomes right.
        mirror_y: Top becomes bottom.
    """

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: bytes) -> Orientation:
        """Of a display matrix, 9 int32 by rows (ISO 14496-12, 6.2.2): x' = a x + c y, y' = b x + d y."""
        a, b, _, c, d, *_ = (int(number) for number in np.frombuffer(matrix, np.int32))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the upright picture of a stored one, and the other way round."""
        return (height, width) if self.transposed else (width, height)

    def turn(self, frame: Frame, width: int, height: int) -> Frame:
        """A stored yuv420p picture, `[height * 3 / 2, width]`, made upright; both lengths are even."""
        if self == Orientation():
            return frame
        luma, chroma = np.split(frame.reshape(-1), [width * height])
        planes = (luma.reshape(height, width), *chroma.reshape(2, height // 2, width // 2))
        upright_width, _ = self.size(width, height)
        turned = np.concatenate([self._turn_plane(plane).reshape(-1) for plane in planes])
        return turned.reshape(-1, upright_width)

    def _turn_plane(self, plane: Frame) -> Frame:
        turned = plane.T if self.transposed else plane
        return turned[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
