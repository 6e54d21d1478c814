"""The fleet: every teacher that is not finished is trained by a Ray task, which then writes its logits.

A task is one numbered attempt (`attempts.py`): it goes on from the newest checkpoint of those before it, and
what it made is committed by the coordinator (`members.py`).
"""

from __future__ import annotations

import faulthandler
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory, earlier_checkpoints
from ukd_dist.cluster import Job, current_node
from ukd_dist.cluster_config import Resources
from ukd_dist.config import Teacher
from ukd_dist.data.folds import assign_folds
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.rowarray import Checks
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import IncompleteError, PreemptedError, TrainingError, UkdError
from ukd_dist.experiment import TeacherMember, resolved
from ukd_dist.heartbeat import Heart
from ukd_dist.manifest import Manifest
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import HISTORY, RunDirectory
from ukd_dist.stages.commits import drop_attempts, finish_interrupted
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.stages.keeping import keep_only
from ukd_dist.stages.members import CRASH, Member, Members
from ukd_dist.training.checkpoints import Checkpoints
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.inference import WEIGHTS, infer, save_weights
from ukd_dist.training.loop import Supervision, train
from ukd_dist.training.setup import build_network, build_optimizer, prepare_device, supervised, training_clips


@dataclass(frozen=True)
class Work:
    """What every attempt at one teacher is given."""

    root: Path
    run_name: str
    member: TeacherMember
    shard_cache: Path | None = None
    checkpoint_seconds: float = math.inf


def teach(context: Context) -> None:
    """Train every teacher that is not trained, and write its logits.

    Raises:
        IncompleteError: Some teachers failed, but as many as `teachers.quorum` says are finished.
        TrainingError: More failed; the others are finished.
        MismatchError: A teacher was trained on other shards.
    """
    experiment, digest = context.experiment, shards_digest(context.run)
    members = [m for m in experiment.teachers if not _is_finished(context, m, digest)]
    for member in experiment.teachers:  # `keep` may be another since, or its coordinator was killed
        keep_only(context.run.teacher(member.id), experiment.keep)
    if not members:
        return
    runner = Members(context.cluster, 60 * experiment.hang_minutes, experiment.keep)
    epochs = {member.id: member.settings.epochs for member in members}
    with context.progress.bar("teachers", sum(epochs.values()), "epochs") as bar:
        failed = runner.run(
            [_member(context, member) for member in members], lambda: bar.update(runner.epochs)
        )
        bar.update(runner.epochs)
    if failed:
        raise _missing(failed, len(members), len(experiment.teachers), experiment.quorum)


def train_teacher(work: Work, number: int) -> str:
    """One attempt at a teacher: train it and write its logits (a Ray task).

    Returns:
        Digest of the manifest that lies over them in the attempt's directory.

    Raises:
        PreemptedError: It was asked to stop, and wrote a checkpoint.
        UkdError: What stopped it.
    """
    member = RunDirectory(work.root).teacher(work.member.id)
    attempt, settings = attempt_directory(member, number), work.member.settings
    with (
        Heart(attempt, current_node(), settings.epochs) as heart,
        (attempt / CRASH).open("w", encoding="utf-8") as crash,
    ):
        faulthandler.enable(crash)
        try:
            return _attempt(work, attempt, heart).digest()
        finally:
            faulthandler.disable()


def _attempt(work: Work, attempt: Path, heart: Heart) -> Manifest:
    run, settings = RunDirectory(work.root), work.member.settings
    device = prepare_device(settings)
    shards = open_to_decode(run.shards, work.shard_cache)
    model = build_network(settings, len(shards.classes))
    trained_on, inputs = rows_trained_on(shards, settings), {"shards": shards.digest}
    checkpoints = Checkpoints(attempt / "checkpoint", resolved(settings), inputs)
    checkpoints.take(earlier_checkpoints(attempt))
    began = checkpoints.latest()
    heart.begin(began.name if any(began) else "")
    with Recorder(run.metrics, run=work.run_name, stage="teach", member=work.member.id) as recorder:
        train(
            PlainEngine(model, build_optimizer(settings, model), device),
            supervised(settings),
            lambda epochs, step: training_clips(
                shards, settings, epochs, device, rows=np.flatnonzero(trained_on), first_step=step
            ),
            settings,
            rows=shards.rows["train"],
            directory=attempt,
            inputs=inputs,
            recorder=recorder,
            num_rows=int(trained_on.sum()),
            supervision=Supervision(
                checkpoint_seconds=work.checkpoint_seconds,
                on_step=lambda at, steps: heart.step(at.epoch, at.step, steps),
                stop_asked=heart.stop_asked,
            ),
        )
    checks = _write_logits(model, shards, settings, trained_on, attempt, heart)
    save_weights(model, attempt / WEIGHTS)
    files = [WEIGHTS, HISTORY, *checks]
    return manifest.commit(attempt, "teacher", resolved(settings), inputs, files, {CHECKS: checks})


