"""A trained network's logits on every row of a split, and its weights as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from ukd_dist.clip_config import Views
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.manifest import write_atomically
from ukd_dist.training.setup import evaluation_clips
from ukd_dist.training_config import Training

WEIGHTS = "model.safetensors"


def infer(
    model: nn.Module,
    shards: ShardSet,
    split: SplitName,
    settings: Training,
    device: torch.device,
    views: Views | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """float32 logits on the CPU of every row, seen in `views`; default: at its centre.

    No collective is used: a rank may call it alone. `on_batch` is called before every batch.

    Returns:
        `[rows, classes]`, of several views their mean; of random views each one's, `[rows, views, classes]`.
    """
    return torch.cat(list(infer_blocks(model, shards, split, settings, device, views, on_batch)))


def infer_blocks(
    model: nn.Module,
    shards: ShardSet,
    split: SplitName,
    settings: Training,
    device: torch.device,
    views: Views | None = None,
    on_batch: Callable[[], None] = lambda: None,
    first_row: int = 0,
) -> Iterator[torch.Tensor]:
    """As `infer`, in blocks of `batch_size` rows, the last of which may be smaller.

    `first_row`, where to begin, is the first one of a block, so that batches are the same as from row 0.
    """
    views = views or Views()
    assert first_row % settings.batch_size == 0, "another batch may give other bits"
    model.eval()
    first_batch = first_row // settings.batch_size * views.count
    clips = evaluation_clips(shards, split, settings, device, views, first_batch)
    while True:
        found = []
        for batch in islice(clips, views.count):
            on_batch()
            with torch.inference_mode():
                found.append(model(batch.clips_bcthw).float().cpu())
        if not found:
            return
        logits = torch.cat(found)
        if views.kind == "centre":
            yield logits
            continue
        logits_nvc = logits.reshape(-1, views.count, logits.shape[-1])
        yield logits_nvc if views.kind == "random" else logits_nvc.double().mean(dim=1).float()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write weights and buffers as safetensors, atomically."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(state))


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote."""
    model.load_state_dict(load_file(path))
