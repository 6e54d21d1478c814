"""What `evaluate` names must be there: the members of a fusion, and whose a published figure is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ukd_dist.config import Evaluate
from ukd_dist.data_config import AVERAGE
from ukd_dist.errors import UsageError
from ukd_dist.training_config import Student, Teacher


def check_fusion(
    evaluate: Evaluate, trainings: Sequence[Teacher | Student], members: Collection[str], where: str
) -> None:
    """Refuse a fusion of nobody, or whose members cannot be paired by seed.

    Args:
        evaluate: The fusions.
        trainings: Teachers and students, whose names they may hold.
        members: Ids of these, which they may hold as well.
        where: The experiment's file.

    Raises:
        UsageError: One is unknown, they share no seed, or several runs have one seed.
    """
    names = {training.name for training in trainings}
    students = {training.name for training in trainings if isinstance(training, Student)}
    for fusion, pair in evaluate.fusion.items():
        for name in pair:
            if name not in names and name not in members:
                raise UsageError(
                    f"{where}: evaluate.fusion.{fusion} names unknown student '{name}'",
                    expected=f"one of {', '.join(sorted(students))}, a teacher's network and modality, or a "
                    "teacher's or student's id",
                    action="correct the name",
                )
            _refuse_two_meanings(name, trainings, f"{where}: evaluate.fusion.{fusion}")
        first, second = ({t.seed for t in trainings if t.name == name} for name in pair)
        if names.issuperset(pair) and not first & second:
            raise UsageError(
                f"{where}: evaluate.fusion.{fusion}: {' and '.join(pair)} have no seed in common, "
                "by which they are paired",
                expected="runs of the same seeds",
                action="give both the same seeds",
            )
        runs = [(t.name, t.seed) for t in trainings if t.name in pair]
        if len(set(runs)) < len(runs):
            raise UsageError(
                f"{where}: evaluate.fusion.{fusion}: {' and '.join(pair)} have several runs of one seed",
                expected="one run a name and seed, by which they are paired",
                action="give runs that differ in more than their seed names of their own, or give ids",
            )


def check_published(
    evaluate: Evaluate, trainings: Sequence[Teacher | Student], splits: Sequence[str], where: str
) -> None:
    """Refuse a published figure of nobody, or of no split.

    Args:
        evaluate: The figures.
        trainings: Teachers and students, whose names they may be of.
        splits: The splits' names.
        where: Names the file in messages.

    Raises:
        UsageError: It names no student, teachers or fusion, or does not tell of which split it is.
    """
    students = {training.name for training in trainings if isinstance(training, Student)}
    names = students | evaluate.fusion.keys()
    known = [*splits, AVERAGE] if len(splits) > 1 else splits
    for name, said in evaluate.published.items():
        place = f"{where}: evaluate.published"
        if name not in names and name not in {training.name for training in trainings}:
            raise UsageError(
                f"{place} names unknown student or fusion '{name}'",
                expected=f"one of {', '.join(sorted(names))}, or a teacher's network and modality",
                action="correct the name, or remove the figure",
            )
        _refuse_two_meanings(name, trainings, place)
        if isinstance(said, dict):
            _check_figures(said, known, f"{place}.{name}")
        elif len(splits) > 1:
            raise UsageError(
                f"{place}.{name} is {said:g}, and there are {len(splits)} splits",
                expected=f"figures by name, of {', '.join(known)}",
                action=f"say of what it is, for example {{{AVERAGE}: {said:g}}}",
            )


def _refuse_two_meanings(name: str, trainings: Sequence[Teacher | Student], place: str) -> None:
    if len({type(training) for training in trainings if training.name == name}) > 1:
        raise UsageError(
            f"{place} names '{name}', which is a student and the teachers of that network and modality",
            expected="a name that one kind has",
            action="rename the student",
        )


def _check_figures(figures: Collection[str], known: Sequence[str], place: str) -> None:
    for split in figures:
        if split not in known:
            raise UsageError(
                f"{place} names unknown split '{split}'",
                expected=f"one of {', '.join(known)}"
                if known
                else "a number, since splits have no names here",
                action="correct the name, or remove the figure",
            )
