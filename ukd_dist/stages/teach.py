"""The fleet: every teacher that is not finished is trained by a Ray task or a group of ranks.

A job trains a teacher and writes its logits. It is one numbered attempt (`attempts.py`): it goes on from the
newest checkpoint of those before it, and what it made is committed by the coordinator (`members.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.cluster_config import Resources
from ukd_dist.errors import IncompleteError, TrainingError, UkdError
from ukd_dist.experiment import TeacherMember, resolved
from ukd_dist.initial import generations, parent_of
from ukd_dist.stages.commits import drop_attempts, finish_interrupted
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.stages.initial import changed, directory_of, prepare_each, teacher_inputs
from ukd_dist.stages.keeping import keep_of, keep_only
from ukd_dist.stages.members import Member, Members
from ukd_dist.stages.teacher_attempt import Work, train_teacher


def teach(context: Context) -> None:
    """Train every teacher that is not trained, and write its logits.

    Raises:
        IncompleteError: Some teachers failed, but as many as `teachers.quorum` says are finished.
        TrainingError: More failed; the others are finished.
        MismatchError: A teacher was trained on other shards, or began with another checkpoint.
    """
    experiment, begun = context.experiment, 0
    failed: dict[str, UkdError] = {}
    known = {member.id: member for member in experiment.teachers}
    order = generations({id_: member.settings.init for id_, member in known.items()})
    _drop_stale(context, [known[id_] for generation in order for id_ in generation])
    _keep_only(context)  # `keep` may be another since, or its coordinator was killed
    for generation in order:
        members = _unfinished(context, [known[id_] for id_ in generation], failed)
        begun += len(members)
        failed |= _train_all(context, [member for member in members if member.id not in failed])
    _keep_only(context)  # weights for which others waited that have started
    if failed:
        raise _missing(failed, begun, len(experiment.teachers), experiment.quorum)


def _keep_only(context: Context) -> None:
    """Drop what is not to be kept of every finished teacher."""
    for member in context.experiment.teachers:
        keep_only(
            context.run.teacher(member.id),
            keep_of(context.run, context.experiment, member.id, context.waiting),
        )


def _drop_stale(context: Context, members: Sequence[TeacherMember]) -> None:
    """Compare finished teachers with what they were made of, before any is trained.

    With `replace` those of other shards or of another checkpoint go, and whoever starts from them: parents
    then keep their weights for children, and initial weights are made for all that are to be trained.

    Args:
        context: Whose root.
        members: Parents before children.

    Raises:
        MismatchError: There is one, and `replace` was not asked for.
    """
    run, again = context.run, set[str]()
    finished = {m.id: m.settings for m in members if manifest.read(run.teacher(m.id)) is not None}
    if not finished:
        return
    digest, others = shards_digest(run), changed(context, finished.values())
    for member in members:
        directory, initial = run.teacher(member.id), directory_of(run, member.settings)
        if parent_of(member.settings.init) in again:
            manifest.drop(directory)
            manifest.drop(initial)
        elif initial in others:
            manifest.drop(directory)
        elif member.id not in finished or _is_finished(context, member, digest):
            continue
        again.add(member.id)


def _unfinished(
    context: Context, generation: Sequence[TeacherMember], failed: dict[str, UkdError]
) -> list[TeacherMember]:
    """Those of a generation that are to be trained, their initial weights being made.

    Whose parent failed, or whose checkpoint is no good, joins the failed.
    """
    digest = shards_digest(context.run)
    begun = [m for m in generation if manifest.read(context.run.teacher(m.id)) is None]
    for member in begun:
        if (parent := parent_of(member.settings.init)) in failed:
            failed[member.id] = _orphan(member.id, parent, failed[parent])
    failed |= prepare_each(context, [member for member in begun if member.id not in failed])
    return [m for m in generation if m.id in failed or not _is_finished(context, m, digest)]


def _train_all(context: Context, members: Sequence[TeacherMember]) -> dict[str, UkdError]:
    """Train members at once; returns why each was set aside that was."""
    if not members:
        return {}
    runner = Members(context.cluster, 60 * context.experiment.hang_minutes)
    epochs = sum(member.settings.epochs for member in members)
    with context.progress.bar("teachers", epochs, "epochs") as bar:
        failed = runner.run(
            [_member(context, member) for member in members], lambda: bar.update(runner.epochs)
        )
        bar.update(runner.epochs)
    return failed


def _member(context: Context, member: TeacherMember) -> Member:
    run, experiment = context.run, context.experiment
    settings = experiment.cluster
    seconds = 60 * settings.checkpoint_minutes
    work = Work(run.root, experiment.name, member, settings.shard_cache, seconds, settings.checkpoints_kept)

    def job(number: int, resources: Resources) -> Job:
        # Not Ray starts it again but the coordinator, under the next number.
        return Job(
            member.id, train_teacher, (work, number), resources, fresh_process=True, retries=0, ranks=ranks
        )

    keep, ranks = keep_of(run, experiment, member.id, context.waiting), member.settings.workers
    return Member(member.id, run.teacher(member.id), member.settings.resources, job, keep, ranks)


def _orphan(member: str, parent: str, error: UkdError) -> TrainingError:
    """What is said of a teacher whose parent has no weights."""
    return TrainingError(
        f"{member} starts from {parent}, which failed ({error.problem})",
        expected=error.expected,
        action=error.action,
    )


def _missing(failed: dict[str, UkdError], begun: int, members: int, quorum: int) -> TrainingError:
    """What is said of teachers that were set aside; whether the run may go on is the error's kind."""
    (first, error), finished = next(iter(failed.items())), members - len(failed)
    again = f"{error.action.removesuffix(', and run again')}, and run again"
    problem = f"{len(failed)} of {begun} teachers failed, first {first}: {error.problem}"
    if finished < quorum:
        action = f"{again}: the others are kept"
        return TrainingError(problem, expected=error.expected, action=action)
    return IncompleteError(
        f"{problem}; missing: {', '.join(failed)}",
        expected=f"all {members}, though {quorum} are enough for targets (teachers.quorum)",
        action=f"{again}: targets were made without the missing",
    )


def _is_finished(context: Context, member: TeacherMember, shards: str) -> bool:
    """Whether a teacher is finished, by an attempt of an earlier coordinator if need be."""
    directory, settings = context.run.teacher(member.id), resolved(member.settings)
    inputs = teacher_inputs(context.run, member, shards)
    if context.finished(directory, "teacher", settings, inputs):
        drop_attempts(directory)
        return True
    return finish_interrupted(directory, "teacher", settings, inputs)
