"""The study over the number of teachers: which targets and students it is made of.

Every student has the recipe of one student of the experiment. One learns from labels alone; others from the
stored target of K teachers; and, while K is small, as many are kept in memory instead. A repeat has its own
order of the teachers, in which the K of a smaller target are the first of a larger one's, and its own seed.
An id says nothing of repeats or other numbers of teachers, so a longer study goes on with what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment, StudentMember, TargetMember
from ukd_dist.manifest import write_atomically
from ukd_dist.resolution import student_member, target_member
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling_config import Rows
from ukd_dist.target_config import Combination, Selection, Target
from ukd_dist.training_config import NO_TARGETS, ONLINE, Student, Teacher

Fleet = Mapping[str, Teacher]  # by id

UNDISTILLED, STORED = "none", "stored"
_PREFIX = "study-k"  # of the names of targets and students
_BEGUN = "study_begun"  # in report/


@dataclass(frozen=True)
class Point:
    """One student of the study.

    Attributes:
        way: none: no distillation; stored: from a stored target; online: from teachers in memory.
        rows: Which rows a stored target's teachers are heard on; of others `all`.
        count: K: teachers that a video is taught by, 0 without distillation.
        repeat: Number of the repeat, from 0.
        teachers: Ids of all of its teachers; out of fold there are K for each fold.
        student: The student.
    """

    way: str
    rows: Rows
    count: int
    repeat: int
    teachers: tuple[str, ...]
    student: StudentMember


def points(experiment: Experiment) -> list[Point]:
    """All students of the study: repeat by repeat, without distillation first, then by K; online ones last.

    Raises:
        UsageError: There is no such run, or there are not so many teachers.
    """
    recipe, fleet = _recipe(experiment), {member.id: member.settings for member in experiment.teachers}
    repeats = range(experiment.study.repeats)
    stored = (
        point
        for repeat in repeats
        for point in (
            _undistilled(recipe.settings, repeat),
            *_distilled(experiment, recipe, fleet, repeat),
        )
    )
    return [*stored, *(point for repeat in repeats for point in _online(experiment, recipe, fleet, repeat))]


def studying(experiment: Experiment) -> Experiment:
    """The experiment with the study's targets and students in place of its own, and no fusions.

    Raises:
        UsageError: As `points`.
    """
    students = [point.student for point in points(experiment)]
    targets = {student.target.id: student.target for student in students if student.target}
    evaluate = experiment.evaluate.model_copy(update={"fusion": {}})
    return replace(experiment, targets=tuple(targets.values()), students=tuple(students), evaluate=evaluate)


def with_study(experiment: Experiment) -> Experiment:
    """The experiment with the study's targets and students beside its own.

    Raises:
        UsageError: As `points`.
    """
    study = studying(experiment)
    return replace(
        experiment,
        targets=(*experiment.targets, *study.targets),
        students=(*experiment.students, *study.students),
    )


def begin(run: RunDirectory) -> None:
    """Note in a run directory that its study is begun."""
    write_atomically(run.report / _BEGUN, b"")


def is_begun(run: RunDirectory) -> bool:
    """Whether the study of a run was begun."""
    return (run.report / _BEGUN).is_file()


def as_begun(run: RunDirectory, experiment: Experiment) -> Experiment:
    """`with_study` where the study was begun and its settings are still possible, else the experiment."""
    with suppress(UsageError):
        return with_study(experiment) if is_begun(run) else experiment
    return experiment


def _recipe(experiment: Experiment) -> StudentMember:
    name = experiment.study.student
    distilled = [student for student in experiment.students if student.target]
    for student in distilled:
        if name in (None, student.settings.name):
            return student
    raise UsageError(
        f"study.student {name} is no run that learns from a stored target"
        if name
        else "no student learns from a stored target",
        expected=f"one of {', '.join(dict.fromkeys(s.settings.name for s in distilled))}"
        if distilled
        else "a run whose targets name a target: the study repeats its recipe",
        action="correct it" if distilled else "add such a run to students.runs",
    )


def _undistilled(settings: Student, repeat: int) -> Point:
    update = {"name": f"{_PREFIX}0", "targets": NO_TARGETS, "temperature": None, "view": "free"}
    run = settings.model_copy(update={**update, "seed": settings.seed + repeat})
    return Point(UNDISTILLED, "all", 0, repeat, (), student_member(run, {}, {}, "study"))


def _distilled(experiment: Experiment, recipe: StudentMember, fleet: Fleet, repeat: int) -> Iterator[Point]:
    target, settings = recipe.target, experiment.study
    assert target is not None
    for rows in settings.rows or (target.settings.rows,):
        layers = _layers(experiment, target, fleet, rows, repeat)
        most = min(map(len, layers))
        for count in _counts(settings.teachers, most, rows):
            teachers = tuple(id_ for layer in layers for id_ in layer[:count])
            name = f"{_PREFIX}{count}{'-folds' if rows == 'out_of_fold' else ''}"
            own = {"rows": rows, "teachers": Selection(id=tuple(sorted(teachers)))}
            made = target_member(
                name, target.settings.model_copy(update=own), fleet, experiment.imported, "study"
            )
            run = recipe.settings.model_copy(
                update={"name": name, "targets": name, "seed": recipe.settings.seed + repeat}
            )
            student = student_member(run, {name: made}, fleet, "study")
            yield Point(STORED, rows, count, repeat, made.teachers, student)


def _online(experiment: Experiment, recipe: StudentMember, fleet: Fleet, repeat: int) -> Iterator[Point]:
    """The contrast, of each K for which there are so many teachers that see the student's clips."""
    target, settings, run = recipe.target, experiment.study, recipe.settings
    assert target is not None
    able = [
        id_
        for id_ in target.teachers
        if id_ in fleet and (fleet[id_].modality, fleet[id_].clip) == (run.modality, run.clip)
    ]
    if not able or run.view == "stored":
        return
    ranked = _ranked(experiment, able, repeat)
    for count in settings.teachers or _powers(len(target.teachers)):
        if count <= min(settings.online, len(able)):
            update = {
                "name": f"{_PREFIX}{count}-online",
                "targets": ONLINE,
                "teachers": Selection(id=tuple(ranked[:count])),
                "weighting": _combination(target.settings),
                "seed": run.seed + repeat,
            }
            student = student_member(run.model_copy(update=update), {}, fleet, "study")
            yield Point(ONLINE, "all", count, repeat, student.teachers, student)


