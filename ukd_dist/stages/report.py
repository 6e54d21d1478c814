"""The run on one page: what is done, what was measured, what it cost, and what was run.

Reads what the other stages left under the root and disturbs nothing, so a run that is going on or that failed
has a page too: what is missing is marked as missing. The page holds no clock: the same run gives the same
bytes. Left out: the study over the number of teachers, example clips.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ukd_dist import __version__, manifest
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, content
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.charts import SHARE, Curve, Scale, line_chart, style
from ukd_dist.stages.evaluate import RESULTS_CSV, Result, read_result
from ukd_dist.status import STATES, MemberStatus, is_held, read_status
from ukd_dist.training.loop import Epoch

PAGE = "index.html"
_DISTILLATION = ("name", "targets", "alpha", "temperature")
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Estimate:
    """A mean and how far to trust it.

    Attributes:
        mean: Mean over seeds.
        margin: Half of the 95% t-interval over seeds; with one seed, one binomial standard error.
        seeds: How many.
    """

    mean: float
    margin: float
    seeds: int


@dataclass(frozen=True)
class Member:
    """A teacher, student or fusion of one seed, and what there is of it.

    Attributes:
        id: Its id.
        seed: Its seed.
        state: As `ukd status` says it; a fusion's is empty.
        error: What ended it, where it failed.
        history: Finished epochs.
        result: Its test accuracy, where it was evaluated.
    """

    id: str
    seed: int
    state: str = ""
    error: str = ""
    history: tuple[Epoch, ...] = ()
    result: Result | None = None

    @property
    def top1(self) -> Estimate | None:
        """Test accuracy, where it was evaluated."""
        return Estimate(self.result.top1, standard_error(self.result), 1) if self.result else None


@dataclass(frozen=True)
class Group:
    """Members that differ by their seed alone.

    Attributes:
        kind: teacher, student or fusion.
        name: Network, student name or fusion name.
        modality: What it sees.
        members: One a seed.
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


