"""Decoded frames in memory, for sets that are small enough: a clip then costs its resizing alone.

Frames are kept as they are decoded, before any view is taken of them, so that views stay as free as without.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.data import frames, jpegs
from ukd_dist.data.stored import StoredVideos
from ukd_dist.data_config import Modality
from ukd_dist.errors import UsageError

_log = logging.getLogger(__name__)


class FrameCache:
    """Every frame of some rows' videos, decoded once.

    Args:
        videos: The videos.
        modality: What they show.
        rows: Whose videos, int64.
        most_gib: Memory that the frames may take.
        decoder: What decodes.
        num_threads: DALI's threads.

    Raises:
        UsageError: They would take more; or as `StoredVideos.read`.
    """

    def __init__(
        self,
        videos: StoredVideos,
        modality: Modality,
        rows: npt.NDArray[np.int64],
        *,
        most_gib: float,
        decoder: torch.device,
        num_threads: int,
    ) -> None:
        needed = _bytes(videos, modality, rows)
        if needed > most_gib * 2**30:
            raise UsageError(
                f"the decoded {modality} frames of {len(rows)} videos take {needed / 2**30:.2f} GiB",
                expected=f"at most {most_gib:g} GiB (resources.frame_cache_gib)",
                action="raise it, store smaller frames (encoding.short_side), or remove it",
            )
        _log.info("decoding %d %s videos into %.2f GiB of memory", len(rows), modality, needed / 2**30)
        single = videos.codec == "jpeg"
        lengths = videos.rows.frames[rows]
        content = (
            jpegs.select(video, np.arange(length)) if single else video
            for video, length in zip(map(videos.read, rows.tolist()), lengths.tolist(), strict=True)
        )
        decoded = frames.whole(
            content,
            "stills" if single else "video",
            modality,
            most_frames=int(lengths.max(initial=1)),
            device=decoder,
            num_threads=num_threads,
        )
        self._frames = dict(zip(rows.tolist(), decoded, strict=True))

    def read(self, row: int, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """A row's frames of those numbers, uint8 `[frames, height, width, channels]`."""
        shown: npt.NDArray[np.uint8] = self._frames[row][numbers]
        return shown


def _bytes(videos: StoredVideos, modality: Modality, rows: npt.NDArray[np.int64]) -> int:
    pixels = videos.rows.frames[rows] * videos.rows.sizes[rows].prod(axis=1)
    return int(pixels.sum()) * (3 if modality == "rgb" else 2)  # flow is kept as its levels, x above y