def _layers(
    experiment: Experiment, target: TargetMember, fleet: Fleet, rows: Rows, repeat: int
) -> list[Sequence[str]]:
    """The target's teachers in the repeat's order; out of fold those of each fold by themselves."""
    if rows == "all":
        return [_ranked(experiment, target.teachers, repeat)]
    folds: dict[int, list[str]] = {}
    for id_ in target.teachers:
        if id_ in fleet and (fold := fleet[id_].fold) is not None:
            folds.setdefault(fold, []).append(id_)
    wanted = experiment.data.folds.count if experiment.data.folds else 0
    if not wanted or len(folds) < wanted:
        raise UsageError(
            f"study.rows: out_of_fold with teachers of {len(folds)} folds",
            expected=f"teachers of each of the {wanted} folds"
            if wanted
            else "data.folds, each with a teacher",
            action="add such teachers, or set study.rows to all",
        )
    return [_ranked(experiment, folds[fold], repeat) for fold in sorted(folds)]


def _ranked(experiment: Experiment, teachers: Sequence[str], repeat: int) -> list[str]:
    """The repeat's order: by a hash of each id, so that further teachers do not change that of the others."""
    settings = experiment.study
    if settings.order == "listed":
        return list(teachers)

    def place(id_: str) -> bytes:
        return hashlib.sha256(f"{settings.seed}/{repeat}/{id_}".encode()).digest()

    return sorted(teachers, key=place)


def _counts(asked: Sequence[int], most: int, rows: Rows) -> Sequence[int]:
    if asked and asked[-1] > most:
        whose = "each fold has" if rows == "out_of_fold" else "the run's target has"
        raise UsageError(
            f"study.teachers asks for {asked[-1]}, and {whose} {most} teachers to draw from",
            expected=f"numbers from 1 to {most}",
            action="leave the larger ones out, or add teachers",
        )
    return asked or _powers(most)


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({most, *(2**i for i in range(most.bit_length()))})


def _combination(target: Target) -> Combination:
    """How the target's logits become one, without whose they are."""
    return Combination(**target.model_dump(include=set(Combination.model_fields)))
