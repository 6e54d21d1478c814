"""The report's figures as Markdown, for a pull request: tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ukd_dist.stages.findings import Comparison, Cost
from ukd_dist.stages.scaled import Scaled
from ukd_dist.stages.statistics import Estimate
from ukd_dist.stages.summary import Summary


def markdown(contents: Mapping[str, Any]) -> str:
    """The page's contents (`report.contents`) as GitHub's Markdown."""
    lines = [
        f"# {contents['experiment'].name}: {contents['state']}",
        "",
        " · ".join(contents["progress"]),
        "",
    ]
    for failure in contents["failures"]:
        lines += [f"> **{failure.kind} failed** `{failure.id}`: {' '.join(failure.error.split())}", ""]
    lines += _summaries(contents["summaries"], sum(contents["support"]), contents["chance"])
    lines += _comparisons(contents["comparisons"])
    if contents["scaled"] is not None:
        lines += _scaled(contents["scaled"])
    lines += _costs({unit: rows for unit, _, rows in contents["costs"]})
    return "\n".join([*lines, f"ukd-dist {contents['version']}", ""])


def _summaries(summaries: Sequence[Summary], clips: int, chance: float | None) -> Iterator[str]:
    yield "## Test accuracy"
    yield ""
    of = f"Top-1 in percent on {clips} test clips" if clips else "Top-1 in percent"
    least = f"; chance is {100 * chance:.1f}" if chance else ""
    yield f"{of}{least}. Mean and sample standard deviation over runs that differ by their seed alone."
    yield ""
    shown = 7 if any(s.published_percent is not None for s in summaries) else 6
    head = ["", "modality", "target", "runs", "mean", "deviation", "published"]
    rows = [
        [
            f"{s.kind} {s.name}{f' ({s.note})' if s.note else ''}",
            *(s.modality, s.target or "—", str(s.runs)),
            *map(_number, (s.mean_percent, s.deviation_percent, s.published_percent)),
        ]
        for s in summaries
    ]
    yield from _table(head[:shown], [row[:shown] for row in rows], words=3)


def _comparisons(comparisons: Sequence[Comparison]) -> Iterator[str]:
    if not comparisons:
        return
    yield "## Against no distillation"
    yield ""
    yield (
        "Difference of top-1 to the undistilled student of the same network and modality, paired by seed, in "
        "points, with half of its 95% interval over seeds; of one seed, one binomial standard error."
    )
    yield ""
    rows = [
        [
            c.group.label,
            c.baseline.label,
            str(len(c.pairs)),
            c.top1.text(100, 1, signed=True) if c.top1 else "—",
        ]
        for c in comparisons
    ]
    yield from _table(["student", "less", "seeds", "points"], rows, words=2)


def _scaled(scaled: Scaled) -> Iterator[str]:
    yield "## Number of teachers"
    yield ""
    cost = " Some teachers are from elsewhere: what they cost is not known." if scaled.imported else ""
    yield f"Means over repeats, with half of their 95% intervals.{cost}"
    yield ""
    head = ["taught by", "K", "repeats", "top-1, %", "s an epoch", "peak MiB"]
    rows = [
        [
            *(name, str(level.teachers), str(level.repeats), _estimate(level.top1, 100, 1)),
            *(_estimate(level.epoch_seconds, 1, 2), _estimate(level.peak_mib, 1, 0)),
            *(_number(level.teacher_device_seconds, 0), _number(level.student_device_seconds, 0)),
        ]
        for name, levels in scaled.lines.items()
        for level in levels
    ]
    yield from _table([*head, "device-seconds of teachers", "of a student"], rows, words=1)


def _costs(costs: Mapping[str, Sequence[Cost]]) -> Iterator[str]:
    if not any(costs.values()):
        return
    yield "## Cost of a student"
    yield ""
    found: dict[str, list[str]] = {}
    for unit, rows in costs.items():
        for cost in rows:
            figures = [_number(cost.mean.mean, 0 if unit == "MiB" else 2), _number(cost.ratio, 2)]
            found.setdefault(cost.group.label, []).extend(figures)
    head = ["student", "s an epoch", "over undistilled", "peak MiB", "over undistilled"]
    yield from _table(head, [[label, *figures] for label, figures in found.items()], words=1)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> Iterator[str]:
    """A table whose first columns are words, and the others figures."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * words}{'--:|' * (len(head) - words)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _number(value: float | None, digits: int = 1) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def _estimate(found: Estimate | None, factor: float, digits: int) -> str:
    return found.text(factor, digits) if found else "—"
