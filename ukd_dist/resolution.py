"""From an experiment file to an experiment.

A file is read, overridden by `a.b=value`, validated whole, and its grids are expanded, before anything runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ukd_dist.agreement import (
    check_folds,
    check_init,
    check_modalities,
    check_place,
    check_view,
    common_views,
)
from ukd_dist.config import Expandable, ExperimentFile, Teachers
from ukd_dist.data_config import Data, Folds
from ukd_dist.document import read_document
from ukd_dist.errors import UsageError
from ukd_dist.evaluation_names import check_fusion, check_published
from ukd_dist.expansion import expand, validate
from ukd_dist.experiment import Experiment, StudentMember, TargetMember, TeacherMember, content, digest
from ukd_dist.initial import with_absolute_path
from ukd_dist.selection import check_selection, online_teachers, selected
from ukd_dist.target_config import Combination, Target
from ukd_dist.training_config import NO_TARGETS, ONLINE, Student, Teacher

AnyExpandable = TypeVar("AnyExpandable", bound=Expandable)


def load(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read, override, validate and expand an experiment file.

    Args:
        path: The YAML file.
        overrides: `a.b=value` each, the value in YAML; numbers index lists.

    Raises:
        UsageError: The file is missing or not YAML, a key is unknown, a value is out of range, or settings
            contradict each other.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"experiment {path}: {error.strerror}",
            expected="a YAML file",
            action="give the path of one (see launch/experiments)",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not YAML: {error.reason}",
            expected="text in UTF-8",
            action="give the path of an experiment (see launch/experiments)",
        ) from error
    return parse(text, str(path), overrides or [])


def parse(text: str, where: str, overrides: list[str]) -> Experiment:
    """As `load`, from the file's text; `where` names it in messages."""
    return _resolve(read_document(text, where, overrides), where)


def _resolve(document: dict[str, Any], where: str) -> Experiment:
    file = validate(ExperimentFile, document, where, ())
    file = file.model_copy(
        update={
            "teachers": _with_absolute_init(file.teachers, "fleet"),
            "students": _with_absolute_init(file.students, "runs"),
        }
    )
    data = _with_absolute_paths(file.data)
    inherited = {"seed": file.seed, "clip": data.clip.model_dump()}
    views = {"views": data.views.model_dump()}
    teachers = tuple(
        _teacher(t, data.folds, where)
        for t in expand(
            Teacher, file.teachers.fleet, file.teachers.defaults, inherited | views, where, "teachers.fleet"
        )
    )
    _refuse_twins([t.id for t in teachers], where, "teachers.fleet")
    fleet = {t.id: t.settings for t in teachers}
    imported = file.teachers.imported
    _refuse_twins([*fleet, *imported], where, "teachers")
    targets = {n: target_member(n, target, fleet, imported, where) for n, target in file.targets.items()}
    runs = expand(Student, file.students.runs, file.students.defaults, inherited, where, "students.runs")
    students = tuple(student_member(run, targets, fleet, where) for run in runs)
    _refuse_twins([s.id for s in students], where, "students.runs")
    trainings: list[Teacher | Student] = [*fleet.values(), *runs]
    check_modalities(data, trainings, where)
    check_place(data, file.cluster, where)
    check_init(file.root.absolute(), fleet, imported, runs, where)
    check_fusion(file.evaluate, trainings, [*fleet, *(s.id for s in students)], where)
    check_published(file.evaluate, trainings, data.split_names, where)
    whole = file.model_copy(update={"data": data, "root": file.root.absolute()})
    return Experiment(
        name=file.name,
        root=whole.root,
        data=data,
        teachers=teachers,
        targets=tuple(targets.values()),
        students=students,
        imported=imported,
        keep=file.teachers.keep,
        evaluate=file.evaluate,
        cluster=file.cluster,
        document=whole.model_dump(mode="json"),
        quorum=_quorum(file.teachers, len(teachers), where),
        hang_minutes=file.teachers.hang_minutes,
        study=file.study,
    )


def _quorum(settings: Teachers, members: int, where: str) -> int:
    """How many members must be finished before targets are made."""
    if settings.quorum is None:
        return members
    if isinstance(settings.quorum, float):
        return math.ceil(settings.quorum * members - 1e-9)  # 0.7 of 10 are 7, whatever floats make of it
    if settings.quorum > members:
        raise UsageError(
            f"{where}: teachers.quorum is {settings.quorum}, and the fleet has {members} members",
            expected="at most all of them",
            action="lower it",
        )
    return settings.quorum


def _with_absolute_paths(data: Data) -> Data:
    splits = {
        name: split.model_copy(update={"train": split.train.absolute(), "test": split.test.absolute()})
        for name, split in data.splits.items()
    }
    videos, classes = data.videos and data.videos.absolute(), data.classes and data.classes.absolute()
    known = {"videos": videos, "classes": classes, "shards": _absolute(data.shards), "splits": splits}
    return data.model_copy(update=known)


def _with_absolute_init(members: AnyExpandable, section: str) -> AnyExpandable:
    """Absolute paths of the files that members start from, in the defaults and entries of a section."""
    entries = [with_absolute_path(entry) for entry in getattr(members, section)]
    return members.model_copy(update={"defaults": with_absolute_path(members.defaults), section: entries})


