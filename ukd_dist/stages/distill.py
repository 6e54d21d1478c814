"""The students: DeepSpeed ranks that Ray places, learning from labels and one stored target.

A student's process reads shards and one target file. It opens nothing under teachers/, so what it costs does
not depend on how many teachers there were. Those that keep teachers in memory are the contrast (`online.py`).
Each start of its ranks is a numbered attempt (`attempts.py`): it goes on from the newest checkpoint of those
before it and writes where no other one does; the coordinator commits what the last one made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.attempts import (
    attempt_directory,
    earlier_checkpoints,
    new_attempt,
    newest_attempt,
    with_history,
)
from ukd_dist.cluster import GRACE_SECONDS, current_node
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.errors import DataError, UkdError
from ukd_dist.expansion import validate
from ukd_dist.experiment import StudentMember, resolved
from ukd_dist.heartbeat import Heart, ask_to_stop, read_beat
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import CHECKPOINTS, ERROR, HISTORY, RunDirectory, leave_error, read_history
from ukd_dist.stages.commits import drop_attempts, drop_older, finish_interrupted
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.stages.initial import changed, initial_inputs, load_initial, prepare
from ukd_dist.stages.keeping import keep_of, keep_only
from ukd_dist.stages.objectives import objective_of
from ukd_dist.stages.online import require_weights, weights_digests
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.training.checkpoints import Checkpoints
from ukd_dist.training.engines import DeepSpeedEngine, deepspeed_config
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, prepare_device, training_clips
from ukd_dist.training.supervision import Supervision
from ukd_dist.training_config import Student

DEEPSPEED = "deepspeed.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What every rank of one attempt at a student is given."""

    root: Path
    run_name: str
    member: StudentMember
    attempt: int
    cluster: Cluster
    other_ranks: bool = False


def distill(context: Context) -> None:
    """Train every student that is not trained.

    Raises:
        DataError: A target is not there, or the weights of a teacher that is wanted in memory.
        TrainingError: A student failed.
    """
    for member in context.experiment.students:
        if needs_training(context, member):
            require_weights(context.run, member)
            _distill_one(context, member)
        for teacher in member.teachers:  # nobody else may wait for its weights now
            keep_only(
                context.run.teacher(teacher),
                keep_of(context.run, context.experiment, teacher, context.waiting),
            )


def _distill_one(context: Context, member: StudentMember) -> None:
    directory, settings = context.run.student(member.id), member.settings
    workers = ranks_of(context, member)
    with (
        committing(context, member),
        context.progress.bar(f"student {member.id}", settings.epochs, "epochs") as bar,
    ):
        context.cluster.run_ranks(
            member.id,
            train_student,
            lambda: new_work(context, member),
            workers,
            settings.resources,
            while_waiting=lambda: bar.update(len(read_history(with_history(directory)))),
            ask_to_stop=lambda: _ask_to_stop(directory),
        )


def _ask_to_stop(student: Path) -> bool:
    """Ask the newest attempt at a student to write a checkpoint and end; whether it has begun at all."""
    attempt = newest_attempt(student)
    if attempt is None or read_beat(attempt) is None:
        return False
    message = "waiting for a checkpoint of %s, %g s at most; Ctrl-C again: not"
    _log.warning(message, student.name, GRACE_SECONDS)
    ask_to_stop(attempt)
    return True


def needs_training(context: Context, member: StudentMember) -> bool:
    """Whether a student is still to be trained; its initial weights are made then.

    Raises:
        MismatchError: It was made from other settings, inputs or initial weights.
        UkdError: As `initial.prepare`.
    """
    directory = context.run.student(member.id)
    if manifest.read(directory) is not None:
        if changed(context, [member.settings]):
            manifest.drop(directory)
        elif is_finished(context, member):
            return False
    prepare(context, [member.settings])  # attempts name them among their inputs
    return not is_finished(context, member)


