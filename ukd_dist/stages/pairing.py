"""Which members a fusion joins: students or teachers by name, paired by seed, or single members by id."""

from __future__ import annotations

from collections.abc import Iterator

from ukd_dist.experiment import Experiment, StudentMember, TeacherMember

Member = TeacherMember | StudentMember
Pair = tuple[Member, Member]
_Runs = dict[int | None, Member]


def pairs(experiment: Experiment) -> Iterator[tuple[str, int, Pair]]:
    """The name, seed and two members of each fusion of an experiment.

    Members by name are paired by seed; a member by its id is paired with every run of the other, and two of
    those have the first one's seed.
    """
    for name, parts in experiment.evaluate.fusion.items():
        first, second = (_runs(experiment, part) for part in parts)
        for seed in _seeds(first, second):
            yield name, seed, (first.get(seed) or first[None], second.get(seed) or second[None])


def _runs(experiment: Experiment, part: str) -> _Runs:
    """A name's members by seed, or the one member of an id, under None."""
    everyone: list[Member] = [*experiment.teachers, *experiment.students]
    runs: _Runs = {member.settings.seed: member for member in everyone if member.settings.name == part}
    return runs or {None: next(member for member in everyone if member.id == part)}


def _seeds(first: _Runs, second: _Runs) -> list[int]:
    if None in first and None in second:
        return [first[None].settings.seed]
    seeds = {seed for seed in (*first, *second) if seed is not None}
    return sorted(seed for seed in seeds if all(seed in runs or None in runs for runs in (first, second)))
