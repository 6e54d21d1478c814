"""The training loop, one for teachers and students: what differs is the engine and the objective.

Everything random is a function of (seed, epoch, rank) and of the steps before in that epoch, whose outcome a
checkpoint within it holds, so a training that was cut off goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import Rows
from ukd_dist.data.views import steps_per_epoch
from ukd_dist.errors import MismatchError, NotFiniteError, PreemptedError
from ukd_dist.experiment import resolved
from ukd_dist.metrics import Recorder, Stopwatch, peak_host_memory_bytes
from ukd_dist.rundir import CHECKPOINTS
from ukd_dist.training import randomness
from ukd_dist.training.averaging import Average
from ukd_dist.training.checkpoints import Checkpoints, Position
from ukd_dist.training.engines import Engine
from ukd_dist.training.history import Epoch, record_epoch, write_history
from ukd_dist.training.schedules import learning_rate
from ukd_dist.training.statistics import measure_statistics
from ukd_dist.training.supervision import UNWATCHED, Supervision
from ukd_dist.training_config import Training

_GO_ON, _SAVE, _STOP = range(3)  # what rank 0 decides after a step
_log = logging.getLogger(__name__)

# Logits and the batch in; losses by kind out, of which `total` is minimised.
Objective = Callable[[torch.Tensor, Clips], dict[str, torch.Tensor]]


@dataclass
class _Sums:
    """Running sums of one epoch on one rank."""

    clips: int = 0
    correct: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, other: _Sums) -> None:
        """Take in the clips of another rank; time is each one's own."""
        self.clips += other.clips
        self.correct += other.correct
        self.losses = {kind: self.losses[kind] + loss for kind, loss in other.losses.items()}


@dataclass(frozen=True)
class _Work:
    """What every epoch of one training has in common."""

    engine: Engine
    objective: Objective
    settings: Training
    steps: int
    keys: list[str]
    recorder: Recorder
    average: Average | None


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
    supervision: Supervision = UNWATCHED,
) -> list[Epoch]:
    """Train from the last checkpoint to the last epoch; the network is left with the weights that are kept.

    Args:
        engine: Takes the steps.
        objective: Gives the losses, means over the clips that it is given.
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
        MismatchError: The checkpoint was made from other settings or inputs, or by another number of ranks.
        DataError: Every checkpoint is damaged.
    """
    checkpoints = Checkpoints(
        directory / CHECKPOINTS, resolved(settings), inputs, supervision.checkpoints_kept
    )
    steps = steps_per_epoch(len(rows) if num_rows is None else num_rows, settings.batch_size)
    average = None if settings.ema is None else Average(engine.network, settings.ema)
    work = _Work(engine, objective, settings, steps, rows.keys, recorder, average)
    history: list[Epoch] = []

    def save(position: Position, **inside: object) -> None:
        """Write a checkpoint; `inside`: what is needed to go on within an epoch."""
        state = {**engine.state(), "history": [asdict(line) for line in history]}
        if average is not None:
            state["average"] = average.state()
        checkpoints.save(position, state, {**engine.part(), **inside}, engine)

    # Rank 0 decides: ranks that resumed from different epochs would never agree again.
    found = checkpoints.latest() if engine.rank == 0 else Position()
    done = Position(*map(engine.from_rank_0, found))
    parts: list[dict[str, Any]] = []
    if any(done):
        state, parts = checkpoints.load(done)
        if len(parts) != engine.ranks:
            _note_other_ranks(directory / CHECKPOINTS / done.name, len(parts), engine, supervision)
        engine.load(state, parts)
        if average is not None:
            average.load(state["average"])
        history = [Epoch(**line) for line in state["history"]]
        if engine.rank == 0:
            write_history(directory, history)
    clips = open_clips(range(done.epoch, settings.epochs), done.step)
    for epoch in range(done.epoch, settings.epochs):
        begin = done.step if epoch == done.epoch else 0
        sums = _take_up(work, epoch, begin, parts)
        line = _run_epoch(work, clips, epoch, begin, sums, save, supervision)
        history.append(line)
        engine.share_buffers()
        save(Position(epoch + 1))
        if engine.rank == 0:
            write_history(directory, history)
            record_epoch(recorder, line, settings.resources)
            recorder.write()
        supervision.on_step(Position(epoch + 1), steps)
        if epoch + 1 < settings.epochs and engine.from_rank_0(supervision.stop_asked()):
            raise _preempted(Position(epoch + 1))
    if engine.rank == 0:
        write_history(directory, history)
    if average is not None:
        average.put_in()
    if settings.batch_norm == "precise":
        randomness.seed(settings.seed, settings.epochs, engine.rank)
        batches = open_clips(range(settings.epochs, settings.epochs + 1), 0)
        measure_statistics(engine, _watched(batches, settings.epochs, steps, supervision), steps)
    return history


