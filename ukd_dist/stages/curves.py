"""The report's charts: trainings over epochs, targets over temperatures, students over numbers of teachers.

Each function returns its legend and its charts; none where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from markupsafe import Markup

from ukd_dist.stages.charts import Curve, line_chart, style
from ukd_dist.stages.findings import Group
from ukd_dist.stages.scaled import Level, Scaled
from ukd_dist.stages.statistics import Estimate
from ukd_dist.stages.studied import Study
from ukd_dist.training.history import Epoch

Drawn = tuple[list[Curve], list[Markup]]


def training_charts(groups: Sequence[Group], chance: float | None) -> Drawn:
    """Loss and accuracy; distilled students' loss also in its parts."""

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


def study_charts(study: Study) -> Drawn:
    """NLL over tau, a chart for each space, each method at its best h."""
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


def scaling_charts(scaled: Scaled) -> Drawn:
    """Accuracy, epoch time, memory and the teachers' cost over their numbers.

    What a line has nothing of is passed over.
    """
    counts = sorted({level.teachers for level in scaled.levels if level.teachers})
    marks = [str(count) for count in counts]
    plain = next((level for level in scaled.levels if not level.teachers), None)

    def chart(title: str, value: Callable[[Level], Estimate | None], percent: bool = False) -> list[Markup]:
        curves, reference = _scaling_curves(scaled, counts, value), value(plain) if plain else None
        if not curves:
            return []
        across = reference.mean if reference else None
        return [line_chart(title, curves, percent=percent, reference=across, over="teachers K", marks=marks)]

    charts = [
        *chart("test top-1, %", lambda level: level.top1, percent=True),
        *chart("seconds an epoch", lambda level: level.epoch_seconds),
        *chart("peak memory, MiB", lambda level: level.peak_mib),
    ]
    costs = [replace(curve, margins=()) for curve in _scaling_curves(scaled, counts, _cost)]
    if costs:
        title = "device-seconds of all K teachers"
        charts.append(line_chart(title, costs, over="teachers K", marks=marks))
    return _scaling_curves(scaled, counts, lambda level: level.epoch_seconds), charts


def _cost(level: Level) -> Estimate | None:
    seconds = level.teacher_device_seconds
    return Estimate(seconds, 0.0, 1) if seconds is not None else None


def _scaling_curves(
    scaled: Scaled, counts: Sequence[int], value: Callable[[Level], Estimate | None]
) -> list[Curve]:
    curves = []
    for number, (name, levels) in enumerate(scaled.lines.items()):
        known = {level.teachers: found for level in levels if level.teachers and (found := value(level))}
        if known:
            places = [counts.index(count) + 1 for count in known]
            means, margins = [e.mean for e in known.values()], [e.margin for e in known.values()]
            curves.append(Curve(name, style(number), [means], margins, places))
    return curves
