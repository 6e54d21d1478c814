"""What a run directory holds of each member, grouped over seeds and folds, and set beside the undistilled.

Reads what the other stages left and disturbs nothing: what is missing stays empty. Left out: how it is shown,
which is the report's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ukd_dist.attempts import with_history
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, content, digest
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.evaluate import describe, fusions
from ukd_dist.stages.results import Result, read_result
from ukd_dist.stages.results import read_fusions as read_fusion_results
from ukd_dist.stages.statistics import Estimate, estimate, standard_error
from ukd_dist.status import MemberStatus, read_status
from ukd_dist.training.history import Epoch, read_epochs

_DISTILLATION = ("name", "targets", "alpha", "temperature", "teachers", "weighting")


@dataclass(frozen=True)
class Member:
    """A teacher, student or fusion of one seed (and fold), and what there is of it.

    Attributes:
        id: Its id.
        seed: Its seed.
        fold: The fold that it left out, or None.
        state: As `ukd status` says it; a fusion's is empty.
        error: What ended it, where it failed.
        history: Finished epochs.
        result: Its test accuracy, where it was evaluated.
    """

    id: str
    seed: int
    fold: int | None = None
    state: str = ""
    error: str = ""
    history: tuple[Epoch, ...] = ()
    result: Result | None = None

    @property
    def number(self) -> str:
        """What tells it from the others of its group: its seed, and its fold if it left one out."""
        return str(self.seed) if self.fold is None else f"{self.seed} f{self.fold}"

    @property
    def top1(self) -> Estimate | None:
        """Test accuracy, where it was evaluated."""
        return Estimate(self.result.top1, standard_error(self.result), 1) if self.result else None


@dataclass(frozen=True)
class Group:
    """Members that differ by their seed alone, or by their seed and the fold that they left out.

    Attributes:
        kind: teacher, student or fusion.
        name: Network, student name or fusion name.
        modality: What it sees.
        members: One a seed, or a seed and fold.
        settings: Of all members; empty for a fusion.
        target: Name of a student's target, or empty.
        note: Settings that tell it from others of the same name.
    """

    kind: str
    name: str
    modality: str
    members: tuple[Member, ...]
    settings: dict[str, Any]
    target: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """Name in legends: unlike any other's."""
        name = self.name if self.modality in self.name else f"{self.name} {self.modality}"
        return f"{name} ({self.note})" if self.note else name

    @property
    def values(self) -> list[float]:
        """Test accuracy of each seed that was evaluated."""
        return [m.result.top1 for m in self.members if m.result]

    @property
    def top1(self) -> Estimate | None:
        """Test accuracy, where anything was evaluated."""
        evaluated = [m.top1 for m in self.members if m.top1]
        return estimate(self.values, evaluated[0].margin) if evaluated else None


@dataclass(frozen=True)
class Comparison:
    """A student beside the undistilled one.

    Attributes:
        group: The student.
        baseline: The undistilled student of the same network and modality.
        also: Settings beyond distillation in which the two differ.
        pairs: Seed -> difference of top-1.
        top1: Mean of the differences.
    """

    group: Group
    baseline: Group
    also: tuple[str, ...]
    pairs: dict[int, float]
    top1: Estimate | None


@dataclass(frozen=True)
class Cost:
    """One figure of what a student's training costs.

    Attributes:
        group: The student.
        values: One a seed.
        ratio: Mean over the undistilled student's mean.
    """

    group: Group
    values: list[float]
    ratio: float | None

    @property
    def mean(self) -> Estimate:
        """Mean over seeds."""
        return estimate(self.values, 0.0)


def read_groups(run: RunDirectory, experiment: Experiment) -> list[Group]:
    """Teachers, then students, grouped over seeds and folds, with all that the run directory has of each.

    Teachers that leave a fold out are no group with those that do not, which are trained on more rows.
    """
    statuses = {(status.kind, status.id): status for status in read_status(run, experiment)}
    groups: dict[str, Group] = {}
    members: list[TeacherMember | StudentMember] = [*experiment.teachers, *experiment.students]
    for member in members:
        kind, name, target, directory = describe(run, member)
        found = _read_member(directory, statuses[kind, member.id], member)
        key = digest(kind, target, {**content(member.settings), "seed": None, "fold": None})
        settings = flat(member.settings.model_dump(mode="json", exclude={"seed", "fold", "folds"}))
        if isinstance(member, TeacherMember) and member.settings.folds:
            name, settings["folds"] = member.settings.arch, member.settings.folds.count
        group = groups.get(key) or Group(kind, name, member.settings.modality, (), settings, target)
        groups[key] = replace(group, members=(*group.members, found))
    return _with_notes(list(groups.values()))


