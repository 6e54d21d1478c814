"""The study over the number of teachers, as a run directory has it, however far it is.

Reads what the stages left and disturbs nothing: what is missing stays empty.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from ukd_dist.stages.scaled import Level, Run, Scaled
from ukd_dist.stages.statistics import estimate
from ukd_dist.training.history import Epoch, read_epochs
from ukd_dist.training_config import ONLINE


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
