"""The teachers whose logits a stage reads: trained here or imported, finished, of these shards."""

from __future__ import annotations

from collections.abc import Sequence

from ukd_dist import manifest
from ukd_dist.data.knowledge import LOGITS, logits_name, open_finished
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.errors import DataError
from ukd_dist.experiment import resolved
from ukd_dist.manifest import Manifest
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.blocks import Opinion
from ukd_dist.stages.context import Context
from ukd_dist.stages.imports import read_imported
from ukd_dist.stages.initial import teacher_inputs


def finished_teachers(
    context: Context, teachers: Sequence[str], whose: str, shards: str, *, some: bool = False
) -> dict[str, Manifest]:
    """The manifest of each teacher that is finished.

    Args:
        context: Whose experiment and root.
        teachers: Ids.
        whose: Who needs them, for messages.
        shards: Digest of the shards.
        some: Members of the fleet may be missing where `teachers.quorum` of them are finished.

    Raises:
        DataError: One is not finished that may not be missing, or none is; names it and how to make it.
        MismatchError: One is of other shards or settings.
    """
    members = {member.id: member for member in context.experiment.teachers}
    enough, manifests = some and is_quorum(context), dict[str, Manifest]()
    for teacher in teachers:
        directory = context.run.teacher(teacher)
        if teacher in members:
            settings = resolved(members[teacher].settings)
            inputs = teacher_inputs(context.run, members[teacher], shards)
            found = manifest.finished(directory, "teacher", settings, inputs)
        else:
            found = read_imported(directory, shards)
        if found is not None:
            manifests[teacher] = found
        elif not enough or teacher not in members:
            raise _unfinished(teacher, whose, teacher in members)
    if not manifests:
        raise _unfinished(teachers[0], whose, trained=True)
    return manifests


def is_quorum(context: Context) -> bool:
    """Whether so many members of the fleet are finished that others may be missing."""
    teachers, quorum = context.experiment.teachers, context.experiment.quorum
    if quorum == len(teachers):
        return False
    return sum((context.run.teacher(t.id) / manifest.FILENAME).is_file() for t in teachers) >= quorum


def _unfinished(teacher: str, whose: str, trained: bool) -> DataError:
    way = "train it with `ukd teach`" if trained else "bring it in with `ukd logits import`"
    return DataError(
        f"{whose} needs teacher {teacher}, which is not finished",
        expected="every teacher that it selects",
        action=f"{way}, or take it out of the experiment",
    )


def open_opinions(
    run: RunDirectory,
    teachers: Sequence[str],
    shards: ShardSet,
    split: SplitName = "train",
    *,
    out_of_fold: bool = False,
) -> tuple[Opinion, ...]:
    """What finished teachers say of a split; `out_of_fold`: of the rows that they were not trained on.

    Raises:
        DataError: A file is missing, damaged or altered, or has another class count.
        MismatchError: It speaks of other rows.
    """
    rows, name, num_classes = shards.rows[split], logits_name(split), len(shards.classes)
    return tuple(
        Opinion(open_finished(run.teacher(teacher), name, LOGITS, rows, split, num_classes), out_of_fold)
        for teacher in teachers
    )
