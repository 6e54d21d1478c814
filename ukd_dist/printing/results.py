"""Accuracies and scores: of members, over repeats and splits, of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ukd_dist.printing.answers import print_aligned

if TYPE_CHECKING:
    from ukd_dist.stages.joint import Line
    from ukd_dist.stages.results import Result
    from ukd_dist.stages.scaled import Scaled
    from ukd_dist.stages.statistics import Estimate
    from ukd_dist.stages.studied import Study
    from ukd_dist.stages.summary import Summary


def results_table(results: Sequence[Result]) -> Table:
    """A line of each member that was evaluated."""
    columns = ("kind", "name", "modality", "seed", "target", "test top-1", "correct")
    table = Table(*columns, box=None, pad_edge=False)
    for r in results:
        correct = f"{r.correct}/{r.clips}"
        table.add_row(r.kind, r.name, r.modality, str(r.seed), r.target or "-", f"{r.top1:.1%}", correct)
    return table


def summary_table(summaries: Sequence[Summary]) -> Table:
    """A line of each summary over repeats."""
    table = Table("kind", "name", "modality", "target", box=None, pad_edge=False)
    for column in ("runs", "mean %", "deviation", "published %"):
        table.add_column(column, justify="right")
    for s in summaries:
        percents = (s.mean_percent, s.deviation_percent, s.published_percent)
        figures = ("-" if percent is None else f"{percent:.1f}" for percent in percents)
        name = f"{s.name} ({s.note})" if s.note else s.name
        table.add_row(s.kind, name, s.modality, s.target or "-", str(s.runs), *figures)
    return table


def print_lines(lines: Sequence[Line]) -> None:
    """Print a line of each member or fusion over the splits, however narrow the terminal is."""
    splits = list(lines[0].splits)
    rows = [["kind", "name", "modality", "target", *(f"{s} %" for s in splits), "average %", "published %"]]
    for line in lines:
        means = [line.splits[split].mean_percent for split in splits]
        percents = (*means, line.average_percent, line.published_percent)
        name = f"{line.name} ({line.note})" if line.note else line.name
        figures = ("-" if percent is None else f"{percent:.1f}" for percent in percents)
        rows.append([line.kind, name, line.modality, line.target or "-", *figures])
    print_aligned(rows, right=range(4, len(rows[0])))


def print_scaling(scaled: Scaled) -> None:
    """Print a line of each number of teachers, however narrow the terminal is."""
    lines = [["taught by", "K", "repeats", "test top-1 %", "s an epoch", "peak MiB", "device-seconds", ""]]
    lines.append(["", "", "", "", "", "", "teachers", "student"])
    for name, levels in scaled.lines.items():
        lines += [
            [
                *(name, str(level.teachers), str(level.repeats)),
                *(_estimate(level.top1, 100.0, 1), _estimate(level.epoch_seconds, 1.0, 2)),
                _estimate(level.peak_mib, 1.0, 0),
                *(_whole(level.teacher_device_seconds), _whole(level.student_device_seconds)),
            ]
            for level in levels
        ]
    print_aligned(lines, right=(1, 2, 3, 4, 5, 6, 7))


def _estimate(found: Estimate | None, factor: float, digits: int) -> str:
    return found.text(factor, digits) if found else "-"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def print_scores(study: Study) -> None:
    """Print a line of each score of an offline study, however narrow the terminal is."""
    names = ["method", "h", "tau", "space", "weights", "rows", "top-1", "NLL", "ECE", "entropy"]
    lines, rows = [names], study.scores[0].rows
    for s in study.scores:
        if s.rows != rows:
            lines.append([""] * len(names))
            rows = s.rows
        h = "-" if s.h is None else f"{s.h:g}"
        figures = (f"{s.top1:.1%}", f"{s.nll:.3f}", f"{s.ece:.3f}", f"{s.entropy:.3f}")
        lines.append([s.method, h, f"{s.tau:g}", s.space, s.weights, f"{s.num_rows} {s.rows}", *figures])
    print_aligned(lines, right=(1, 2, 6, 7, 8, 9))
    teachers = study.scores[0].teachers
    print(
        f"\nteachers: {teachers}; NLL and entropy in nats; weights of 'labels' know the row's own: an oracle"
    )
