"""From which finished target's running sums another can start, so that a teacher costs one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.data.knowledge import logits_name
from ukd_dist.data.sums import SUMS, first_row
from ukd_dist.rundir import RunDirectory


@dataclass(frozen=True)
class Base:
    """A finished target whose sums another can start from.

    Attributes:
        target: Its id.
        sums: First row of each block -> the file of its sums.
        add: Teachers that it lacks.
        remove: Teachers that it has beyond the other's.
    """

    target: str
    sums: dict[int, Path]
    add: tuple[str, ...]
    remove: tuple[str, ...]

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
    bases = [_base(run, path, settings, inputs, begins) for path in run.finished_targets()]
    nearest = min((base for base in bases if base), key=lambda base: base.teachers, default=None)
    return nearest if nearest and nearest.teachers < len(inputs) - 1 else None


def _base(
    run: RunDirectory, path: Path, settings: dict[str, Any], inputs: dict[str, str], begins: Sequence[int]
) -> Base | None:
    found = manifest.read(path)
    if found is None or found.settings != settings or found.inputs["shards"] != inputs["shards"]:
        return None
    sums = {first_row(path / name): path / name for name in found.files if name.startswith(f"{SUMS}/")}
    add = tuple(sorted(t for t, digest in inputs.items() if found.inputs.get(t) != digest))
    remove = tuple(sorted(t for t, digest in found.inputs.items() if inputs.get(t) != digest))
    # What is to be taken out must be there as it was put in: a teacher that was trained again is not.
    there = all(_logits_sha256(run, teacher) == found.inputs[teacher] for teacher in remove)
    return Base(path.name, sums, add, remove) if there and sorted(sums) == list(begins) else None


def _logits_sha256(run: RunDirectory, teacher: str) -> str | None:
    found = manifest.read(run.teacher(teacher))
    return found.files[logits_name("train")].sha256 if found else None