def report(run: RunDirectory, experiment: Experiment) -> Path:
    """Write the page of a run, finished or not.

    Returns:
        Path of the page.

    Raises:
        DataError: A manifest is damaged.
    """
    environment = Environment(
        loader=PackageLoader("ukd_dist", "stages/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(_contents(run, experiment))
    path = run.report / PAGE
    manifest.write_atomically(path, page.encode())
    return path


def results_rows(run: RunDirectory, experiment: Experiment) -> list[Result]:
    """What is evaluated: teachers, students, fusions, each in the experiment's order."""
    groups = [*read_groups(run, experiment), *read_fusions(run, experiment)]
    return [m.result for group in groups for m in group.members if m.result]


def read_groups(run: RunDirectory, experiment: Experiment) -> list[Group]:
    """Teachers, then students, grouped over their seeds, with all that the run directory has of each."""
    statuses = {(status.kind, status.id): status for status in read_status(run, experiment)}
    groups: dict[str, Group] = {}
    members: list[TeacherMember | StudentMember] = [*experiment.teachers, *experiment.students]
    for member in members:
        kind, name, target, directory = _describe(run, member)
        found = _read_member(directory, statuses[kind, member.id], member.settings.seed)
        key = str([kind, target, {**content(member.settings), "seed": None}])
        settings = _flat(member.settings.model_dump(mode="json", exclude={"seed"}))
        group = groups.get(key) or Group(kind, name, member.settings.modality, (), settings, target)
        groups[key] = replace(group, members=(*group.members, found))
    return _with_notes(list(groups.values()))


def read_fusions(run: RunDirectory, experiment: Experiment) -> list[Group]:
    """The fusions; one whose students were evaluated again since it was made counts as missing."""
    students = {(s.settings.name, s.settings.seed): s for s in experiment.students}
    rows = _read_csv(run.report / RESULTS_CSV)
    groups = []
    for name, (first, second) in experiment.evaluate.fusion.items():
        members, modality = [], ""
        for seed in sorted(s for one, s in students if one == first and (second, s) in students):
            pair = students[first, seed], students[second, seed]
            modality = "+".join(s.settings.modality for s in pair)
            fresh = all(_is_current(rows.get(s.id), read_result(run.student(s.id))) for s in pair)
            row = rows.get(f"{name}-s{seed}") if fresh else None
            members.append(Member(f"{name}-s{seed}", seed, result=_fusion(row) if row else None))
        groups.append(Group("fusion", name, modality, tuple(members), {}))
    return groups


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


def estimate(values: Sequence[float], error: float) -> Estimate:
    """Mean and 95% t-interval over seeds; of one value, it and its standard `error`."""
    count = len(values)
    if count == 1:
        return Estimate(values[0], error, 1)
    return Estimate(fmean(values), t_quantile(count - 1) * stdev(values) / math.sqrt(count), count)


def standard_error(result: Result) -> float:
    """Binomial standard error of an accuracy."""
    return math.sqrt(result.top1 * (1 - result.top1) / result.clips)


def t_quantile(dof: int) -> float:
    """The 97.5% quantile of Student's t: a table up to 9 degrees, then Fisher's expansion (within 0.001)."""
    if dof <= len(_T_975):
        return _T_975[dof - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * dof)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
    )


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


def _contents(run: RunDirectory, experiment: Experiment) -> dict[str, Any]:
    """All that the template shows."""
    groups, fusions = read_groups(run, experiment), read_fusions(run, experiment)
    teachers, students = ([g for g in groups if g.kind == kind] for kind in ("teacher", "student"))
    members, statuses = [m for g in (*groups, *fusions) for m in g.members], read_status(run, experiment)
    shards = manifest.read(run.shards)
    classes = list(shards.settings["classes"]) if shards else []
    chance = 1 / len(classes) if classes else None
    comparisons = compare(students)
    return {
        "version": __version__,
        "experiment": experiment,
        "state": _state(statuses, members, is_held(run)),
        "progress": _progress(statuses, members),
        "failures": [status for status in statuses if status.state == "failed"],
        "data": _flat(experiment.document["data"]),
        "shards": shards,
        "classes": classes,
        "chance": chance,
        "support": next(([sum(row) for row in m.result.confusion] for m in members if m.result), []),
        "sections": [("Teachers", teachers), ("Students", students), ("Fusions", fusions)],
        "members": [*teachers, *students],
        "students": students,
        "comparisons": comparisons,
        "costs": [
            ("s", "seconds an epoch", costs(students, lambda history: median(e.seconds for e in history))),
            ("MiB", "peak memory, MiB", costs(students, _peak_mib)),
        ],
        "teacher_seconds": [
            sum(e.seconds for e in m.history) for g in teachers for m in g.members if m.history
        ],
        "curves": [("Teachers", *_curves(teachers, chance)), ("Students", *_curves(students, chance))],
        "share": SHARE,
        "difference_scale": Scale.over(
            [abs(c.top1.mean) + c.top1.margin for c in comparisons if c.top1], symmetric=True
        ),
        "scale_over": Scale.over,
    }


def _peak_mib(history: Sequence[Epoch]) -> float:
    return max(epoch.peak_memory_bytes for epoch in history) / 2**20


def _state(statuses: Sequence[MemberStatus], members: Sequence[Member], held: bool) -> str:
    if all(s.state == "done" for s in statuses) and all(m.result for m in members):
        return "done"
    return "going on" if held else "not finished"


def _progress(statuses: Sequence[MemberStatus], members: Sequence[Member]) -> list[str]:
    """One phrase a stage: how much is done, and what became of the rest."""
    phrases = []
    for kind in ("shards", "teacher", "target", "student"):
        counts = Counter(s.state for s in statuses if s.kind == kind)
        rest = [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
        if kind == "shards":
            phrases.append(f"shards {'done' if not rest else rest[0].removeprefix('1 ')}")
        elif counts:
            phrases.append(", ".join([f"{kind}s: {counts['done']} of {counts.total()} done", *rest]))
    return [*phrases, f"evaluated: {sum(m.result is not None for m in members)} of {len(members)}"]


def _curves(groups: Sequence[Group], chance: float | None) -> tuple[list[Curve], list[Markup]]:
    """The legend, and charts of loss and accuracy; distilled students' loss also in its parts."""

    def read(kind: Callable[[Epoch], float | None]) -> list[Curve]:
        curves = []
        for group, css in zip(groups, styles, strict=True):
            runs = [[v for e in m.history if (v := kind(e)) is not None] for m in group.members]
            if any(runs):
                curves.append(Curve(group.label, css, [r for r in runs if r]))
        return curves

    undistilled = [group.kind == "student" and not group.target for group in groups]
    styles = [style(undistilled[:i].count(grey), neutral=grey) for i, grey in enumerate(undistilled)]

    legend = read(lambda epoch: epoch.accuracy)
    if not legend:
        return [], []
    charts = [
        line_chart("training loss", read(lambda epoch: epoch.losses["total"])),
        line_chart("training accuracy, %", legend, percent=True, reference=chance),
    ]
    if divergence := read(lambda epoch: epoch.losses.get("kl")):
        charts += [
            line_chart("part of it: cross entropy with the labels", read(lambda epoch: epoch.losses["ce"])),
            line_chart("part of it: τ² KL to the target", divergence),
        ]
    return legend, charts


def _describe(run: RunDirectory, member: TeacherMember | StudentMember) -> tuple[str, str, str, Path]:
    """A member's kind, name in tables, target and directory."""
    if isinstance(member, TeacherMember):
        return "teacher", member.settings.arch, "", run.teacher(member.id)
    target = member.target.name if member.target else ""
    return "student", member.settings.name, target, run.student(member.id)


def _read_member(directory: Path, status: MemberStatus, seed: int) -> Member:
    history = tuple(Epoch(**line) for line in read_history(directory))
    return Member(status.id, seed, status.state, status.error, history, read_result(directory))


def _with_notes(groups: Sequence[Group]) -> list[Group]:
    """Groups of one name and modality, each told from the others by the settings that differ."""
    noted = []
    for group in groups:
        twins = [
            g for g in groups if (g.kind, g.name, g.modality) == (group.kind, group.name, group.modality)
        ]
        differing = [k for k in group.settings if any(k in _unlike(group, twin) for twin in twins)]
        noted.append(replace(group, note=", ".join(f"{k} {group.settings[k]}" for k in differing)))
    return noted


def _unlike(group: Group, other: Group) -> list[str]:
    """Settings that differ, of those that determine what a training produces."""
    return [
        key
        for key, value in group.settings.items()
        if value != other.settings.get(key) and not key.startswith("resources.")
    ]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        flat.update(inner)
    return flat


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
    return tuple(key for key in _unlike(group, baseline) if key not in _DISTILLATION)


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Rows of results.csv by id; none where there is none yet."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["id"]: row for row in csv.DictReader(file)}
    except FileNotFoundError:
        return {}


def _is_current(row: dict[str, str] | None, result: Result | None) -> bool:
    return row is not None and result is not None and int(row["correct"]) == result.correct


def _fusion(row: dict[str, str]) -> Result:
    """A fusion as results.csv has it: without its classes."""
    return Result(
        kind="fusion",
        id=row["id"],
        name=row["name"],
        modality=row["modality"],
        seed=int(row["seed"]),
        of="",
        top1=float(row["top1"]),
        correct=int(row["correct"]),
        clips=int(row["clips"]),
        per_class={},
        confusion=[],
    )
