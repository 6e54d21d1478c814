"""The splits of one experiment side by side: accuracy on each, their average, and what was published.

Reads what evaluation left below each split's root; an average that lacks a split stays empty. Left out: all
else that is to be said of a split, which is on its own page.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ukd_dist import __version__, manifest
from ukd_dist.data_config import AVERAGE
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.splits import parts
from ukd_dist.stages.charts import SHARE
from ukd_dist.stages.report import PAGE, environment
from ukd_dist.stages.summary import Repeated, Summary, published_name, read_summary
from ukd_dist.stages.tables import write_table

SPLITS_CSV = "splits.csv"


@dataclass(frozen=True, kw_only=True)
class Line(Repeated):
    """Runs that differ by their seed and split alone.

    Attributes:
        splits: Its summary on each split, by the split's name.
        average_percent: Mean over the splits of the mean test top-1 on each; None where one lacks.
        published_percent: Average top-1 published elsewhere under this name, or None.
    """

    splits: Mapping[str, Summary]
    average_percent: float | None
    published_percent: float | None

    @property
    def shares(self) -> list[float]:
        """Mean test top-1 on each split where there is one, 0..1."""
        return [s.mean_percent / 100 for s in self.splits.values() if s.mean_percent is not None]

    @property
    def is_published(self) -> bool:
        """Whether anything of it was published elsewhere."""
        return self.published_percent is not None or any(
            s.published_percent is not None for s in self.splits.values()
        )


def joint_report(experiment: Experiment) -> Path:
    """Write the page of all splits of an experiment, finished or not, and report/splits.csv.

    Returns:
        Path of the page.
    """
    folder, lines = RunDirectory(experiment.root).report, read_lines(experiment)
    pages = {name: RunDirectory(part.root).report / PAGE for name, part in parts(experiment).items()}
    contents = {
        "version": __version__,
        "experiment": experiment,
        "pages": {n: os.path.relpath(page, folder) if page.is_file() else None for n, page in pages.items()},
        "lines": lines,
        "done": all(line.average_percent is not None for line in lines),
        "has_published": any(line.is_published for line in lines),
        "share": SHARE,
    }
    page = environment().get_template("joint.html.j2").render(contents)
    write_table(folder / SPLITS_CSV, _columns(list(pages)), map(as_row, lines))
    manifest.write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def read_lines(experiment: Experiment) -> list[Line]:
    """A line of all that an experiment of several splits asks for: teachers, students, fusions."""
    found = parts(experiment)
    # Members are the same in every split, and in one order.
    summaries = zip(*(read_summary(RunDirectory(part.root), part) for part in found.values()), strict=True)
    published = experiment.evaluate.figures(AVERAGE)
    return [_line(dict(zip(found, of_each, strict=True)), published) for of_each in summaries]


def _line(splits: Mapping[str, Summary], published: Mapping[str, float]) -> Line:
    first, *_ = splits.values()
    means = [s.mean_percent for s in splits.values() if s.mean_percent is not None]
    return Line(
        kind=first.kind,
        name=first.name,
        note=first.note,
        modality=first.modality,
        target=first.target,
        splits=splits,
        average_percent=fmean(means) if len(means) == len(splits) else None,
        published_percent=published.get(published_name(first.kind, first.name, first.modality)),
    )


def _columns(splits: Sequence[str]) -> list[str]:
    each = [f"{split}_{column}" for split in splits for column in ("runs", "percent", "published_percent")]
    about = ["kind", "name", "note", "modality", "target"]
    return [*about, *each, f"{AVERAGE}_percent", f"{AVERAGE}_published_percent"]


def as_row(line: Line) -> dict[str, object]:
    """A line's figures by the columns of splits.csv."""
    row: dict[str, object] = {
        name: getattr(line, name) for name in ("kind", "name", "note", "modality", "target")
    }
    for split, summary in line.splits.items():
        row[f"{split}_runs"] = summary.runs
        row[f"{split}_percent"] = summary.mean_percent
        row[f"{split}_published_percent"] = summary.published_percent
    row[f"{AVERAGE}_percent"] = line.average_percent
    row[f"{AVERAGE}_published_percent"] = line.published_percent
    return row
