"""What evaluation leaves: a result.json beside each member, the fusions and a table of all in the report.

A result names what it speaks of, and is read as none once that was made again. Left out: how it is computed,
which is `evaluate`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.data.views import CENTRE
from ukd_dist.errors import DataError
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.tables import write_changed, write_table

RESULT = "result.json"
FUSIONS = "fusions.json"
RESULTS_CSV = "results.csv"
_COLUMNS = ("kind", "id", "name", "modality", "seed", "target", "top1", "correct", "clips")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated.

    Attributes:
        kind: teacher, student or fusion.
        id: Member id, or the fusion's name and seed.
        name: Name in tables.
        modality: Modality; of a fusion both.
        seed: Seed of the training.
        target: Name of a student's target, or empty.
        of: Digest of what was evaluated; of a fusion both, joined by '+'.
        views: Name of the views that were seen of each video; of a fusion both, where they differ.
    """

    kind: str
    id: str
    name: str
    modality: str
    seed: int
    target: str = ""
    of: str
    views: str = CENTRE


@dataclass(frozen=True, kw_only=True)
class Result(Subject):
    """Accuracy on the test rows.

    Attributes:
        top1: Share of test clips whose largest score is the label's.
        correct: Their number.
        clips: Test clips.
        per_class: Class name -> top-1 of its clips, or None where it has none.
        confusion: Rows are labels, columns predictions.
    """

    top1: float
    correct: int
    clips: int
    per_class: dict[str, float | None]
    confusion: list[list[int]]


def write_result(directory: Path, result: Result) -> None:
    """Write a member's result.json."""
    manifest.write_atomically(directory / RESULT, json.dumps(asdict(result), indent=1).encode())


def write_results(run: RunDirectory, results: Sequence[Result]) -> bool:
    """Write report/fusions.json, every fusion whole, and report/results.csv, a row of each result.

    Returns:
        Whether anything changed.
    """
    fused = [asdict(result) for result in results if result.kind == "fusion"]
    changed = [
        write_changed(run.report / FUSIONS, json.dumps(fused, indent=1).encode()),
        write_table(run.report / RESULTS_CSV, _COLUMNS, map(asdict, results)),
    ]
    return any(changed)


def member_digest(directory: Path) -> str:
    """What a member's result is bound to; empty where it is not trained."""
    found = manifest.read(directory)
    return found.digest() if found else ""


def read_result(directory: Path) -> Result | None:
    """A member's result, or None where it has not been evaluated since it was made."""
    path = directory / RESULT
    found = manifest.read(directory)
    if found is None or not path.is_file():
        return None
    with _naming_damage(path):
        result = Result(**json.loads(path.read_text(encoding="utf-8")))
    return result if result.of == found.digest() else None


def read_fusions(run: RunDirectory) -> list[Result]:
    """The fusions that were evaluated, less those of a member that was made again since.

    One of members that the experiment pairs no more is among them; its `of` differs from `evaluate.fusions`'.
    """
    path = run.report / FUSIONS
    if not path.is_file():
        return []
    with _naming_damage(path):
        results = [Result(**document) for document in json.loads(path.read_text(encoding="utf-8"))]
    teachers = (path.parent for path in run.root.glob(f"teachers/*/{manifest.FILENAME}"))
    members = [*run.finished_students(), *teachers]
    digests = {member_digest(directory) for directory in members}
    return [result for result in results if digests.issuperset(result.of.split("+"))]


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Name the file of results that cannot be read."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error})", expected="what `ukd evaluate` wrote", action=f"remove {path}"
        ) from error
