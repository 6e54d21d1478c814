"""The study over the number of teachers, as a run directory has it: a line a training, means over repeats.

Reads what the stages left and disturbs nothing: what is missing stays empty. Left out: which targets and
students it is made of (`scaling`), and how it is drawn (`figures`, the report).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median

from ukd_dist.attempts import with_history
from ukd_dist.cluster_config import Resources
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.manifest import FILENAME
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import STORED, UNDISTILLED, Point, as_begun, points
from ukd_dist.stages.imports import IMPORTED
from ukd_dist.stages.provenance import Origin, read_origins
from ukd_dist.stages.results import Result, read_result
from ukd_dist.stages.statistics import Estimate, estimate
from ukd_dist.stages.tables import write_table
from ukd_dist.training.history import Epoch, read_epochs
from ukd_dist.training_config import ONLINE

RUNS_CSV, LEVELS_CSV, SHARES_CSV = "scaling_runs.csv", "scaling.csv", "scaling_shares.csv"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student of the study. What there is not yet is None.

    Attributes:
        way: none, stored or online.
        rows: all or out_of_fold.
        teachers: K.
        repeat: Number of the repeat.
        seed: The student's.
        student: Its id.
        target: Its stored target's id, or empty.
        top1: Share of test clips that are classified correctly.
        correct: Their number.
        clips: Test clips.
        epoch_seconds: Median over its epochs.
        peak_mib: Peak of rank 0's device over its epochs, MiB.
        student_device_seconds: Of its training: seconds times processes, times the GPUs that each reserved;
            without a GPU a process counts as one device.
        teacher_device_seconds: The same of all of its teachers' trainings; None where one is from elsewhere,
            or not finished.
    """

    way: str
    rows: str
    teachers: int
    repeat: int
    seed: int
    student: str
    target: str
    top1: float | None
    correct: int | None
    clips: int | None
    epoch_seconds: float | None
    peak_mib: float | None
    student_device_seconds: float | None
    teacher_device_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Level:
    """One number of teachers: the runs that differ by their repeat alone.

    Attributes:
        way: As of its runs.
        rows: As of its runs.
        teachers: K.
        top1: Test accuracy over repeats, with no margin where there is one, or None.
        epoch_seconds: Over repeats, or None.
        peak_mib: Over repeats, or None.
        student_device_seconds: Mean over repeats, or None.
        teacher_device_seconds: Mean over repeats, or None.
        heard: How many teachers speak, in effect: 1 / sum of squared shares; mean over targets, or None.
        shares: Network and modality -> their share of the weights, mean over targets.
        top1_of_each: One a repeat that is evaluated.
        seconds_of_each: One a repeat that has epochs.
        mib_of_each: One a repeat that has epochs.
    """

    way: str
    rows: str
    teachers: int
    top1: Estimate | None
    epoch_seconds: Estimate | None
    peak_mib: Estimate | None
    student_device_seconds: float | None
    teacher_device_seconds: float | None
    heard: float | None
    shares: Mapping[str, float]
    top1_of_each: tuple[float, ...]
    seconds_of_each: tuple[float, ...]
    mib_of_each: tuple[float, ...]

    @property
    def line(self) -> str:
        """What it is called beside levels of other ways."""
        if self.way == UNDISTILLED:
            return "no distillation"
        if self.way == ONLINE:
            return "teachers in memory"
        return "stored target, out of fold" if self.rows == "out_of_fold" else "stored target"


@dataclass(frozen=True)
class Scaled:
    """The study.

    Attributes:
        runs: In the order in which they are trained.
        levels: By way and rows, then by K.
        imported: Whether a teacher is from elsewhere, so that what its training cost is not known.
    """

    runs: tuple[Run, ...]
    levels: tuple[Level, ...]
    imported: bool

    @property
    def lines(self) -> dict[str, list[Level]]:
        """Levels by what they are called, each by K."""
        found: dict[str, list[Level]] = {}
        for level in self.levels:
            found.setdefault(level.line, []).append(level)
        return found

    @property
    def groups(self) -> list[str]:
        """Networks and modalities that have a share anywhere."""
        return sorted({name for level in self.levels for name in level.shares})


def read_scaled(run: RunDirectory, experiment: Experiment) -> Scaled | None:
    """The study of a run, however far it is, or None where nothing of it is there.

    Raises:
        DataError: A history, a result, or a finished target's opinions are damaged.
    """
    asked = as_begun(run, experiment)
    if asked is experiment:
        return None
    found = points(experiment)
    results = {p.student.id: read_result(run.student(p.student.id)) for p in found}
    histories = {p.student.id: _epochs(run.student(p.student.id)) for p in found}
    finished = {p.student.id for p in found if _is_finished(run.student(p.student.id))}
    costs = _teacher_costs(run, experiment, found)
    runs = tuple(
        _run(p, results[p.student.id], histories[p.student.id], costs, p.student.id in finished)
        for p in found
    )
    names = {member.id: member.settings.name for member in experiment.teachers}
    origins = {origin.target.id: origin for origin in read_origins(run, asked) if origin.voices}
    groups = defaultdict[tuple[str, str, int], list[Run]](list)
    for one in runs:
        groups[one.way, one.rows, one.teachers].append(one)
    levels = tuple(_level(groups[key], results, origins, names) for key in sorted(groups, key=_place))
    used = {id_ for p in found for id_ in p.teachers}
    return Scaled(runs, levels, bool(used & set(experiment.imported)))


