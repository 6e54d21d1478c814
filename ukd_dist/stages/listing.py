"""What logits a run directory holds, of teachers from here and elsewhere and of students; only reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ukd_dist import manifest
from ukd_dist.data.knowledge import LOGITS, open_unbound, verified_checks
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.imports import IMPORTED


@dataclass(frozen=True)
class Holding:
    """A member's logits on one split.

    Attributes:
        kind: teacher or student.
        id: Its id.
        imported: Whether they come from another system.
        split: Which rows.
        rows: Their number.
        covered: Rows with an opinion.
        trained_on: Rows that the network was trained on.
        classes: Columns.
        dtype: Of the numbers.
        view: What of each video was seen.
        bytes: Size of the file.
    """

    kind: Literal["teacher", "student"]
    id: str
    imported: bool
    split: str
    rows: int
    covered: int
    trained_on: int
    classes: int
    dtype: str
    view: str
    bytes: int


def list_logits(run: RunDirectory) -> list[Holding]:
    """The logits of every finished member, the present experiment's or not; headers and marks are checked.

    Raises:
        DataError: A manifest or a file is damaged; names it.
    """
    teachers = [h for path in sorted(run.teacher("").glob("*")) for h in member_logits(path, "teacher")]
    students = [h for path in sorted(run.student("").glob("*")) for h in member_logits(path, "student")]
    return [*teachers, *students]


def member_logits(member: Path, kind: Literal["teacher", "student"]) -> Iterator[Holding]:
    """One member's logits, a split at a time; a student's lie in a finished directory of their own."""
    for owner in (member, member / "logits"):
        found = manifest.read(owner)
        for name in found.files if found else ():
            path = owner / name
            if found is not None and path.parent == member / "logits":
                metadata, array = open_unbound(path, LOGITS, verified_checks(owner, name))
                rows, classes = array.shape[0], array.shape[-1]
                yield Holding(
                    kind,
                    member.name,
                    bool(found.settings.get(IMPORTED)),
                    metadata["split"],
                    rows,
                    int(array.covers.read().sum()) if array.covers else rows,
                    int(array.trained_on.read().sum()) if array.trained_on else 0,
                    classes,
                    str(array.dtype).removeprefix("torch."),
                    array.view,
                    found.files[name].bytes,
                )