def read_fusions(run: RunDirectory, experiment: Experiment) -> list[Group]:
    """The fusions; one of students that were made again since, or of others, counts as missing."""
    results = {(result.id, result.of): result for result in read_fusion_results(run)}
    groups: dict[str, Group] = {}
    for subject, _ in fusions(run, experiment):
        found = Member(subject.id, subject.seed, result=results.get((subject.id, subject.of)))
        group = groups.get(subject.name) or Group("fusion", subject.name, subject.modality, (), {})
        groups[subject.name] = replace(group, members=(*group.members, found))
    return list(groups.values())


def compare(students: Sequence[Group]) -> list[Comparison]:
    """Each distilled student beside the undistilled one of its network and modality, paired by seed.

    Where several fit, the one that shares most settings and seeds.
    """
    comparisons = []
    for group in students:
        if group.target and (baseline := _baseline(group, students)):
            theirs = {m.seed: m.result for m in baseline.members if m.result}
            pairs = [(m.result, theirs[m.seed]) for m in group.members if m.result and m.seed in theirs]
            differences = {mine.seed: mine.top1 - other.top1 for mine, other in pairs}
            error = math.hypot(*map(standard_error, pairs[0])) if pairs else 0.0
            top1 = estimate(list(differences.values()), error) if pairs else None
            comparisons.append(Comparison(group, baseline, _also(group, baseline), differences, top1))
    return comparisons


def costs(students: Sequence[Group], measure: Callable[[Sequence[Epoch]], float]) -> list[Cost]:
    """A figure of each student's history, with its ratio to the undistilled student's."""

    def values(group: Group | None) -> list[float]:
        return [measure(m.history) for m in group.members if m.history] if group else []

    found = []
    for group in students:
        theirs = values(_baseline(group, students) if group.target else None)
        if mine := values(group):
            found.append(Cost(group, mine, fmean(mine) / fmean(theirs) if theirs else None))
    return found


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        found.update(inner)
    return found


def _read_member(directory: Path, status: MemberStatus, member: TeacherMember | StudentMember) -> Member:
    history, result = tuple(read_epochs(with_history(directory))), read_result(directory)
    fold = member.settings.fold if isinstance(member, TeacherMember) else None
    return Member(status.id, member.settings.seed, fold, status.state, status.error, history, result)


def _with_notes(groups: Sequence[Group]) -> list[Group]:
    """Groups of one name and modality, each told from the others by the settings that differ."""
    alike: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        alike.setdefault(_name(group), []).append(group)
    # What differs between any two differs between one of them and the first.
    differing = {
        name: {key for twin in twins for key in (*_unlike(twin, twins[0]), *_unlike(twins[0], twin))}
        for name, twins in alike.items()
    }
    return [replace(group, note=_note(group, differing[_name(group)])) for group in groups]


def _name(group: Group) -> tuple[str, str, str]:
    return group.kind, group.name, group.modality


def _note(group: Group, settings: Collection[str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in group.settings.items() if key in settings)


def _unlike(group: Group, other: Group) -> list[str]:
    """Settings that differ, of those that determine what a training produces."""
    return [
        key
        for key, value in group.settings.items()
        if value != other.settings.get(key) and not key.startswith("resources.")
    ]


def _baseline(group: Group, students: Sequence[Group]) -> Group | None:
    network = "student", group.settings["arch"], group.modality
    undistilled = [
        g for g in students if (g.kind, g.settings["arch"], g.modality) == network and not g.target
    ]
    seeds = {m.seed for m in group.members}

    def likeness(other: Group) -> tuple[int, int]:
        return -len(_also(group, other)), len(seeds & {m.seed for m in other.members})

    return max(undistilled, key=likeness, default=None)


def _also(group: Group, baseline: Group) -> tuple[str, ...]:
    return tuple(key for key in _unlike(group, baseline) if key.partition(".")[0] not in _DISTILLATION)