def _watched(
    clips: Iterator[Clips], epoch: int, steps: int, supervision: Supervision
) -> Iterator[torch.Tensor]:
    """Clips that no step is taken on, each of which is a sign of life."""
    for number, batch in enumerate(clips):
        supervision.on_step(Position(epoch, number), steps)
        yield batch.clips_bcthw


def _take_up(work: _Work, epoch: int, begin: int, parts: list[dict[str, Any]]) -> _Sums:
    """Random state and sums of this rank after `begin` steps of an epoch, from what the ranks then saved."""
    rank, device = work.engine.rank, work.engine.device
    if not begin:
        randomness.seed(work.settings.seed, epoch, rank)
        return _Sums()
    sums = [_Sums(**part["sums"]) for part in parts]
    if len(parts) == work.engine.ranks:
        randomness.restore(parts[rank]["random"], device)
        return sums[rank]
    randomness.seed(work.settings.seed, epoch, rank, begin)  # nobody's state would do
    if rank:
        return _Sums(losses=dict.fromkeys(sums[0].losses, 0.0))
    for other in sums[1:]:
        sums[0].add(other)
    return sums[0]


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
    whole, watch, unsaved, unsaved_steps = Stopwatch(), Stopwatch(), 0.0, 0
    before = sums.seconds
    for step, batch in zip(range(begin, work.steps), clips, strict=False):
        waited = watch.lap()
        _step(work, batch, rates[step], sums, f"epoch {epoch + 1}, step {step + 1}")
        sums.waited += waited
        work.recorder.count("ukd_clips_total", len(batch.rows_b))
        work.recorder.count("ukd_data_wait_seconds_total", waited)
        seconds = waited + watch.lap()
        work.recorder.observe("ukd_step_seconds", seconds)
        unsaved, unsaved_steps = unsaved + seconds, unsaved_steps + 1
        position = Position(epoch, step + 1)
        if position.step == work.steps:  # the epoch's end has a checkpoint of its own
            break
        supervision.on_step(position, work.steps)
        due = unsaved >= supervision.checkpoint_seconds or unsaved_steps >= supervision.checkpoint_steps
        # Each rank has a clock of its own: one that saved alone would wait for the others for ever.
        decision = work.engine.from_rank_0(_STOP if supervision.stop_asked() else _SAVE if due else _GO_ON)
        if decision != _GO_ON:
            sums.seconds = before + whole.total()
            save(position, sums=asdict(sums), random=randomness.state(work.engine.device))
            unsaved, unsaved_steps = 0.0, 0
        if decision == _STOP:
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
        ranks=engine.ranks,
    )


def _step(work: _Work, batch: Clips, lr: float, sums: _Sums, where: str) -> None:
    for part in batch.parts(work.settings.accumulate):
        logits_nc = work.engine.forward(part.clips_bcthw)
        losses = work.objective(logits_nc, part)
        correct = (logits_nc.detach().argmax(dim=1) == part.labels_b).sum()
        # Read at once: each reading waits for the device.
        values = torch.stack([loss.detach().double() for loss in losses.values()] + [correct.double()])
        *means, right = values.tolist()
        _check_finite(dict(zip(losses, means, strict=True)), part, work.keys, where)
        work.engine.step(losses["total"], lr)
        count = len(part.rows_b)
        sums.clips += count
        sums.correct += right
        for kind, value in zip(losses, means, strict=True):
            sums.losses[kind] = sums.losses.get(kind, 0.0) + value * count
    if work.average is not None:
        work.average.update()


def _check_finite(losses: dict[str, float], batch: Clips, keys: list[str], where: str) -> None:
    if not math.isfinite(losses["total"]):
        names = ", ".join(keys[row] for row in batch.rows_b.tolist())
        raise NotFiniteError(
            f"the loss is {losses['total']} at {where} (samples {names})",
            expected="a finite loss",
            action="lower lr",
        )


def _note_other_ranks(checkpoint: Path, written_by: int, engine: Engine, supervision: Supervision) -> None:
    if not supervision.other_ranks:
        raise MismatchError(
            f"checkpoint {checkpoint} was written by {written_by} ranks, and there are {engine.ranks}",
            expected="as many: with others the same order of clips gives other weights",
            action=f"go on with {written_by}, or ask for {engine.ranks} with --workers {engine.ranks}",
        )
    if engine.rank == 0:
        _log.warning("%d ranks go on from %s of %d", engine.ranks, checkpoint, written_by)


def _preempted(position: Position) -> PreemptedError:
    return PreemptedError(
        f"asked to stop after epoch {position.epoch}, step {position.step}",
        expected="to go on to the last epoch",
        action="run again: it goes on from there",
    )


def _peak_memory_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_host_memory_bytes()
