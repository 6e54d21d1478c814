"""The study over the number of teachers drawn for papers: SVG and PNG; the report has charts of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import STORED, UNDISTILLED
from ukd_dist.stages.scaled import Level, Scaled
from ukd_dist.stages.statistics import Estimate
from ukd_dist.stages.tables import write_changed

FIGURE = "scaling"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.hashsalt": "ukd",  # the same numbers give the same file
}
_MARKERS = "osD^v"


def draw_scaling(run: RunDirectory, scaled: Scaled, title: str) -> list[Path]:
    """Write report/scaling.svg and .png: accuracy, epoch time, memory and cost over the number of teachers.

    Returns:
        Their paths; none where no student is trained.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not any(level.epoch_seconds for level in scaled.levels):
        return []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        figure.suptitle(title, fontsize=10)
        panels = figure.subplots(2, 2)
        _panel(panels[0, 0], scaled, "test top-1, %", lambda level: level.top1, 100)
        _panel(panels[0, 1], scaled, "seconds an epoch", lambda level: level.epoch_seconds, from_zero=True)
        _panel(panels[1, 0], scaled, "peak memory, MiB", lambda level: level.peak_mib, from_zero=True)
        _costs(panels[1, 1], scaled)
        for panel in panels.flat:
            _teachers_axis(panel, scaled)
        shown: dict[str, Any] = {}
        for panel in (panels[0, 0], panels[0, 1], panels[1, 0]):
            shown |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown))
        paths = []
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            payload = io.BytesIO()
            figure.savefig(payload, format=kind, metadata=metadata)
            paths.append(run.report / f"{FIGURE}.{kind}")
            write_changed(paths[-1], payload.getvalue())
    return paths


def _panel(
    panel: Any,
    scaled: Scaled,
    label: str,
    value: Callable[[Level], Estimate | None],
    factor: float = 1.0,
    *,
    from_zero: bool = False,
) -> None:
    panel.set_ylabel(label)
    for number, (name, levels) in enumerate(scaled.lines.items()):
        found = [(level, estimate) for level in levels if (estimate := value(level))]
        means = [factor * estimate.mean for _, estimate in found]
        margins = [factor * estimate.margin for _, estimate in found]
        colour = f"C{number}"
        if found and levels[0].way == UNDISTILLED:
            panel.axhline(means[0], color=colour, linestyle="--", linewidth=1, label=name)
            panel.axhspan(means[0] - margins[0], means[0] + margins[0], color=colour, alpha=0.12, linewidth=0)
        elif found:
            counts = [level.teachers for level, _ in found]
            panel.errorbar(
                counts,
                means,
                margins,
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
                linewidth=1.2,
                capsize=2,
                label=name,
            )
    if from_zero:
        panel.set_ylim(0, 1.15 * panel.dataLim.ymax)


def _costs(panel: Any, scaled: Scaled) -> None:
    """What the teachers and one student of the stored targets took, in device-seconds."""
    panel.set_ylabel("device-seconds")
    stored = next((levels for levels in scaled.lines.values() if levels[0].way == STORED), [])
    kinds: list[tuple[str, str, Callable[[Level], float | None]]] = [
        ("all teachers", "-", lambda level: level.teacher_device_seconds),
        ("one student", ":", lambda level: level.student_device_seconds),
    ]
    for name, dash, value in kinds:
        found = [(level.teachers, seconds) for level in stored if (seconds := value(level))]
        if found:
            panel.plot(*zip(*found, strict=True), linestyle=dash, marker=".", color="0.3", label=name)
    if panel.lines:
        panel.set_yscale("log")
        panel.legend()


def _teachers_axis(panel: Any, scaled: Scaled) -> None:
    counts = sorted({level.teachers for level in scaled.levels if level.teachers})
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.minorticks_off()
    panel.set_xlabel("teachers K")
