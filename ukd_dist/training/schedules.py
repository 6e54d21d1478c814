"""Learning rates over a training."""

from __future__ import annotations

import math

from ukd_dist.training_config import Training

DECAY = 0.1  # at a milestone


def learning_rate(settings: Training, epoch: float) -> float:
    """The learning rate at a fractional epoch: linear warm-up, then constant, half a cosine, or in steps."""
    if epoch < settings.warmup_epochs:
        return settings.lr * epoch / settings.warmup_epochs
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * DECAY ** sum(epoch >= milestone for milestone in settings.milestones)
    progress = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