def _write_logits(
    model: nn.Module,
    shards: ShardSet,
    settings: Teacher,
    trained_on: npt.NDArray[np.bool_],
    attempt: Path,
    heart: Heart,
) -> dict[str, Checks]:
    """Write a trained teacher's logits on every split; returns each file's checksums of rows."""
    checks, batches = {}, 0

    def on_batch() -> None:
        nonlocal batches
        batches += 1
        heart.beat(phase="logits", step=batches)
        if heart.stop_asked():
            raise PreemptedError(
                f"asked to stop after {batches} batches of logits",
                expected="to go on to the last one",
                action="run again: the training is kept",
            )

    device = next(model.parameters()).device
    for split in shards.splits:
        rows = shards.rows[split]
        views = settings.views if split == "train" else settings.views.evaluated
        logits = infer(model, shards, split, settings, device, views, on_batch)
        seen = torch.from_numpy(trained_on) if split == "train" else torch.zeros(len(rows), dtype=torch.bool)
        path = logits_path(attempt, split)
        checks[logits_name(split)] = write_logits(path, logits, rows, split, view=views.name, trained_on=seen)
    return checks


def _member(context: Context, member: TeacherMember) -> Member:
    run, experiment = context.run, context.experiment
    settings = experiment.cluster
    seconds = 60 * settings.checkpoint_minutes
    work = Work(run.root, experiment.name, member, settings.shard_cache, seconds)

    def job(number: int, resources: Resources) -> Job:
        # Not Ray starts it again but the coordinator, under the next number.
        return Job(member.id, train_teacher, (work, number), resources, fresh_process=True, retries=0)

    return Member(member.id, run.teacher(member.id), member.settings.resources, job)


def _missing(failed: dict[str, UkdError], begun: int, members: int, quorum: int) -> TrainingError:
    """What is said of teachers that were set aside; whether the run may go on is the error's kind."""
    (first, error), finished = next(iter(failed.items())), members - len(failed)
    problem = f"{len(failed)} of {begun} teachers failed, first {first}: {error.problem}"
    if finished < quorum:
        action = f"{error.action}, and run again: the others are kept"
        return TrainingError(problem, expected=error.expected, action=action)
    return IncompleteError(
        f"{problem}; missing: {', '.join(failed)}",
        expected=f"all {members}, though {quorum} are enough for targets (teachers.quorum)",
        action=f"{error.action}, and run again: targets were made without the missing",
    )


def rows_trained_on(shards: ShardSet, settings: Teacher) -> npt.NDArray[np.bool_]:
    """Whether a teacher is trained on each training row, bool `[n]`: on all but those of its fold.

    Raises:
        UsageError: The shards' rows cannot be parted into such folds.
    """
    rows = shards.rows["train"]
    if settings.fold is None:
        return np.ones(len(rows), np.bool_)
    assert settings.folds is not None
    folds_n = assign_folds(rows.labels, rows.groups, settings.folds, shards.classes)
    return np.not_equal(folds_n, settings.fold)


def _is_finished(context: Context, member: TeacherMember, shards: str) -> bool:
    """Whether a teacher is finished, by an attempt of an earlier coordinator if need be."""
    directory, settings = context.run.teacher(member.id), resolved(member.settings)
    inputs = {"shards": shards}
    if context.finished(directory, "teacher", settings, inputs):
        drop_attempts(directory)
        return True
    return finish_interrupted(directory, "teacher", settings, inputs)
