"""From which finished target's running sums another can start, so that a teacher costs one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.data.knowledge import logits_name
from ukd_dist.data.sums import SUMS, first_row
from ukd_dist.errors import DataError
from ukd_dist.rundir import RunDirectory


@dataclass(frozen=True)
class Base:
    """A finished target whose sums another can start from.

    Attributes:
        target: Its id.
        sums: First row of each block -> the file of its sums.
        add: Teachers that it lacks.
        remove: Teachers that it has beyond the other's -> sha256 of the logits that it was given.
    """

    target: str
    sums: dict[int, Path]
    add: tuple[str, ...]
    remove: dict[str, str]

    @property
    def teachers(self) -> int:
        """How many teachers' logits are to be read."""
        return len(self.add) + len(self.remove)


def nearest_base(
    run: RunDirectory, settings: dict[str, Any], inputs: dict[str, str], begins: Sequence[int]
) -> Base | None:
    """The target from which the fewest teachers lead to the wanted one; None where starting anew reads fewer.

    Args:
        run: The run directory.
        settings: Of the wanted target.
        inputs: Of the wanted target: the shards' digest, and each teacher's.
        begins: First row of each block.
    """
    found = [_base(path, settings, inputs, begins) for path in run.finished_targets()]
    bases = sorted((base for base in found if base), key=lambda base: base.teachers)
    nearer = (base for base in bases if base.teachers < len(inputs) - 1)
    return next((base for base in nearer if _is_there(run, base)), None)


def _base(path: Path, settings: dict[str, Any], inputs: dict[str, str], begins: Sequence[int]) -> Base | None:
    found = _manifest(path)
    if found is None or found.settings != settings or found.inputs["shards"] != inputs["shards"]:
        return None
    sums = {first_row(path / name): path / name for name in found.files if name.startswith(f"{SUMS}/")}
    add = tuple(sorted(t for t, digest in inputs.items() if found.inputs.get(t) != digest))
    remove = {t: digest for t, digest in sorted(found.inputs.items()) if inputs.get(t) != digest}
    return Base(path.name, sums, add, remove) if sorted(sums) == list(begins) else None


def _is_there(run: RunDirectory, base: Base) -> bool:
    """Whether the sums and all that is to be taken out are as they were: a teacher trained again is not."""
    there = all(path.is_file() for path in base.sums.values())
    return there and all(_logits_sha256(run, t) == digest for t, digest in base.remove.items())


def _logits_sha256(run: RunDirectory, teacher: str) -> str | None:
    directory, name = run.teacher(teacher), logits_name("train")
    found = _manifest(directory) if (directory / name).is_file() else None
    return found.files[name].sha256 if found else None


def _manifest(directory: Path) -> manifest.Manifest | None:
    """As `manifest.read`, but a damaged one is none: what cannot be read is nothing to start from."""
    with suppress(DataError):
        return manifest.read(directory)
    return None
