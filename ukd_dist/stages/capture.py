"""A trained teacher's logits on every split, written as they come: what was captured is not captured again.

    attempts/<n>/capture/<split>/    blocks of rows, until the attempt is committed
    attempts/<n>/logits/<split>.safetensors

Memory holds one block, however many rows and views there are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ukd_dist import manifest
from ukd_dist.clip_config import Views
from ukd_dist.data.captured import Captured, take_over
from ukd_dist.data.knowledge import join_logits, logits_name, logits_path, refuse_not_finite
from ukd_dist.data.rowarray import Checks
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.errors import PreemptedError
from ukd_dist.heartbeat import Heart
from ukd_dist.training.inference import WEIGHTS, infer_blocks
from ukd_dist.training_config import Teacher

CAPTURE = "capture"
_CLIPS = 1024  # after which a file is written: a few MB at most


def take_captured(attempt: Path, earlier: Sequence[Path]) -> None:
    """Take over what attempts captured that left their checkpoints in folders `earlier`."""
    for checkpoints in earlier:
        take_over(attempt / CAPTURE, checkpoints.parent / CAPTURE)


@dataclass
class Capture:
    """One attempt's capture of logits.

    Attributes:
        model: The trained network; its weights are written in the attempt's directory.
        shards: The shards.
        settings: The teacher.
        attempt: The attempt's directory.
        heart: Is told of every batch, and asked whether to stop.
        most_seconds: After so long without one a file is written.
    """

    model: nn.Module
    shards: ShardSet
    settings: Teacher
    attempt: Path
    heart: Heart
    most_seconds: float

    def __post_init__(self) -> None:
        self._batches = 0

    def write(self, split: SplitName, trained_on: npt.NDArray[np.bool_]) -> Checks:
        """Capture a split and write its file.

        Args:
            split: Which one.
            trained_on: Whether the teacher was trained on each of its rows, bool `[n]`.

        Returns:
            The file's checksums of rows.

        Raises:
            PreemptedError: It was asked to stop; what was captured is kept.
            DataError: A logit is not finite.
        """
        rows = self.shards.rows[split]
        views = self.settings.views if split == "train" else self.settings.views.evaluated
        captured = Captured(self.attempt / CAPTURE / split, self._work(split, views))
        if captured.rows < len(rows):
            self._capture(split, views, captured)
        each = (views.count,) if views.kind == "random" else ()
        return join_logits(
            logits_path(self.attempt, split),
            captured,
            (len(rows), *each, len(self.shards.classes)),
            rows,
            split,
            view=views.name,
            trained_on=torch.from_numpy(trained_on),
        )

    def _capture(self, split: SplitName, views: Views, captured: Captured) -> None:
        path, keys = self.attempt / logits_name(split), self.shards.rows[split].keys
        device = next(self.model.parameters()).device
        unwritten: list[torch.Tensor] = []
        clips, written = 0, time.monotonic()

        def keep() -> None:
            if unwritten:
                captured.add(torch.cat(unwritten))
                unwritten.clear()

        blocks = infer_blocks(
            self.model, self.shards, split, self.settings, device, views, self._on_batch, captured.rows
        )
        try:
            for logits in blocks:
                first = captured.rows + sum(map(len, unwritten))
                refuse_not_finite(path, logits, keys[first : first + len(logits)])
                unwritten.append(logits)
                clips += len(logits) * views.count
                if clips >= _CLIPS or time.monotonic() - written >= self.most_seconds:
                    keep()
                    clips, written = 0, time.monotonic()
        except PreemptedError:
            keep()
            raise
        keep()

    def _on_batch(self) -> None:
        self.heart.beat(phase="logits", step=self._batches)
        if self.heart.stop_asked():
            raise PreemptedError(
                f"asked to stop after {self._batches} batches of logits",
                expected="to go on to the last one",
                action="run again: the training is kept, and these logits",
            )
        self._batches += 1

    def _work(self, split: SplitName, views: Views) -> str:
        """Digest of all that a split's logits depend on."""
        weights = manifest.sha256_of(self.attempt / WEIGHTS)
        entries = [split, views.name, self.shards.digest, self.settings.batch_size, weights]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