def write_scaled(run: RunDirectory, scaled: Scaled) -> None:
    """Write report/scaling.csv, a line a number of teachers, and report/scaling_runs.csv, a line a student.

    Beside them report/scaling_shares.csv has the shares of networks and modalities in the targets' weights.
    """
    write_table(run.report / RUNS_CSV, [field.name for field in fields(Run)], map(asdict, scaled.runs))
    rows = [as_row(level) for level in scaled.levels]
    write_table(run.report / LEVELS_CSV, list(rows[0]), rows)
    shares = [
        {"way": level.way, "rows": level.rows, "teachers": level.teachers, "group": name, "share": share}
        for level in scaled.levels
        for name, share in level.shares.items()
    ]
    write_table(run.report / SHARES_CSV, ["way", "rows", "teachers", "group", "share"], shares)


def as_row(level: Level) -> dict[str, object]:
    """A level as one flat line; accuracy in percent, margins of 95% intervals in its unit.

    Of one repeat there is no margin.
    """
    row: dict[str, object] = {"way": level.way, "rows": level.rows, "teachers": level.teachers}
    for name, factor, found in (
        ("top1_percent", 100.0, level.top1),
        ("epoch_seconds", 1.0, level.epoch_seconds),
        ("peak_mib", 1.0, level.peak_mib),
    ):
        row[name] = factor * found.mean if found else None
        row[f"{name}_margin"] = factor * found.margin if found and found.seeds > 1 else None
        row[f"{name}_repeats"] = found.seeds if found else 0
    row["student_device_seconds"] = level.student_device_seconds
    row["teacher_device_seconds"] = level.teacher_device_seconds
    row["teachers_heard"] = level.heard
    return row


def device_seconds(history: Sequence[Epoch], resources: Resources) -> float:
    """Seconds of a training's devices: a process's GPUs, or the process itself where it has none."""
    return sum(epoch.seconds * epoch.ranks for epoch in history) * (resources.gpus or 1.0)


def _is_finished(directory: Path) -> bool:
    return (directory / FILENAME).is_file()


def _epochs(directory: Path) -> list[Epoch]:
    return read_epochs(with_history(directory))


def _teacher_costs(run: RunDirectory, experiment: Experiment, found: Sequence[Point]) -> dict[str, float]:
    """Device-seconds of the teachers that were trained here, by id."""
    used = {id_ for point in found for id_ in point.teachers}
    trained: list[TeacherMember] = [member for member in experiment.teachers if member.id in used]
    finished = [member for member in trained if _is_finished(run.teacher(member.id))]
    costs = {m.id: device_seconds(_epochs(run.teacher(m.id)), m.settings.resources) for m in finished}
    return {id_: seconds for id_, seconds in costs.items() if seconds}


def _run(
    point: Point,
    result: Result | None,
    history: Sequence[Epoch],
    costs: Mapping[str, float],
    finished: bool,
) -> Run:
    student = point.student
    known = all(id_ in costs for id_ in point.teachers)
    return Run(
        way=point.way,
        rows=point.rows,
        teachers=point.count,
        repeat=point.repeat,
        seed=student.settings.seed,
        student=student.id,
        target=student.target.id if student.target else "",
        top1=result.top1 if result else None,
        correct=result.correct if result else None,
        clips=result.clips if result else None,
        epoch_seconds=median(epoch.seconds for epoch in history) if history else None,
        peak_mib=max(epoch.peak_memory_bytes for epoch in history) / 2**20 if history else None,
        student_device_seconds=device_seconds(history, student.settings.resources) if finished else None,
        teacher_device_seconds=sum(costs[id_] for id_ in point.teachers) if known else None,
    )


def _level(
    runs: Sequence[Run],
    results: Mapping[str, Result | None],
    origins: Mapping[str, Origin],
    names: Mapping[str, str],
) -> Level:
    evaluated = [result for one in runs if (result := results[one.student])]
    top1 = tuple(result.top1 for result in evaluated)
    seconds, mib = _each(runs, lambda r: r.epoch_seconds), _each(runs, lambda r: r.peak_mib)
    made = [origins[one.target] for one in runs if one.target in origins]
    shares = [_shares(origin, names) for origin in {origin.target.id: origin for origin in made}.values()]
    groups = sorted({name for found in shares for name in found})
    return Level(
        way=runs[0].way,
        rows=runs[0].rows,
        teachers=runs[0].teachers,
        top1=estimate(top1, 0.0) if evaluated else None,
        epoch_seconds=estimate(seconds, 0.0) if seconds else None,
        peak_mib=estimate(mib, 0.0) if mib else None,
        student_device_seconds=_mean(_each(runs, lambda r: r.student_device_seconds)),
        teacher_device_seconds=_mean(_each(runs, lambda r: r.teacher_device_seconds)),
        heard=_mean([1 / math.fsum(voice.share**2 for voice in origin.voices) for origin in made]),
        shares={name: fmean(found.get(name, 0.0) for found in shares) for name in groups},
        top1_of_each=top1,
        seconds_of_each=seconds,
        mib_of_each=mib,
    )


def _place(key: tuple[str, str, int]) -> tuple[int, str, int]:
    """Without distillation, then stored targets, then teachers in memory."""
    way, rows, count = key
    return (UNDISTILLED, STORED, ONLINE).index(way), rows, count


def _shares(origin: Origin, names: Mapping[str, str]) -> dict[str, float]:
    """Network and modality -> share of a target's weights."""
    found = defaultdict[str, float](float)
    for voice in origin.voices:
        found[names.get(voice.label, IMPORTED)] += voice.share
    return dict(found)


def _each(runs: Sequence[Run], value: Callable[[Run], float | None]) -> tuple[float, ...]:
    return tuple(found for one in runs if (found := value(one)) is not None)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
