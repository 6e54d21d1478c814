"""One modality of a split's videos as it lies in the shards, refused where the decoder cannot read it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.data.modalities import component, stored_codec
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.data_config import Modality


class StoredVideos:
    """Components by row.

    Args:
        shards: Where the videos lie.
        split: Which of its splits.
        modality: Which component.
        decoder: What will decode them.
    """

    def __init__(self, shards: ShardSet, split: SplitName, modality: Modality, decoder: torch.device) -> None:
        self.rows = shards.rows[split]
        self.codec = stored_codec(modality, shards.codec)
        self._shards, self._split, self._name = shards, split, component(modality, shards.codec)
        self._unchecked = (
            set(range(len(self.rows))) if self.codec == "copy" and decoder.type == "cpu" else set()
        )

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """A row's component, as a view of the mapped tar.

        Raises:
            UsageError: The shards lack the component, or its codec needs NVDEC and the decoder is a CPU.
        """
        video = self._shards.read(self._split, row, self._name)
        if row in self._unchecked:
            from ukd_dist.data.streams import check_cpu_decodes

            check_cpu_decodes(video, f"'{self.rows.keys[row]}' in {self._shards.directory}")
            self._unchecked.remove(row)
        return video