def _absolute(shards: str | None) -> str | None:
    return shards if shards is None or shards.startswith("s3://") else str(Path(shards).absolute())


def target_member(
    name: str, target: Target, fleet: Mapping[str, Teacher], imported: tuple[str, ...], where: str
) -> TargetMember:
    """A target with its id and the teachers that it selects.

    Args:
        name: Its name.
        target: Its settings.
        fleet: Teachers that are trained here, by id.
        imported: Ids of the others.
        where: Names the file in messages.

    Raises:
        UsageError: It selects nobody or too many, or its teachers do not go together.
    """
    check_selection(target.teachers, fleet, imported, f"{where}: targets.{name}.teachers")
    ids, everyone = selected(target.teachers, fleet, imported), [*fleet, *imported]
    if not ids or (target.method == "single" and len(ids) > 1):
        raise UsageError(
            f"{where}: targets.{name}.teachers selects {len(ids)} of {len(everyone)} teachers",
            expected="exactly one, since the method is single" if ids else "at least one",
            action=f"select among {', '.join(everyone[:5])}{', ...' * (len(everyone) > 5)}",
        )
    known = {id_: fleet[id_] for id_ in ids if id_ in fleet}
    unknown = [id_ for id_ in ids if id_ not in fleet]
    if not unknown:  # of imported teachers only their logits tell what they were trained on
        check_folds(name, target, known.values(), where)
    views = common_views(name, known, unknown, where)
    own = target.model_dump(mode="json", exclude_defaults=True, exclude={"teachers"})
    return TargetMember(f"{name}-{digest(own, sorted(ids))}", name, target, ids, views)


def _teacher(settings: Teacher, folds: Folds | None, where: str) -> TeacherMember:
    settings = settings.model_copy(update={"folds": _folds_of(settings, folds, where)})
    fold = "" if settings.fold is None else f"-f{settings.fold}"
    name = f"{settings.name}-s{settings.seed}{fold}"
    return TeacherMember(f"{name}-{digest(content(settings))}", settings)


def _folds_of(settings: Teacher, folds: Folds | None, where: str) -> Folds | None:
    """The data's folds for a teacher that leaves one out, which its id and manifests then depend on."""
    teacher = f"{where}: teacher {settings.arch}-{settings.modality}-s{settings.seed}"
    if settings.folds not in (None, folds):
        raise UsageError(
            f"{teacher} has folds of its own",
            expected="those of data.folds, the same for every teacher",
            action="remove its folds",
        )
    if settings.fold is None:
        return None
    if folds is None:
        raise UsageError(
            f"{teacher} leaves out fold {settings.fold}, but there is no data.folds",
            expected="data.folds, for example {count: 5}",
            action="add data.folds, or remove its fold",
        )
    if settings.fold >= folds.count:
        raise UsageError(
            f"{teacher} leaves out fold {settings.fold}, but data.folds.count is {folds.count}",
            expected=f"a fold from 0 to {folds.count - 1}",
            action="correct its fold, or raise data.folds.count",
        )
    return folds


def student_member(
    run: Student, targets: Mapping[str, TargetMember], fleet: Mapping[str, Teacher], where: str
) -> StudentMember:
    """A student with its id, its target and its teachers.

    Args:
        run: Its settings.
        targets: The targets that there are, by name.
        fleet: Teachers that are trained here, by id.
        where: Names the file in messages.

    Raises:
        UsageError: Its target is not there, or it does not go with its teachers.
    """
    teachers: tuple[str, ...] = ()
    if run.targets == ONLINE:
        teachers = online_teachers(run, fleet, where)
        run = run.model_copy(update={"weighting": run.weighting or Combination(method="pkd")})
    elif run.targets != NO_TARGETS and run.targets not in targets:
        raise UsageError(
            f"{where}: student '{run.name}' learns from unknown targets '{run.targets}'",
            expected=f"one of {', '.join([NO_TARGETS, ONLINE, *targets])}",
            action="correct it, or add that target",
        )
    target = targets.get(run.targets)
    if combination := target.settings if target else run.weighting:
        run = run.model_copy(update={"temperature": _temperature(run, combination, where)})
    if target is not None:
        check_view(run, target.views, {t: fleet[t] for t in target.teachers if t in fleet}, where)
    suffix = digest(content(run), target.id if target else sorted(teachers) or None)
    return StudentMember(f"{run.name}-s{run.seed}-{suffix}", run, target, teachers)


def _temperature(run: Student, combination: Combination, where: str) -> float:
    """The student's, or that of the probabilities that are combined for it."""
    own = combination.temperature
    if own is not None and run.temperature not in (None, own):
        raise UsageError(
            f"{where}: student '{run.name}' has temperature {run.temperature:g}, its target {own:g}",
            expected="the target's, since probabilities are combined at one temperature",
            action="remove the student's",
        )
    tau = own or run.temperature
    if tau is None:
        raise UsageError(
            f"{where}: student '{run.name}' has no temperature",
            expected="tau > 0 (UKD's Table 2 uses 20)",
            action="give it one",
        )
    return tau


def _refuse_twins(ids: list[str], where: str, section: str) -> None:
    for twin, count in Counter(ids).items():
        if count > 1:
            raise UsageError(
                f"{where}: {section} holds {twin} twice",
                expected="members that differ",
                action="give each a seed",
            )
