"""Test accuracy over the repeats of each network, beside what was published of it elsewhere.

One computation for the command line, its JSON, the report and report/summary.csv. Left out: how far a mean is
to be trusted and differences between students, which are `statistics` and `findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, stdev

from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.findings import Group, read_fusions, read_groups
from ukd_dist.stages.tables import write_table

SUMMARY_CSV = "summary.csv"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What is repeated: with other seeds, or on other splits.

    Attributes:
        kind: teacher, student or fusion.
        name: Network, student name or fusion name.
        note: Settings that tell it from others of the same name, or empty.
        modality: What it sees.
        target: Name of a student's target, or empty.
    """

    kind: str
    name: str
    note: str
    modality: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Summary(Repeated):
    """Runs that differ by their seed alone.

    Attributes:
        runs: Those that were evaluated.
        mean_percent: Mean of their test top-1; None without any.
        deviation_percent: Sample standard deviation (n - 1), percentage points; None for fewer than two.
        published_percent: Top-1 published elsewhere under this name, or None.
    """

    runs: int
    mean_percent: float | None
    deviation_percent: float | None
    published_percent: float | None


def read_summary(run: RunDirectory, experiment: Experiment) -> list[Summary]:
    """The summary of all that the experiment asks for: teachers, students, fusions."""
    groups = [*read_groups(run, experiment), *read_fusions(run, experiment)]
    return summarise(groups, experiment.published)


def summarise(groups: Iterable[Group], published: Mapping[str, float]) -> list[Summary]:
    """A line of each group; `published` has percents by `published_name`."""
    return [_summary(group, published) for group in groups]


def published_name(kind: str, name: str, modality: str) -> str:
    """The name under which an experiment gives published figures."""
    return f"{name}-{modality}" if kind == "teacher" else name


def is_telling(summaries: Iterable[Summary]) -> bool:
    """Whether it says more than the members' own results: something was repeated, or published."""
    return any(s.runs > 1 or s.published_percent is not None for s in summaries)


def write_summary(run: RunDirectory, summaries: Sequence[Summary]) -> None:
    """Write report/summary.csv."""
    columns = [field.name for field in fields(Summary)]
    write_table(run.report / SUMMARY_CSV, columns, map(asdict, summaries))


def _summary(group: Group, published: Mapping[str, float]) -> Summary:
    percents = [100 * value for value in group.values]
    return Summary(
        kind=group.kind,
        name=group.name,
        note=group.note,
        modality=group.modality,
        target=group.target,
        runs=len(percents),
        mean_percent=fmean(percents) if percents else None,
        deviation_percent=stdev(percents) if len(percents) > 1 else None,
        published_percent=published.get(published_name(group.kind, group.name, group.modality)),
    )
