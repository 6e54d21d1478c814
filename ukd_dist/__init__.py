"""Unlimited Knowledge Distillation for action recognition in dark videos, across many machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ukd_dist.training.trained import TrainedNetwork

__version__ = "0.1.0"


def load_network(directory: str | Path) -> TrainedNetwork:
    """A finished student's or teacher's network with its weights, on the CPU and in evaluation mode.

    It gives logits `[batch, classes]` of normalised clips, float32 `[batch, channels, frames, size, size]`,
    and has attributes `classes` (names), `clip` and `modality`.

    Args:
        directory: ROOT/students/ID or ROOT/teachers/ID.

    Raises:
        UkdError: There is none, it does not belong to the run's shards, or a file is damaged.
    """
    from ukd_dist.training import trained

    return trained.load_network(Path(directory))
