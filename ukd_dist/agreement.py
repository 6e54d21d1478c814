"""What the parts of an experiment must agree on, beyond what each of them may say by itself.

Of views: a teacher's logits speak of the frames, crop and flip that it saw. The teachers of one target must
have seen the same, and a student that gets a target for each view must see exactly that view. Of folds,
modalities, first weights and shards from a store: what one part names, another must have.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.clip_config import Clip, Views
from ukd_dist.cluster_config import Cluster
from ukd_dist.data_config import Data
from ukd_dist.errors import DataError, UsageError
from ukd_dist.initial import FORMS, file_of, parent_of
from ukd_dist.target_config import Target
from ukd_dist.training_config import Student, Teacher, Training


def common_views(target: str, teachers: Mapping[str, Teacher], imported: Sequence[str], where: str) -> Views:
    """What all teachers of a target saw, as far as it is known; the centre where nothing is.

    Args:
        target: Name of the target.
        teachers: Those of its teachers whose settings are known, by id.
        imported: Ids of the others, whose logits have one row of classes a video.
        where: Names the file in messages.

    Raises:
        UsageError: Two of them saw different views.
    """
    if not teachers:
        return Views()
    (first, expected), *others = ((teacher, settings.views) for teacher, settings in teachers.items())
    for teacher, views in others:
        if views != expected:
            raise UsageError(
                f"{where}: target '{target}' mixes views: teacher {first} sees {expected.name}, "
                f"teacher {teacher} {views.name}",
                expected="the same views of all its teachers",
                action="give them the same views, or let data.views hold for all",
            )
    if imported and expected.kind == "random":
        raise UsageError(
            f"{where}: target '{target}' mixes views: teacher {first} sees {expected.name}, "
            f"and the logits of {imported[0]} speak of a video as a whole",
            expected="the same views of all its teachers",
            action="select among them, or change data.views.kind to centre or mean",
        )
    return expected


def check_view(student: Student, views: Views, teachers: Mapping[str, Teacher], where: str) -> None:
    """Refuse a student that would not see what its target speaks of.

    Args:
        student: A student with a target.
        views: What the target's teachers saw.
        teachers: They, by id, but the imported ones.
        where: Names the file in messages.

    Raises:
        UsageError: It sees free crops, but there is a target for each view; or it is to see stored views that
            nobody knows, that are averaged, or that were taken with another clip.
    """
    if student.view == "free":
        if views.kind == "random":
            raise UsageError(
                f"{where}: student '{student.name}' sees free crops, and target '{student.targets}' speaks "
                f"of {views.count} stored views of a video, each by itself ({views.name})",
                expected="view: stored",
                action="set it, or change data.views.kind to centre or mean",
            )
        return
    if not teachers:
        raise UsageError(
            f"{where}: student '{student.name}' is to see stored views, and every teacher of target "
            f"'{student.targets}' is imported",
            expected="teachers whose views are known",
            action="set view: free",
        )
    if views.kind == "mean":
        raise UsageError(
            f"{where}: student '{student.name}' is to see stored views, and target '{student.targets}' holds "
            f"their mean only ({views.name})",
            expected="logits of single views",
            action="set view: free, or change data.views.kind to random or centre",
        )
    check_clips(student, teachers, "with view: stored", "set view: free", where)


def check_clips(
    student: Student, teachers: Mapping[str, Teacher], when: str, otherwise: str, where: str
) -> None:
    """Refuse a student that is to see what its teachers see, and takes other clips.

    Args:
        student: The student.
        teachers: Its teachers, by id.
        when: Where clips have to be equal, for the message.
        otherwise: What may be done instead.
        where: Names the file in messages.

    Raises:
        UsageError: A clip differs; names the first field.
    """
    for teacher, settings in teachers.items():
        for field in Clip.model_fields:
            own, theirs = getattr(student.clip, field), getattr(settings.clip, field)
            if own != theirs:
                raise UsageError(
                    f"{where}: student '{student.name}' takes other clips than its teacher {teacher}: its "
                    f"clip.{field} is {own}, the teacher's {theirs}",
                    expected=f"equal clips {when}",
                    action=f"give both the same clip.{field}, or {otherwise}",
                )


def check_folds(name: str, target: Target, teachers: Collection[Teacher], where: str) -> None:
    """Refuse a target out of fold that would leave rows without a teacher.

    Raises:
        UsageError: No teacher leaves out some fold.
    """
    if target.rows != "out_of_fold":
        return
    left_out = {teacher.fold for teacher in teachers}
    count = next((teacher.folds.count for teacher in teachers if teacher.folds), 0)
    missing = [fold for fold in range(count) if fold not in left_out]
    if missing or not count:
        what = f"leaves out fold {', '.join(map(str, missing))}" if count else "leaves a fold out"
        raise UsageError(
            f"{where}: targets.{name} is out_of_fold, but no teacher that it selects {what}",
            expected="for every fold of data.folds a teacher that was not trained on it",
            action="give the teachers `grid: {fold: [0, 1, ...]}` over all folds, or set rows: all",
        )


def check_modalities(data: Data, trainings: Sequence[Training], where: str) -> None:
    """Refuse a network of a modality that is not sharded.

    Raises:
        UsageError: There is one; names the first.
    """
    for training in trainings:
        if training.modality not in data.modalities:
            raise UsageError(
                f"{where}: {training.arch} sees modality '{training.modality}', which is not sharded",
                expected=f"one of data.modalities {list(data.modalities)}",
                action=f"add {training.modality} to data.modalities",
            )


def check_place(data: Data, cluster: Cluster, where: str) -> None:
    """Refuse shards in an object store that no node has a folder for.

    There is no default: a copy takes as much room as the shards, and the system's temporary folder may be
    small, or in memory.

    Raises:
        UsageError: There is none.
    """
    if data.shards and data.shards.startswith("s3://") and cluster.shard_cache is None:
        raise UsageError(
            f"{where}: data.shards is {data.shards}, and there is no cluster.shard_cache",
            expected="a folder on every node's own disk with room for a copy of the shards",
            action="set cluster.shard_cache",
        )


def check_init(
    root: Path, fleet: Mapping[str, Teacher], imported: Sequence[str], students: Sequence[Student], where: str
) -> None:
    """Refuse teachers that start from what has no weights for them, and students that start from a teacher's.

    Whether a parent that is not of the fleet is there, `stages.initial.check_parents` knows.

    Args:
        root: The run directory.
        fleet: The teachers that are trained, by id.
        imported: Ids of those from elsewhere, which have no weights.
        students: The students.
        where: Names the file in messages.

    Raises:
        UsageError: There is such a member; names the first.
    """
    for id_, teacher in fleet.items():
        parent = parent_of(teacher.init)
        if parent in fleet and fleet[parent].arch != teacher.arch:
            raise UsageError(
                f"{where}: teacher {id_} starts from {parent}, which is a {fleet[parent].arch}",
                expected=f"another {teacher.arch}",
                action="give it the same arch",
            )
        if parent in imported:
            raise UsageError(
                f"{where}: teacher {id_} starts from the imported {parent}, which has no weights",
                expected="a teacher that was trained here",
                action=f"give it another init: {FORMS}",
            )
    for student in students:
        if (path := file_of(student.init)) and _is_of_a_teacher(path, root):
            raise UsageError(
                f"{where}: student '{student.name}' starts from the teacher's file {path}",
                expected="weights that are no teacher's: a student learns from targets alone",
                action="give it init: kinetics400, or the file of a student",
            )


def _is_of_a_teacher(path: Path, root: Path) -> bool:
    """Whether a file is a teacher's or was made of one's, of this run or another, by whatever way to it."""
    file, home = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    for folder in file.parents:
        run = folder.parent
        if folder.name == "teachers" and (run.is_relative_to(home) or (run / "experiment.yaml").is_file()):
            return True
    with suppress(DataError, OSError):  # no manifest of ours
        if found := manifest.read(file.parent):
            return found.kind == "teacher" or bool(parent_of(str(found.settings.get("init", ""))))
    return False
