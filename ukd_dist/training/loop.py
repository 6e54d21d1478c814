"""The training loop, one for teachers and students: what differs is the engine and the objective.

Everything random is a function of (seed, epoch, rank), so a training that was cut off goes on from its last
checkpoint as if nothing had happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ukd_dist.config import Training
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import Rows
from ukd_dist.data.views import steps_per_epoch
from ukd_dist.errors import DataError, TrainingError
from ukd_dist.experiment import resolved
from ukd_dist.manifest import write_atomically
from ukd_dist.metrics import Recorder, Stopwatch, peak_host_memory_bytes
from ukd_dist.rundir import HISTORY, read_history
from ukd_dist.training.checkpoints import Checkpoints
from ukd_dist.training.engines import Engine

# Logits and the batch in; losses by kind out, of which `total` is minimised.
Objective = Callable[[torch.Tensor, Clips], dict[str, torch.Tensor]]


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
    """

    epoch: int
    losses: dict[str, float]
    accuracy: float
    lr: float
    seconds: float
    data_wait_seconds: float
    clips: int
    peak_memory_bytes: int


@dataclass
class _Sums:
    """Running sums of one epoch on one rank."""

    clips: int = 0
    correct: float = 0.0
    waited: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


def train(
    engine: Engine,
    objective: Objective,
    open_clips: Callable[[range], Iterator[Clips]],
    settings: Training,
    *,
    rows: Rows,
    directory: Path,
    inputs: dict[str, str],
    recorder: Recorder,
    num_rows: int | None = None,
) -> list[Epoch]:
    """Train from the last checkpoint to the last epoch.

    Args:
        engine: Takes the steps.
        objective: Gives the losses.
        open_clips: This rank's clips of a range of epochs.
        settings: Epochs, batch size, learning rate, seed.
        rows: The training rows.
        directory: Where checkpoint/ and history.jsonl lie; read by every rank, written by rank 0.
        inputs: Digests of what is learnt from; a checkpoint of others is refused.
        recorder: Takes the metrics.
        num_rows: How many of the rows `open_clips` gives in an epoch; None for all.

    Returns:
        Every epoch's line, those before a resume included.

    Raises:
        TrainingError: A loss is not finite.
        MismatchError: The checkpoint was made from other settings or inputs.
        DataError: Every checkpoint is damaged.
    """
    checkpoints = Checkpoints(directory / "checkpoint", resolved(settings), inputs)
    steps = steps_per_epoch(len(rows) if num_rows is None else num_rows, settings.batch_size)
    history: list[Epoch] = []
    # Rank 0 decides: ranks that resumed from different epochs would never agree again.
    done = engine.from_rank_0(checkpoints.latest() if engine.rank == 0 else 0)
    if done:
        state = checkpoints.load(done, engine.device)
        engine.load(state)
        history = [Epoch(**line) for line in state["history"]]
    clips = open_clips(range(done, settings.epochs))
    for epoch in range(done, settings.epochs):
        _seed(settings.seed, epoch, engine.rank)
        rates = [learning_rate(settings, epoch + (step + 0.5) / steps) for step in range(steps)]
        line = _run_epoch(engine, objective, islice(clips, steps), epoch, rates, rows.keys, recorder)
        history.append(line)
        engine.share_buffers()
        if engine.rank == 0:
            checkpoints.save(epoch + 1, {**engine.state(), "history": [asdict(e) for e in history]})
            write_history(directory, history)
            _record(recorder, line)
            recorder.write()
    if engine.rank == 0:
        write_history(directory, history)
    return history


def learning_rate(settings: Training, epoch: float) -> float:
    """The learning rate at a fractional epoch: linear warm-up, then constant or half a cosine."""
    if epoch < settings.warmup_epochs:
        return settings.lr * epoch / settings.warmup_epochs
    if settings.schedule == "constant":
        return settings.lr
    progress = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


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


def _run_epoch(
    engine: Engine,
    objective: Objective,
    batches: Iterator[Clips],
    epoch: int,
    rates: list[float],
    keys: list[str],
    recorder: Recorder,
) -> Epoch:
    sums = _Sums()
    whole, watch = Stopwatch(), Stopwatch()
    for step, batch in enumerate(batches):
        waited = watch.lap()
        _step(engine, objective, batch, rates[step], sums, f"epoch {epoch + 1}, step {step + 1}", keys)
        sums.waited += waited
        recorder.count("ukd_clips_total", len(batch.rows_b))
        recorder.count("ukd_data_wait_seconds_total", waited)
        recorder.observe("ukd_step_seconds", waited + watch.lap())
    kinds = sorted(sums.losses)
    local = torch.tensor([sums.clips, sums.correct, *(sums.losses[k] for k in kinds)], dtype=torch.float64)
    clips, correct, *losses = engine.sum_over_ranks(local.to(engine.device)).tolist()
    return Epoch(
        epoch=epoch + 1,
        losses={kind: loss / clips for kind, loss in zip(kinds, losses, strict=True)},
        accuracy=correct / clips,
        lr=rates[-1],
        seconds=whole.lap(),
        data_wait_seconds=sums.waited,
        clips=int(clips),
        peak_memory_bytes=_peak_memory_bytes(engine.device),
    )


def _step(
    engine: Engine, objective: Objective, batch: Clips, lr: float, sums: _Sums, where: str, keys: list[str]
) -> None:
    logits_nc = engine.forward(batch.clips_bcthw)
    losses = objective(logits_nc, batch)
    if not torch.isfinite(losses["total"]):
        names = ", ".join(keys[row] for row in batch.rows_b.tolist())
        raise TrainingError(
            f"the loss is {losses['total'].item()} at {where} (samples {names})",
            expected="a finite loss",
            action="lower lr",
        )
    engine.step(losses["total"], lr)
    count = len(batch.rows_b)
    sums.clips += count
    sums.correct += float((logits_nc.detach().argmax(dim=1) == batch.labels_b).sum())
    for kind, loss in losses.items():
        sums.losses[kind] = sums.losses.get(kind, 0.0) + float(loss.detach()) * count


def _record(recorder: Recorder, line: Epoch) -> None:
    recorder.set("ukd_epoch", line.epoch)
    recorder.set("ukd_epoch_seconds", line.seconds)
    recorder.set("ukd_accuracy_ratio", line.accuracy, split="train")
    recorder.set("ukd_memory_peak_bytes", peak_host_memory_bytes(), device="host")
    if torch.cuda.is_available():
        recorder.set("ukd_memory_peak_bytes", torch.cuda.max_memory_allocated(), device="cuda")
    for kind, loss in line.losses.items():
        recorder.set("ukd_loss", loss, kind=kind)


def _seed(seed: int, epoch: int, rank: int) -> None:
    (state,) = np.random.SeedSequence([seed, epoch, rank]).generate_state(1)
    torch.manual_seed(int(state))


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_host_memory_bytes()
