"""The fleet: every teacher that is not finished is trained by one Ray task, which then writes its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.config import Teacher
from ukd_dist.data.folds import assign_folds
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import TeacherMember, resolved
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import HISTORY, RunDirectory, read_history
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.inference import WEIGHTS, infer, save_weights
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, prepare_device, supervised, training_clips


def teach(context: Context) -> None:
    """Train every teacher that is not trained, and write its logits.

    Raises:
        TrainingError: Some teachers failed; the others are finished.
        MismatchError: A teacher was trained on other shards.
    """
    run, experiment = context.run, context.experiment
    digest = shards_digest(run)
    members = [m for m in experiment.teachers if not _is_finished(context, m, digest)]
    cache = experiment.cluster.shard_cache
    jobs = [
        Job(
            m.id,
            train_teacher,
            (run.root, experiment.name, m, cache),
            m.settings.resources,
            fresh_process=True,
        )
        for m in members
    ]
    if not jobs:
        return

    def epochs() -> float:
        return sum(len(read_history(run.teacher(m.id))) for m in members)

    context.run_members("teachers", jobs, run.teacher, epochs, sum(m.settings.epochs for m in members))


def train_teacher(root: Path, run_name: str, member: TeacherMember, shard_cache: Path | None = None) -> None:
    """Train one teacher, write its logits on every split, commit it (a Ray task)."""
    run = RunDirectory(root)
    settings, directory = member.settings, run.teacher(member.id)
    device = prepare_device(settings)
    shards = open_to_decode(run.shards, shard_cache)
    model = build_network(settings, len(shards.classes))
    trained_on = rows_trained_on(shards, settings)
    inputs = {"shards": shards.digest}
    if manifest.finished(directory, "teacher", resolved(settings), inputs):
        return  # Ray starts a task again whose process ended after its last write
    with Recorder(run.metrics, run=run_name, stage="teach", member=member.id) as recorder:
        train(
            PlainEngine(model, build_optimizer(settings, model), device),
            supervised(settings),
            lambda epochs, step: training_clips(
                shards, settings, epochs, device, rows=np.flatnonzero(trained_on), first_step=step
            ),
            settings,
            rows=shards.rows["train"],
            directory=directory,
            inputs=inputs,
            recorder=recorder,
            num_rows=int(trained_on.sum()),
        )
    checks = {}
    for split in shards.splits:
        rows = shards.rows[split]
        views = settings.views if split == "train" else settings.views.evaluated
        logits = infer(model, shards, split, settings, device, views)
        seen = torch.from_numpy(trained_on) if split == "train" else torch.zeros(len(rows), dtype=torch.bool)
        checks[logits_name(split)] = write_logits(
            logits_path(directory, split), logits, rows, split, view=views.name, trained_on=seen
        )
    save_weights(model, directory / WEIGHTS)
    files = [WEIGHTS, HISTORY, *map(logits_name, shards.splits)]
    manifest.commit(directory, "teacher", resolved(settings), inputs, files, {CHECKS: checks})


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
    directory = context.run.teacher(member.id)
    return context.finished(directory, "teacher", resolved(member.settings), {"shards": shards})
