"""How a training is watched from outside, and what it does for those who watch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ukd_dist.heartbeat import Heart
from ukd_dist.training.checkpoints import KEPT, Position


@dataclass(frozen=True)
class Supervision:
    """How a training is watched, what it writes on the way, and when it stops before its end.

    Of several ranks rank 0's holds, but for `other_ranks`: it tells the others after every step.

    Attributes:
        checkpoint_seconds: Within an epoch a checkpoint is written after so long without one.
        checkpoint_steps: Within an epoch a checkpoint is written after so many steps without one.
        checkpoints_kept: How many of them stay.
        other_ranks: Whether to go on from a checkpoint of another number of ranks; refused unless asked for.
        on_step: Called after every step with the position and the steps of an epoch.
        stop_asked: Whether to write a checkpoint and end.
    """

    checkpoint_seconds: float = math.inf
    checkpoint_steps: float = math.inf
    checkpoints_kept: int = KEPT
    other_ranks: bool = False
    on_step: Callable[[Position, int], None] = lambda *_: None
    stop_asked: Callable[[], bool] = lambda: False

    def watched_by(self, heart: Heart) -> Supervision:
        """The same, where every step is told to a heart, and that says when to stop."""
        return replace(
            self,
            on_step=lambda at, steps: heart.step(at.epoch, at.step, steps),
            stop_asked=heart.stop_asked,
        )


UNWATCHED = Supervision()
