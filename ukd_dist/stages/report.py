"""The run on one page: what is done, what was measured, what it cost, and what was run.

Reads what the other stages left under the root and disturbs nothing, so a run that is going on or that failed
has a page too: what is missing is marked as missing. The page holds no clock: the same run gives the same
bytes. Left out: the study over the number of teachers, example clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ukd_dist import __version__, manifest
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.charts import SHARE, Curve, Scale, line_chart, style
from ukd_dist.stages.findings import Group, Member, compare, costs, flat, read_fusions, read_groups
from ukd_dist.stages.provenance import read_origins, write_origins
from ukd_dist.stages.results import Result
from ukd_dist.stages.studied import Study, read_study
from ukd_dist.stages.summary import is_telling, summarise, write_summary
from ukd_dist.status import STATES, MemberStatus, is_held, read_status
from ukd_dist.training.history import Epoch

PAGE = "index.html"


def report(run: RunDirectory, experiment: Experiment) -> Path:
    """Write the page of a run, finished or not, and its tables: summary.csv and opinions.csv.

    Returns:
        Path of the page.

    Raises:
        DataError: A manifest, or a finished target's opinions.json, is damaged.
    """
    contents = _contents(run, experiment)
    page = environment().get_template("report.html.j2").render(contents)
    write_origins(run, contents["origins"])
    write_summary(run, contents["summaries"])
    path = run.report / PAGE
    manifest.write_atomically(path, page.encode())
    return path


def environment() -> Environment:
    """Where the pages' templates are, and how they are read."""
    return Environment(
        loader=PackageLoader("ukd_dist", "stages/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def results_rows(run: RunDirectory, experiment: Experiment) -> list[Result]:
    """What is evaluated: teachers, students, fusions, each in the experiment's order."""
    groups = [*read_groups(run, experiment), *read_fusions(run, experiment)]
    return [m.result for group in groups for m in group.members if m.result]


def _contents(run: RunDirectory, experiment: Experiment) -> dict[str, Any]:
    """All that the template shows."""
    groups, fusions = read_groups(run, experiment), read_fusions(run, experiment)
    teachers, students = ([g for g in groups if g.kind == kind] for kind in ("teacher", "student"))
    members, statuses = [m for g in (*groups, *fusions) for m in g.members], read_status(run, experiment)
    shards = manifest.read(run.shards)
    classes = list(shards.settings["classes"]) if shards else []
    chance = 1 / len(classes) if classes else None
    comparisons = compare(students)
    summaries = summarise([*groups, *fusions], experiment.published)
    study = read_study(run, experiment)
    return {
        "version": __version__,
        "experiment": experiment,
        "state": _state(statuses, members, is_held(run)),
        "progress": _progress(statuses, members),
        "failures": [status for status in statuses if status.state == "failed"],
        "data": flat(experiment.document["data"]),
        "shards": shards,
        "classes": classes,
        "chance": chance,
        "support": next(([sum(row) for row in m.result.confusion] for m in members if m.result), []),
        "sections": [("Teachers", teachers), ("Students", students), ("Fusions", fusions)],
        "members": [*teachers, *students],
        "students": students,
        "fusions": fusions,
        "comparisons": comparisons,
        "summaries": summaries,
        "telling": is_telling(summaries),
        "origins": read_origins(run, experiment),
        "study": study,
        "study_curves": _study_charts(study) if study else ([], []),
        "target_states": {status.id: status.state for status in statuses if status.kind == "target"},
        "costs": [
            ("s", "seconds an epoch", costs(students, _median_seconds)),
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


def _median_seconds(history: Sequence[Epoch]) -> float:
    return median(epoch.seconds for epoch in history)


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


def _study_charts(study: Study) -> tuple[list[Curve], list[Markup]]:
    """The legend, and for each space a chart of NLL over tau, each method at its best h."""
    taus, charts = sorted(study.scope.tau), []
    legend: dict[str, Curve] = {}
    for space in study.scope.spaces:
        curves = [
            Curve(score.method, style(study.scope.methods.index(score.method)), [study.over_tau(score)])
            for score, _ in study.leaders
            if score.space == space
        ]
        if curves and len(taus) > 1:
            title = f"negative log-likelihood, nats ({space})"
            charts.append(line_chart(title, curves, over="temperature", marks=[f"{tau:g}" for tau in taus]))
            legend |= {curve.label: curve for curve in curves}
    return list(legend.values()), charts
