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


def finished_teachers(
    context: Context, teachers: Sequence[str], whose: str, shards: str
) -> dict[str, Manifest]:
    """The manifest of each teacher.

    Args:
        context: Whose experiment and root.
        teachers: Ids.
        whose: Who needs them, for messages.
        shards: Digest of the shards.

    Raises:
        DataError: One is not finished; names it and how to make it.
        MismatchError: One is of other shards or settings.
    """
    members = {member.id: member for member in context.experiment.teachers}
    manifests = {}
    for teacher in teachers:
        directory, way = context.run.teacher(teacher), "train it with `ukd teach`"
        if teacher in members:
            settings = resolved(members[teacher].settings)
            found = manifest.finished(directory, "teacher", settings, {"shards": shards})
        else:
            found, way = read_imported(directory, shards), "bring it in with `ukd logits import`"
        if found is None:
            raise DataError(
                f"{whose} needs teacher {teacher}, which is not finished",
                expected="every teacher that it selects",
                action=f"{way}, or take it out of the experiment",
            )
        manifests[teacher] = found
    return manifests


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
