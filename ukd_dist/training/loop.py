"""The training loop, one for teachers and students: what differs is the engine and the objective.

Everything random is a function of (seed, epoch, rank) and of the steps before in that epoch, whose outcome a
checkpoint within it holds, so a training that was cut off goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ukd_dist.config import Training
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import Rows
from ukd_dist.data.views import steps_per_epoch
from ukd_dist.errors import DataError, NotFiniteError, PreemptedError
from ukd_dist.experiment import resolved
from ukd_dist.manifest import write_atomically
from ukd_dist.metrics import Recorder, Stopwatch, peak_host_memory_bytes
from ukd_dist.rundir import HISTORY, read_history
from ukd_dist.training.checkpoints import Checkpoints, Position
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


@dataclass(frozen=True)
class Supervision:
    """How a training is watched, and when it stops before its end.

    A training of several ranks has none: what they hold within an epoch is each one's own.

    Attributes:
        checkpoint_seconds: Within an epoch a checkpoint is written after so long without one.
        on_step: Called after every step with the position and the steps of an epoch.
        stop_asked: Whether to write a checkpoint and end.
    """

    checkpoint_seconds: float = math.inf
    on_step: Callable[[Position, int], None] = lambda *_: None
    stop_asked: Callable[[], bool] = lambda: False


@dataclass
class _Sums:
    """Running sums of one epoch on one rank."""

    clips: int = 0
    correct: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """What every epoch of one training has in common."""

    engine: Engine
    objective: Objective
    settings: Training
    steps: int
    keys: list[str]
    recorder: Recorder


def train(
    engine: Engine,
    objective: Objective,
    open_clips: Callable[[range, int], Iterator[Clips]],
    settings: Training,
    *,
    rows: Rows,
    directory: Path,
    inputs: dict[str, str],
    recorder: Recorder,
    num_rows: int | None = None,
    supervision: Supervision = Supervision(),
) -> list[Epoch]:
    """Train from the last checkpoint to the last epoch.

    Args:
        engine: Takes the steps.
        objective: Gives the losses.
        open_clips: This rank's clips of a range of epochs, without so many steps of the first one.
        settings: Epochs, batch size, learning rate, seed.
        rows: The training rows.
        directory: Where checkpoint/ and history.jsonl lie; read by every rank, written by rank 0.
        inputs: Digests of what is learnt from; a checkpoint of others is refused.
        recorder: Takes the metrics.
        num_rows: How many of the rows `open_clips` gives in an epoch; None for all.
        supervision: How it is watched, and stopped.

    Returns:
        Every epoch's line, those before a resume included.

    Raises:
        NotFiniteError: A loss is not finite.
        PreemptedError: It was asked to stop; a checkpoint is written.
        MismatchError: The checkpoint was made from other settings or inputs.
        DataError: Every checkpoint is damaged.
    """
    checkpoints = Checkpoints(directory / "checkpoint", resolved(settings), inputs)
    steps = steps_per_epoch(len(rows) if num_rows is None else num_rows, settings.batch_size)
    work = _Work(engine, objective, settings, steps, rows.keys, recorder)
    history: list[Epoch] = []

    def save(position: Position, **inside: object) -> None:
        """Write a checkpoint; `inside`: what is needed to go on within an epoch."""
        state = {**engine.state(), "history": [asdict(line) for line in history], **inside}
        checkpoints.save(position, state)

    # Rank 0 decides: ranks that resumed from different epochs would never agree again.
    found = checkpoints.latest() if engine.rank == 0 else Position()
    done = Position(*map(engine.from_rank_0, found))
    state = checkpoints.load(done, engine.device) if any(done) else {}
    if state:
        engine.load(state)
        history = [Epoch(**line) for line in state["history"]]
        if engine.rank == 0:
            write_history(directory, history)
    clips = open_clips(range(done.epoch, settings.epochs), done.step)
    for epoch in range(done.epoch, settings.epochs):
        _seed(settings.seed, epoch, engine.rank)
        sums, begin = _Sums(), 0
        if epoch == done.epoch and done.step:
            sums, begin = _Sums(**state["sums"]), done.step
            _restore_random(state["random"], engine.device)
        line = _run_epoch(work, clips, epoch, begin, sums, save, supervision)
        history.append(line)
        engine.share_buffers()
        if engine.rank == 0:
            save(Position(epoch + 1))
            write_history(directory, history)
            _record(recorder, line)
            recorder.write()
        supervision.on_step(Position(epoch + 1), steps)
        if epoch + 1 < settings.epochs and supervision.stop_asked():
            raise _preempted(Position(epoch + 1))
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
    work: _Work,
    clips: Iterator[Clips],
    epoch: int,
    begin: int,
    sums: _Sums,
    save: Callable[..., None],
    supervision: Supervision,
) -> Epoch:
    """The rest of an epoch after `begin` steps, with their sums."""
    rates = [learning_rate(work.settings, epoch + (step + 0.5) / work.steps) for step in range(work.steps)]
    whole, watch, unsaved = Stopwatch(), Stopwatch(), 0.0
    before = sums.seconds
    for step, batch in zip(range(begin, work.steps), clips, strict=False):
        waited = watch.lap()
        _step(work, batch, rates[step], sums, f"epoch {epoch + 1}, step {step + 1}")
        sums.waited += waited
        work.recorder.count("ukd_clips_total", len(batch.rows_b))
        work.recorder.count("ukd_data_wait_seconds_total", waited)
        seconds = waited + watch.lap()
        work.recorder.observe("ukd_step_seconds", seconds)
        unsaved += seconds
        position = Position(epoch, step + 1)
        if position.step == work.steps:  # the epoch's end has a checkpoint of its own
            break
        supervision.on_step(position, work.steps)
        stopped = supervision.stop_asked()
        if stopped or unsaved >= supervision.checkpoint_seconds:
            sums.seconds = before + whole.total()
            save(position, sums=asdict(sums), random=_random_state(work.engine.device))
            unsaved = 0.0
        if stopped:
            raise _preempted(position)
    sums.seconds = before + whole.total()
    return _line(work.engine, epoch, rates[-1], sums)


def _line(engine: Engine, epoch: int, lr: float, sums: _Sums) -> Epoch:
    kinds = sorted(sums.losses)
    local = torch.tensor([sums.clips, sums.correct, *(sums.losses[k] for k in kinds)], dtype=torch.float64)
    clips, correct, *losses = engine.sum_over_ranks(local.to(engine.device)).tolist()
    return Epoch(
        epoch=epoch + 1,
        losses={kind: loss / clips for kind, loss in zip(kinds, losses, strict=True)},
        accuracy=correct / clips,
        lr=lr,
        seconds=sums.seconds,
        data_wait_seconds=sums.waited,
        clips=int(clips),
        peak_memory_bytes=_peak_memory_bytes(engine.device),
    )


def _step(work: _Work, batch: Clips, lr: float, sums: _Sums, where: str) -> None:
    logits_nc = work.engine.forward(batch.clips_bcthw)
    losses = work.objective(logits_nc, batch)
    if not torch.isfinite(losses["total"]):
        names = ", ".join(work.keys[row] for row in batch.rows_b.tolist())
        raise NotFiniteError(
            f"the loss is {losses['total'].item()} at {where} (samples {names})",
            expected="a finite loss",
            action="lower lr",
        )
    work.engine.step(losses["total"], lr)
    count = len(batch.rows_b)
    sums.clips += count
    sums.correct += float((logits_nc.detach().argmax(dim=1) == batch.labels_b).sum())
    for kind, loss in losses.items():
        sums.losses[kind] = sums.losses.get(kind, 0.0) + float(loss.detach()) * count


def _preempted(position: Position) -> PreemptedError:
    return PreemptedError(
        f"asked to stop after epoch {position.epoch}, step {position.step}",
        expected="to go on to the last epoch",
        action="run again: it goes on from there",
    )


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


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _restore_random(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_host_memory_bytes()
