"""Every file of a run's finished directories against the sha256 in its manifest; only reads.

Tars of shards that were made elsewhere are read there; the nodes' copies of them are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.data.places import place_of
from ukd_dist.errors import DataError
from ukd_dist.rundir import RunDirectory

PLACES = ("shards", "init/*", "teachers/*", "targets/*", "students/*", "students/*/logits")


@dataclass(frozen=True)
class Verdict:
    """What was found of one directory.

    Attributes:
        directory: From the root.
        files: Files that its manifest names, less those that were dropped (`teachers.keep`); 0 where the
            manifest itself is damaged.
        bytes: Their bytes.
        problem: What is wrong, or empty.
        recomputed: Rows of logits that were recomputed.
        difference: The greatest that was found, as a share of a row's largest logit; None where none was.
        note: What else is to be said, or empty.
    """

    directory: str
    files: int
    bytes: int
    problem: str = ""
    recomputed: int = 0
    difference: float | None = None
    note: str = ""


def verify(run: RunDirectory) -> Iterator[Verdict]:
    """Check one finished directory after another; what is not finished is not spoken of.

    Raises:
        ResourceError: The place of shards that were made elsewhere cannot be read.
    """
    for place in PLACES:
        for path in sorted(run.root.glob(f"{place}/{manifest.FILENAME}")):
            yield _verdict(run.root, path.parent)


def refuse_damage(verdicts: Sequence[Verdict]) -> None:
    """Raises DataError where anything is damaged; names all such directories."""
    damaged = [verdict for verdict in verdicts if verdict.problem]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(verdicts)} directories are damaged: "
            f"{', '.join(verdict.directory for verdict in damaged)}",
            expected="every file as its manifest says",
            action="remove these directories and run again to make them again",
        )


def _verdict(root: Path, directory: Path) -> Verdict:
    name, files, size = directory.relative_to(root).as_posix(), 0, 0
    try:
        found = manifest.read(directory)
        assert found is not None, f"{directory} was finished a moment ago"
        files, size = len(found.present), sum(found.files[name].bytes for name in found.present)
        place = place_of(directory)
        here = [n for n in found.present if place.folder == directory or not n.endswith(".tar")]
        manifest.verify(directory, found, here)
        for tar in sorted(set(found.present).difference(here)):
            place.check(tar, found.files[tar])
    except DataError as error:
        return Verdict(name, files, size, error.problem)
    return Verdict(name, files, size)
