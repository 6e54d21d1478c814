"""A trained network's logits on every row of a split, and its weights as a file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from ukd_dist.config import Training
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.manifest import write_atomically
from ukd_dist.training.setup import evaluation_clips

WEIGHTS = "model.safetensors"


def infer(
    model: nn.Module, shards: ShardSet, split: SplitName, settings: Training, device: torch.device
) -> torch.Tensor:
    """float32 logits `[rows, classes]` on the CPU, each row seen once, at its centre.

    No collective is used: a rank may call it alone.
    """
    model.eval()
    clips = evaluation_clips(shards, split, settings, device)
    with torch.inference_mode():
        return torch.cat([model(batch.clips_bcthw).float().cpu() for batch in clips])


def save_weights(model: nn.Module, path: Path) -> None:
    """Write weights and buffers as safetensors, atomically."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(state))


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote."""
    model.load_state_dict(load_file(path))
