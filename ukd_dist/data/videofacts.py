"""What is known of a video without its frames: what probing showed, why it was rejected, its size in a shard.

Coordinators import this, and not what decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ukd_dist.errors import DataError


class RejectedVideoError(DataError):
    """A video that cannot teach anything; `reason` is one of the words that rejects.jsonl and metrics use."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(
            f"{path}: {detail}",
            expected="a video of at least 2 frames, all of them sound",
            action="mend it, or take it off its list",
        )
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.reason, self.detail)


@dataclass(frozen=True)
class VideoInfo:
    """What decoding a whole video showed.

    Attributes:
        frames: Decoded frames, at least 2.
        width: Pixels of the upright picture.
        height: Pixels of the upright picture.
        fps: Mean frames a second, also where the rate varies.
    """

    frames: int
    width: int
    height: int
    fps: float


def stored_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in a shard: even, as 4:2:0 wants them, and never scaled up."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return _even(width, scale), _even(height, scale)


def _even(length: int, scale: float) -> int:
    return max(2, 2 * min(round(length * scale / 2), length // 2))
