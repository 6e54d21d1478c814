"""One student whose ranks torchrun or DeepSpeed's launcher started: no Ray.

Rank 0 is the root's coordinator. It holds the lock, finds out whether there is anything to do, tells the
others, who wait for that, and commits; training itself is `distill.py`'s. A lost rank ends all of them and is
the launcher's affair: started again, they go on from the last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from torch import distributed

from ukd_dist.cluster_config import Cluster
from ukd_dist.errors import UkdError, UsageError
from ukd_dist.experiment import Experiment, StudentMember
from ukd_dist.rundir import leave_error
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import (
    Work,
    committing,
    needs_training,
    new_work,
    ranks_of,
    train_student,
)
from ukd_dist.stages.online import require_weights
from ukd_dist.training.setup import prepare_device
from ukd_dist.training_config import Student


def student_named(experiment: Experiment, name: str) -> StudentMember:
    """The student of that name or id.

    Raises:
        UsageError: There is none, or several seeds have the name.
    """
    found = [student for student in experiment.students if name in (student.settings.name, student.id)]
    if len(found) != 1:
        candidates = found or experiment.students
        raise UsageError(
            f"{len(found)} students are called '{name}'",
            expected=f"one of {', '.join(student.id for student in candidates)}",
            action="name it by its id",
        )
    return found[0]


@contextmanager
def joined(settings: Student, cluster: Cluster, workers: int | None = None) -> Iterator[int]:
    """This process's rank among those that the launcher started, with torch.distributed between them.

    Args:
        settings: The student's.
        cluster: How ranks talk.
        workers: Ranks in place of its own `workers`.

    Raises:
        UsageError: They are not as many as the student's `workers`, no launcher started this process, or it
            cannot find the others.
    """
    world_size, local_rank = _told("WORLD_SIZE"), _told("LOCAL_RANK")
    expected = settings.workers if workers is None else workers
    if world_size != expected:
        raise UsageError(
            f"{world_size} ranks were started for student '{settings.name}'",
            expected=f"{expected}, as its `workers` say: another number trains another student",
            action=f"start so many, or go on with others by --workers {world_size}",
        )
    _refuse_stale_addresses()
    # Where DeepSpeed's launcher sets it, gradients are added in another order than by gloo under Ray.
    os.environ.pop("LOCAL_SIZE", None)
    prepare_device(settings, local_rank)
    os.environ.update(cluster.rank_environment)
    timeout = timedelta(minutes=cluster.rank_timeout_minutes)
    distributed.init_process_group("nccl" if settings.resources.gpus else "gloo", timeout=timeout)
    yield distributed.get_rank()
    distributed.destroy_process_group()  # not after an error: others may wait in it


def lead(coordinating: AbstractContextManager[Context], member: StudentMember) -> None:
    """Rank 0's part: train a student that is not finished, together with those that `follow`.

    Args:
        coordinating: Holds the root.
        member: The student.

    Raises:
        BusyError: Another coordinator holds the root.
        UkdError: What stopped the training. Every rank raises what it is before it has begun.
    """
    with ExitStack() as stack:
        try:
            context = stack.enter_context(coordinating)
            unfinished = needs_training(context, member)
            if unfinished:
                require_weights(context.run, member)
        except UkdError as error:
            _from_rank_0(error)
            raise
        if not unfinished:
            _from_rank_0(None)
            context.progress.say(f"student {member.id}: nothing to do, done already")
            return
        with committing(context, member):
            ranks, work = ranks_of(context, member), new_work(context, member)
            context.progress.say(f"student {member.id}: attempt {work.attempt}, {ranks} ranks")
            _from_rank_0(work)
            train_student(work)
        context.progress.say(f"student {member.id}: done")


def follow(student: Path) -> None:
    """Any other rank's part; an error that it meets is left in the student's directory.

    Raises:
        UkdError: What stopped rank 0 before the training, or this rank in it.
    """
    told = _from_rank_0(None)
    if isinstance(told, UkdError):
        raise told
    if told is None:
        return
    try:
        train_student(told)
    except UkdError as error:
        leave_error(student, error)
        raise


def _from_rank_0(word: Work | UkdError | None) -> Work | UkdError | None:
    """Rank 0's `word`, on every rank: the attempt to make, why there is none, or None where all is done."""
    words = [word]
    distributed.broadcast_object_list(words, src=0)
    return words[0]


def _refuse_stale_addresses() -> None:
    """Refuse what would end in a time-out: ranks that torchrun restarted and that look for those before them.

    So it is since torch 2.5, https://github.com/pytorch/pytorch/issues/135712.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    if shared and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        raise UsageError(
            "torchrun restarted its ranks with the addresses of the ones before them",
            expected="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is started with --max-restarts",
            action="run the same command again: it goes on from the last checkpoint",
        )


def _told(name: str) -> int:
    """A number that a launcher leaves in its processes' environment."""
    try:
        return int(os.environ[name])
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{name} is not set",
            expected="a rank that a launcher started",
            action="start it with torchrun or deepspeed, or train with `ukd distill`",
        ) from error
