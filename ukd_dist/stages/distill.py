"""The students: DeepSpeed ranks that Ray places, learning from labels and one stored target.

A student's process reads shards and one target file. It opens nothing under teachers/, so what it costs does
not depend on how many teachers there were.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ukd_dist import manifest
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.clips import Clips
from ukd_dist.data.knowledge import MEAN_ENTROPY, TARGET, open_finished
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, UkdError
from ukd_dist.experiment import StudentMember, resolved
from ukd_dist.method.losses import distillation_loss
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import ERROR, HISTORY, RunDirectory, leave_error, read_history
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.training.engines import DeepSpeedEngine, deepspeed_config
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.loop import Objective, Supervision, train
from ukd_dist.training.setup import build_network, build_optimizer, prepare_device, supervised, training_clips

DEEPSPEED = "deepspeed.json"


@dataclass(frozen=True)
class Work:
    """What every rank of one student is given."""

    root: Path
    run_name: str
    member: StudentMember
    cluster: Cluster


def distill(context: Context) -> None:
    """Train every student that is not trained.

    Raises:
        DataError: A target is not there.
        TrainingError: A student failed.
    """
    for member in context.experiment.students:
        inputs = student_inputs(context.run, member)
        if not context.finished(context.run.student(member.id), "student", resolved(member.settings), inputs):
            _distill_one(context, member)


def _distill_one(context: Context, member: StudentMember) -> None:
    directory = context.run.student(member.id)
    (directory / ERROR).unlink(missing_ok=True)
    experiment = context.experiment
    work = Work(context.run.root, experiment.name, member, experiment.cluster)
    settings = member.settings
    with context.progress.bar(f"student {member.id}", settings.epochs, "epochs") as bar:
        try:
            context.cluster.run_ranks(
                member.id,
                train_student,
                work,
                settings.workers,
                settings.resources,
                while_waiting=lambda: bar.update(len(read_history(directory))),
            )
        except UkdError as error:
            leave_error(directory, error)
            raise


def student_inputs(run: RunDirectory, member: StudentMember) -> dict[str, str]:
    """Digests of what a student learns from.

    Raises:
        DataError: Its target is not there.
    """
    inputs = {"shards": shards_digest(run)}
    if member.target is not None:
        found = manifest.read(run.target(member.target.id))
        if found is None:
            raise DataError(
                f"student {member.id} needs target {member.target.id}, which is not there",
                expected="a finished target",
                action="make it with `ukd reduce`",
            )
        inputs["target"] = found.files[TARGET_FILE].sha256
    return inputs


def train_student(work: Work) -> None:
    """One rank's part of a student's training; rank 0 writes and commits (called on every rank)."""
    run, member = RunDirectory(work.root), work.member
    settings, directory = member.settings, run.student(member.id)
    device = prepare_device(settings, int(os.environ["LOCAL_RANK"]))
    shards = open_to_decode(run.shards, work.cluster.shard_cache)
    inputs = student_inputs(run, member)
    model = build_network(settings, len(shards.classes))
    engine = DeepSpeedEngine(model, build_optimizer(settings, model), device, settings)
    if engine.rank == 0:
        config = json.dumps(deepspeed_config(settings, engine.ranks), indent=1) + "\n"
        manifest.write_atomically(directory / DEEPSPEED, config.encode())
    recorder = Recorder(run.metrics, run=work.run_name, stage="distill", member=member.id, rank=engine.rank)
    with recorder:
        train(
            engine,
            objective_of(run, member, shards, device),
            lambda epochs, step: training_clips(
                shards,
                settings,
                epochs,
                device,
                engine.rank,
                engine.ranks,
                member.stored_views,
                first_step=step,
            ),
            settings,
            rows=shards.rows["train"],
            directory=directory,
            inputs=inputs,
            recorder=recorder,
            supervision=Supervision(
                checkpoint_steps=work.cluster.checkpoint_steps, checkpoints_kept=work.cluster.checkpoints_kept
            ),
        )
    if engine.rank == 0:
        save_weights(model, directory / WEIGHTS)
        manifest.commit(directory, "student", resolved(settings), inputs, [WEIGHTS, HISTORY, DEEPSPEED])


def objective_of(
    run: RunDirectory, member: StudentMember, shards: ShardSet, device: torch.device
) -> Objective:
    """What a student minimises; its target is the row's, or of several stored views that of the one it sees.

    Raises:
        DataError: The target is damaged.
    """
    settings = member.settings
    if member.target is None:
        return supervised(settings)
    assert settings.temperature is not None
    temperature, space = settings.temperature, member.target.settings.space
    each_view = member.target.views.kind == "random"
    directory = run.target(member.target.id)
    rows, num_classes = shards.rows["train"], len(shards.classes)
    target = open_finished(directory, TARGET_FILE, TARGET, rows, "train", num_classes).read().to(device)
    entropies = None
    if member.target.settings.method == "avg1":
        entropies = open_finished(directory, TARGET_FILE, MEAN_ENTROPY, rows, "train", None).read().to(device)

    def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        seen = (batch.rows_b, batch.views_b) if each_view else (batch.rows_b,)
        losses = distillation_loss(
            logits_nc,
            batch.labels_b,
            target[seen],
            alpha=settings.alpha,
            temperature=temperature,
            space=space,
            mean_entropies_n=None if entropies is None else entropies[seen],
            label_smoothing=settings.label_smoothing,
        )
        return losses._asdict()

    return objective
