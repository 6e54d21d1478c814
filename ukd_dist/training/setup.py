"""What a training's settings mean: its device, network, optimizer, clips and supervised objective."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from ukd_dist.clip_config import Views
from ukd_dist.data.ahead import ahead
from ukd_dist.data.clips import CHANNELS, Clips, decode_clips
from ukd_dist.data.frame_cache import FrameCache
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.data.stored import StoredVideos
from ukd_dist.data.views import evaluation_batches, training_batches
from ukd_dist.models.networks import VideoNetwork, build
from ukd_dist.training.finetuning import freeze, parameter_groups
from ukd_dist.training.loop import Objective
from ukd_dist.training.recompute import recompute_activations
from ukd_dist.training_config import Training


def prepare_device(settings: Training, local_rank: int = 0) -> torch.device:
    """The device that Ray gave this process; on a CPU, as many threads as cores were reserved.

    Args:
        settings: What was reserved.
        local_rank: Of a student's ranks on one node, which this is: each is shown the GPUs of all of them.
    """
    if settings.resources.gpus:
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    torch.set_num_threads(_threads(settings))
    return torch.device("cpu")


def build_network(settings: Training, num_classes: int) -> VideoNetwork:
    """The network of a training, with the weights that its seed draws."""
    network = build(
        settings.arch,
        num_classes=num_classes,
        channels=CHANNELS[settings.modality],
        clip=settings.clip,
        dropout=settings.dropout,
        seed=settings.seed,
    )
    freeze(network, settings)
    if settings.recompute:
        recompute_activations(network)
    return network


def build_optimizer(settings: Training, model: VideoNetwork) -> torch.optim.Optimizer:
    """SGD, Nesterov where there is momentum, or AdamW; fused: one pass over the weights.

    Raises:
        UsageError: `lr_scale` names a part that the network does not have.
    """
    groups = parameter_groups(model, settings)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=settings.lr,
            betas=(settings.momentum, 0.999),
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )


def training_clips(
    shards: ShardSet,
    settings: Training,
    epochs: range,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    stored: Views | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    first_step: int = 0,
) -> Iterator[Clips]:
    """One rank's training clips over some epochs.

    Args:
        shards: The shards.
        settings: The training.
        epochs: Epoch numbers.
        device: Where clips are wanted.
        rank: This rank.
        world_size: Ranks.
        stored: Show these stored views instead of fresh random ones.
        rows: The rows that are trained on, int64; None for all.
        first_step: Steps of the first epoch that are passed over; nothing of them is decoded.

    Yields:
        The clips, the next of which are made meanwhile; on a CPU valid until the next ones are asked for.
    """
    batches = training_batches(
        shards.rows["train"].frames,
        settings.clip,
        seed=settings.seed,
        epochs=epochs,
        batch_size=settings.batch_size,
        rank=rank,
        world_size=world_size,
        stored=stored,
        rows=rows,
    )
    everyone = np.arange(len(shards.rows["train"])) if rows is None else rows
    clips = decode_clips(
        shards,
        "train",
        settings.modality,
        settings.clip,
        islice(batches, first_step, None),
        batch_size=settings.batch_size // world_size,
        device=device,
        decoder=_decoder(settings, device),
        cache=_cache(shards, settings, everyone, _decoder(settings, device)),
        num_threads=_threads(settings),
    )
    return ahead(clips)


def evaluation_clips(
    shards: ShardSet,
    split: SplitName,
    settings: Training,
    device: torch.device,
    views: Views | None = None,
    first_batch: int = 0,
) -> Iterator[Clips]:
    """Every row of a split once in each of its views; default: at its centre.

    `first_batch`: so many are passed over; nothing of them is decoded.
    """
    rows = shards.rows[split]
    batches = evaluation_batches(rows.frames, settings.clip, settings.batch_size, views, rows.portrait)
    return decode_clips(
        shards,
        split,
        settings.modality,
        settings.clip,
        islice(batches, first_batch, None),
        batch_size=settings.batch_size,
        device=device,
        decoder=_decoder(settings, device),
        num_threads=_threads(settings),
    )


def supervised(settings: Training) -> Objective:
    """Cross entropy with the labels."""

    def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        loss = cross_entropy(logits_nc.float(), batch.labels_b, label_smoothing=settings.label_smoothing)
        return {"total": loss, "ce": loss}

    return objective


def _cache(
    shards: ShardSet, settings: Training, rows: npt.NDArray[np.int64], decoder: torch.device
) -> FrameCache | None:
    most_gib = settings.resources.frame_cache_gib
    if most_gib is None:
        return None
    videos = StoredVideos(shards, "train", settings.modality, decoder)
    threads = _threads(settings)
    return FrameCache(
        videos, settings.modality, rows, most_gib=most_gib, decoder=decoder, num_threads=threads
    )


def _threads(settings: Training) -> int:
    return max(1, int(settings.resources.cpus))


def _decoder(settings: Training, device: torch.device) -> torch.device:
    """What decodes the clips of a process on `device`, as its resources say."""
    return torch.device("cpu") if settings.resources.decode == "cpu" else device
