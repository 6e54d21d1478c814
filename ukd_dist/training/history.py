"""The lines of history.jsonl: what each epoch of a training gave and cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ukd_dist.cluster_config import Resources
from ukd_dist.errors import DataError
from ukd_dist.manifest import write_atomically
from ukd_dist.metrics import Recorder, host_memory_bytes, peak_host_memory_bytes
from ukd_dist.rundir import HISTORY, read_history


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl.

    Attributes:
        epoch: Number of finished epochs.
        losses: Mean of each kind of loss over the epoch's clips.
        accuracy: Top-1 on the training clips as they were seen.
        lr: Learning rate of the last step.
        seconds: Duration.
        data_wait_seconds: Of it, waiting for clips (rank 0).
        clips: Clips over all ranks.
        peak_memory_bytes: Peak of rank 0's device: a GPU's allocations or the host's resident memory.
        ranks: Processes that trained, at its end.
    """

    epoch: int
    losses: dict[str, float]
    accuracy: float
    lr: float
    seconds: float
    data_wait_seconds: float
    clips: int
    peak_memory_bytes: int
    ranks: int = 1


def write_history(directory: Path, history: list[Epoch]) -> None:
    """Write history.jsonl whole."""
    lines = "".join(json.dumps(asdict(line)) + "\n" for line in history)
    write_atomically(directory / HISTORY, lines.encode())


def read_epochs(directory: Path) -> list[Epoch]:
    """The epochs of history.jsonl; none where there is no file.

    Raises:
        DataError: A line is no epoch's.
    """
    try:
        return [Epoch(**line) for line in read_history(directory)]
    except TypeError as error:
        raise DataError(
            f"{directory / HISTORY} is damaged ({error})",
            expected="the fields of one epoch a line",
            action=f"remove {directory}",
        ) from error


def record_epoch(recorder: Recorder, line: Epoch, reserved: Resources) -> None:
    """Give an epoch's figures, and the memory that was reserved for them, to the metrics."""
    recorder.set("ukd_epoch", line.epoch)
    recorder.set("ukd_epoch_seconds", line.seconds)
    recorder.set("ukd_accuracy_ratio", line.accuracy, split="train")
    host_limit = 2**30 * reserved.memory_gib if reserved.memory_gib else host_memory_bytes()
    recorder.set("ukd_memory_peak_bytes", peak_host_memory_bytes(), device="host")
    recorder.set("ukd_memory_limit_bytes", host_limit, device="host")
    if torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        recorder.set("ukd_memory_peak_bytes", torch.cuda.max_memory_allocated(), device="cuda")
        recorder.set("ukd_memory_limit_bytes", min(1.0, reserved.gpus or 1.0) * whole, device="cuda")
    for kind, loss in line.losses.items():
        recorder.set("ukd_loss", loss, kind=kind)
