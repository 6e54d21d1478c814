"""The study over the number of teachers: a line a student, means over repeats, and both as CSV.

Left out: which targets and students it is made of (`scaling`), how a run directory is read
(`scaling_results`), and how it is drawn (`figures`, the report).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import UNDISTILLED
from ukd_dist.stages.statistics import Estimate
from ukd_dist.stages.tables import write_table
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

    @property
    def repeats(self) -> int:
        """How many are evaluated."""
        return self.top1.seeds if self.top1 else 0

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
