"""`ukd gc`: what of a run directory nothing needs, and removing it while no coordinator works there.

Never touched: what the experiment asks for and is not finished, students' and imported teachers' files, logs,
metrics and shards. What no line of the experiment asks for goes only where that is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.data.sums import SUMS
from ukd_dist.errors import BusyError, DataError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory, coordinating
from ukd_dist.scaling import is_begun, with_study
from ukd_dist.stages.imports import IMPORTED
from ukd_dist.stages.initial import awaited, needed
from ukd_dist.stages.keeping import Excess, drop_excess, keep_of, remove, teacher_excess
from ukd_dist.status import is_held

# A file is written in one go. One that nobody has written to for so long has no writer any more, even where
# the clocks of two nodes differ by minutes.
_DEAD_SECONDS = 900.0
_PARTIAL = ".*.partial"


@dataclass(frozen=True)
class Collection:
    """What was found, or dropped.

    Attributes:
        excess: What nothing needs.
        damaged: Of each directory that was passed over, what is wrong with it.
    """

    excess: tuple[Excess, ...]
    damaged: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return sum(item.bytes for item in self.excess)


def collect(experiment: Experiment, *, removed: bool = False, dry_run: bool = False) -> Collection:
    """Drop from the experiment's root what nothing needs.

    Args:
        experiment: Says what is needed.
        removed: Drop the members and targets too that the experiment does not name.
        dry_run: Drop nothing, only say what would be.

    Raises:
        UsageError: There is no run at its root.
        BusyError: A coordinator works on the root.
    """
    run = RunDirectory(experiment.root)
    if not run.experiment.is_file():
        raise UsageError(
            f"{run.root} holds no experiment.yaml",
            expected="the root of a run",
            action="correct the experiment's root",
        )
    if dry_run:
        if is_held(run):
            raise BusyError(
                f"a coordinator works on {run.root}",
                expected="a root that nobody changes",
                action="wait for it, or stop it first",
            )
        return _collect(run, experiment, removed, drop=False)
    with coordinating(experiment):
        return _collect(run, experiment, removed, drop=True)


def refuse_damage(collection: Collection) -> None:
    """Raises DataError where directories were passed over as they are damaged; names the first."""
    if collection.damaged:
        raise DataError(
            f"{len(collection.damaged)} directories were left as they are, first: {collection.damaged[0]}",
            expected="files as their manifests say, before others are dropped",
            action="see `ukd verify`",
        )


def _collect(run: RunDirectory, experiment: Experiment, removed: bool, drop: bool) -> Collection:
    if is_begun(run):  # what is wrong with its settings is said: else all of it would pass for removed
        experiment = with_study(experiment)
    excess: list[Excess] = []
    damaged: list[str] = []
    for directory, found in _finished(run, experiment):
        try:
            if drop:
                drop_excess(directory, found)
            excess += found
        except DataError as error:
            damaged.append(error.problem)
    loose = list(_initial_weights(run, experiment))
    loose += _strangers(run, experiment) if removed else []
    loose += list(_dead_partials(run.root, [*excess, *loose]))
    for item in loose if drop else ():
        remove(item.path)
    return Collection((*excess, *loose), tuple(damaged))


def _finished(run: RunDirectory, experiment: Experiment) -> Iterator[tuple[Path, list[Excess]]]:
    """Each finished member and target of the experiment that holds too much, and what that is."""
    for teacher in experiment.teachers:
        directory = run.teacher(teacher.id)
        if excess := teacher_excess(directory, keep_of(run, experiment, teacher.id, experiment.students)):
            yield directory, excess
    for target in experiment.targets:
        directory = run.target(target.id)
        if excess := _sums(directory, experiment.cluster.keep_sums):
            yield directory, excess


def _initial_weights(run: RunDirectory, experiment: Experiment) -> Iterator[Excess]:
    """Initial weights from which no unfinished member starts: they are made again if another one is to."""
    waited_for = needed(run, experiment)
    for path in sorted(run.initial("").glob("*")):
        if path not in waited_for:
            yield Excess.of("initial weights", path)


def _sums(directory: Path, keep: bool) -> list[Excess]:
    """Of a finished target the sums that its manifest does not name, or all of them where none are kept."""
    try:
        found = manifest.read(directory)
    except DataError:
        return []  # `ukd verify` names it
    files = sorted((directory / SUMS).glob("[!.]*")) if found else []
    named = found.present if found and keep else []
    return [Excess.of("sums", path) for path in files if f"{SUMS}/{path.name}" not in named]


def _strangers(run: RunDirectory, experiment: Experiment) -> Iterator[Excess]:
    """Members and targets that the experiment does not name; imported ones cannot be made again here.

    Nor can those from which teachers of the experiment are still to start.
    """
    teachers = {t.id for t in experiment.teachers} | set(experiment.imported) | awaited(run, experiment)
    members: Sequence[tuple[str, Path, set[str]]] = (
        ("teachers", run.teacher(""), teachers),
        ("targets", run.target(""), {t.id for t in experiment.targets}),
        ("students", run.student(""), {s.id for s in experiment.students}),
    )
    for kind, folder, known in members:
        for path in sorted(folder.glob("*")):
            if path.name not in known and path.is_dir() and not _is_imported(path):
                yield Excess.of(f"removed {kind}", path)


def _is_imported(directory: Path) -> bool:
    try:
        found = manifest.read(directory)
    except DataError:
        return True  # nobody can tell
    return found is not None and bool(found.settings.get(IMPORTED))


def _dead_partials(root: Path, gone: Sequence[Excess]) -> Iterator[Excess]:
    """Files that a killed writer left, but those inside what is gone anyway."""
    oldest = time.time() - _DEAD_SECONDS
    folders = {item.path for item in gone}
    for path in sorted(root.rglob(_PARTIAL)):
        if path.is_file() and path.stat().st_mtime < oldest and folders.isdisjoint(path.parents):
            yield Excess.of("partial files", path)
