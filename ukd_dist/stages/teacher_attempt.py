"""One attempt at a teacher, in its own process or on every rank of a group: training, then its logits.

It writes in its attempt's directory alone; the coordinator (`teach.py`) commits what it made.
"""

from __future__ import annotations

import faulthandler
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import distributed, nn

from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory, earlier_checkpoints
from ukd_dist.cluster import STARTED_ON, current_node
from ukd_dist.data.folds import assign_folds
from ukd_dist.data.knowledge import CHECKS, logits_name
from ukd_dist.data.rowarray import Checks
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import TeacherMember, resolved
from ukd_dist.heartbeat import Heart
from ukd_dist.manifest import Manifest
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import CHECKPOINTS, HISTORY, RunDirectory
from ukd_dist.stages.capture import Capture, take_captured
from ukd_dist.stages.initial import load_initial, teacher_inputs
from ukd_dist.stages.members import CRASH
from ukd_dist.training.checkpoints import KEPT, Checkpoints
from ukd_dist.training.engines import DeepSpeedEngine, Engine, PlainEngine
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, prepare_device, supervised, training_clips
from ukd_dist.training.supervision import Supervision
from ukd_dist.training_config import Teacher


@dataclass(frozen=True)
class Work:
    """What every attempt at one teacher is given."""

    root: Path
    run_name: str
    member: TeacherMember
    shard_cache: Path | None = None
    checkpoint_seconds: float = math.inf
    checkpoints_kept: int = KEPT


def train_teacher(work: Work, number: int) -> str:
    """One attempt at a teacher: train it and write its logits (a Ray task, or called on every rank).

    Returns:
        Digest of the manifest that lies over them in the attempt's directory; of other ranks than 0 empty.

    Raises:
        PreemptedError: It was asked to stop, and wrote a checkpoint.
        UkdError: What stopped it.
    """
    member = RunDirectory(work.root).teacher(work.member.id)
    attempt, settings = attempt_directory(member, number), work.member.settings
    if settings.workers > 1 and distributed.get_rank() > 0:
        _train(work, attempt)
        return ""
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
    """The only rank's part in an attempt, or rank 0's."""
    settings = work.member.settings
    model, shards = _train(work, attempt, heart)
    save_weights(model, attempt / WEIGHTS)
    capture = Capture(model, shards, settings, attempt, heart, work.checkpoint_seconds)
    checks = _capture(capture, shards, rows_trained_on(shards, settings))
    files = [WEIGHTS, HISTORY, *checks]
    inputs = teacher_inputs(RunDirectory(work.root), work.member, shards.digest)
    return manifest.commit(attempt, "teacher", resolved(settings), inputs, files, {CHECKS: checks})


def _train(work: Work, attempt: Path, heart: Heart | None = None) -> tuple[nn.Module, ShardSet]:
    """A rank's part in the training; rank 0's has the heart. Returns the network and what it learnt from."""
    run, settings = RunDirectory(work.root), work.member.settings
    group = settings.workers > 1
    device = prepare_device(settings, int(os.environ["LOCAL_RANK"]) if group else 0)
    others = _nodes_of_group() if group else []
    shards = open_to_decode(run.shards, work.shard_cache)
    model = build_network(settings, len(shards.classes))
    load_initial(model, run, settings)
    optimizer = build_optimizer(settings, model)
    engine: Engine = (
        DeepSpeedEngine(model, optimizer, device, settings)
        if group
        else PlainEngine(model, optimizer, device, settings)
    )
    trained_on, inputs = rows_trained_on(shards, settings), teacher_inputs(run, work.member, shards.digest)
    supervision = Supervision(
        checkpoint_seconds=work.checkpoint_seconds, checkpoints_kept=work.checkpoints_kept
    )
    if heart is not None:
        earlier = earlier_checkpoints(attempt)
        take_captured(attempt, earlier)  # first: attempts whose checkpoints were taken over may be dropped
        checkpoints = Checkpoints(attempt / CHECKPOINTS, resolved(settings), inputs, work.checkpoints_kept)
        heart.begin(checkpoints.take_over(earlier), others)
        supervision = supervision.watched_by(heart)
    with Recorder(
        run.metrics, run=work.run_name, stage="teach", member=work.member.id, rank=engine.rank
    ) as recorder:
        train(
            engine,
            supervised(settings),
            lambda epochs, step: training_clips(
                shards,
                settings,
                epochs,
                device,
                engine.rank,
                engine.ranks,
                rows=np.flatnonzero(trained_on),
                first_step=step,
            ),
            settings,
            rows=shards.rows["train"],
            directory=attempt,
            inputs=inputs,
            recorder=recorder,
            num_rows=int(trained_on.sum()),
            supervision=supervision,
        )
    return model, shards


def _nodes_of_group() -> list[str]:
    """Ray's ids of the nodes that the group needs beside rank 0's (called on every rank)."""
    nodes = [""] * distributed.get_world_size()
    distributed.all_gather_object(nodes, current_node())
    return [*nodes[1:], os.environ[STARTED_ON]]


def _capture(capture: Capture, shards: ShardSet, trained_on: npt.NDArray[np.bool_]) -> dict[str, Checks]:
    """Write a trained teacher's logits on every split; returns each file's checksums of rows."""
    unseen = {split: np.zeros(len(shards.rows[split]), np.bool_) for split in shards.splits}
    seen = {**unseen, "train": trained_on}
    return {logits_name(split): capture.write(split, seen[split]) for split in shards.splits}


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
