"""A training's first weights: made once of a checkpoint, and put into the network before its first step.

What is made is a network's own tensors under its own names, as safetensors, so that whoever trains needs no
network and reads no pickle. Where they lie, and when they are made, is the stages' affair.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from ukd_dist import manifest
from ukd_dist.data.clips import CHANNELS
from ukd_dist.errors import DataError
from ukd_dist.initial import parent_of
from ukd_dist.manifest import write_atomically
from ukd_dist.models.fetching import Checkpoint
from ukd_dist.models.fitting import Report, fit
from ukd_dist.models.reading import read_tensors
from ukd_dist.training.inference import WEIGHTS
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Training

REPORT = "report.json"


def make(
    settings: Training, checkpoint: Checkpoint, sha256: str, num_classes: int, directory: Path
) -> Report:
    """Write what of a checkpoint fits a training's network, and what became of the rest.

    Args:
        settings: Network, clips and modality; nothing else of it matters.
        checkpoint: Where the file is.
        sha256: The file's, which is recorded.
        num_classes: Of the network.
        directory: Where they go.

    Raises:
        DataError: The checkpoint cannot be read as tensors, or fits too little.
        ResourceError: It cannot be read at all.
        UsageError: The network is the user's, and which layer is its classifier cannot be told.
    """
    network = build_network(settings, num_classes)
    tensors, report = fit(
        network,
        read_tensors(checkpoint.path),
        channels=CHANNELS[settings.modality],
        where=checkpoint.source,
        keep_head=bool(parent_of(settings.init)),
    )
    origin = {
        "source": checkpoint.source,
        "file": str(checkpoint.path),
        "url": checkpoint.url,
        "sha256": sha256,
    }
    write_atomically(directory / WEIGHTS, save(tensors))
    write_atomically(directory / REPORT, json.dumps({**origin, **asdict(report)}, indent=1).encode())
    return report


def load(network: nn.Module, directory: Path) -> None:
    """Put what `make` wrote into the network; what is not there stays as it was drawn.

    Raises:
        DataError: It is not there, damaged, or of another network.
    """
    found = manifest.read(directory)
    if found is None:
        raise DataError(
            f"{directory} holds no initial weights",
            expected="what the coordinator made there before the training",
            action="mount the same shared file system on every node",
        )
    manifest.verify(directory, found, [WEIGHTS])
    unknown = network.load_state_dict(load_file(directory / WEIGHTS), strict=False).unexpected_keys
    if unknown:
        raise DataError(
            f"{directory} holds {unknown[0]}, which the network does not have",
            expected="the network that it was made for",
            action=f"remove {directory} if the network's code has changed",
        )