def is_finished(context: Context, member: StudentMember) -> bool:
    """Whether a student is finished, by an attempt of an earlier coordinator if need be.

    Raises:
        DataError: Its target is not there.
        MismatchError: It was made from other settings or inputs.
    """
    directory, inputs = context.run.student(member.id), student_inputs(context.run, member)
    if context.finished(directory, "student", resolved(member.settings), inputs):
        drop_attempts(directory)
        return True
    return finish_interrupted(directory, "student", resolved(member.settings), inputs)


def new_work(context: Context, member: StudentMember) -> Work:
    """What the ranks of the next attempt at a student are given."""
    directory, experiment = context.run.student(member.id), context.experiment
    number = new_attempt(directory)
    drop_older(directory, number - 1)
    others = context.workers is not None
    return Work(context.run.root, experiment.name, member, number, experiment.cluster, others)


def ranks_of(context: Context, member: StudentMember) -> int:
    """How many ranks train a student.

    Raises:
        UsageError: They cannot share its batch equally.
    """
    if context.workers is None:
        return member.settings.workers
    settings = member.settings.model_dump() | {"workers": context.workers}
    return validate(Student, settings, f"student {member.id} with --workers {context.workers}", ()).workers


@contextmanager
def committing(context: Context, member: StudentMember) -> Iterator[None]:
    """Commit what attempts inside made of a student, or leave there the error that ended them.

    Raises:
        DataError: They left nothing here.
    """
    directory = context.run.student(member.id)
    (directory / ERROR).unlink(missing_ok=True)
    try:
        yield
        if not is_finished(context, member):
            raise DataError(
                f"{directory} holds nothing that its ranks finished, though they ended",
                expected="the same files on every node",
                action="mount the same shared file system on every node",
            )
    except UkdError as error:
        leave_error(directory, error)
        raise


def student_inputs(run: RunDirectory, member: StudentMember) -> dict[str, str]:
    """Digests of what a student learns from.

    Raises:
        DataError: Its target is not there, or a teacher that it keeps in memory.
    """
    initial = initial_inputs(run, member.settings, run.student(member.id))
    inputs = {"shards": shards_digest(run), **initial, **weights_digests(run, member)}
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
    """One rank's part in an attempt at a student; rank 0 writes (called on every rank)."""
    run, member, settings = RunDirectory(work.root), work.member, work.member.settings
    attempt = attempt_directory(run.student(member.id), work.attempt)
    device = prepare_device(settings, int(os.environ["LOCAL_RANK"]))
    shards = open_to_decode(run.shards, work.cluster.shard_cache)
    inputs = student_inputs(run, member)
    model = build_network(settings, len(shards.classes))
    load_initial(model, run, settings)
    engine = DeepSpeedEngine(model, build_optimizer(settings, model), device, settings)
    if engine.rank == 0:
        config = json.dumps(deepspeed_config(settings, engine.ranks), indent=1) + "\n"
        manifest.write_atomically(attempt / DEEPSPEED, config.encode())
    recorder = Recorder(run.metrics, run=work.run_name, stage="distill", member=member.id, rank=engine.rank)
    with recorder, ExitStack() as stack:
        supervision = Supervision(
            checkpoint_steps=work.cluster.checkpoint_steps,
            checkpoints_kept=work.cluster.checkpoints_kept,
            other_ranks=work.other_ranks,
        )
        if engine.rank == 0:
            # SIGTERM may end the others at once, and this one should not wait for them.
            heart = stack.enter_context(Heart(attempt, current_node(), settings.epochs, heeds_sigterm=False))
            kept = work.cluster.checkpoints_kept
            checkpoints = Checkpoints(attempt / CHECKPOINTS, resolved(settings), inputs, kept)
            heart.begin(checkpoints.take_over(earlier_checkpoints(attempt)))
            supervision = supervision.watched_by(heart)
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
            directory=attempt,
            inputs=inputs,
            recorder=recorder,
            supervision=supervision,
        )
    if engine.rank == 0:
        save_weights(model, attempt / WEIGHTS)
        manifest.commit(attempt, "student", resolved(settings), inputs, [WEIGHTS, HISTORY, DEEPSPEED])
