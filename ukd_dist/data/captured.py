"""A split's logits on their way: blocks of rows as files, so that a capture that was cut off goes on.

They lie in an attempt's directory, and the next attempt takes them over. A file's name carries its first row
and the sha256 of its content, so it is known to be whole. Once all rows are there they become one file of
knowledge, whose bytes do not depend on where the capture was cut.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load, save

from ukd_dist import manifest
from ukd_dist.data.knowledge import LOGITS, METADATA
from ukd_dist.data.sums import first_row, is_whole, named, work_of


class Captured:
    """The rows of one split that are there, from the first one on without a gap.

    Args:
        directory: Where the files lie.
        work: Digest of all that logits depend on; files of other work are passed over.

    Attributes:
        rows: How many rows are there.
    """

    def __init__(self, directory: Path, work: str) -> None:
        self._directory = directory
        self._work = work
        self._files: list[Path] = []
        self.rows = 0
        for path in sorted(directory.glob("*.safetensors")):
            if first_row(path) == self.rows and (found := self._read(path)) is not None:
                self._files.append(path)
                self.rows += len(found)

    def add(self, logits: torch.Tensor) -> None:
        """Write the rows that follow, float32 `[n, ...]`."""
        entry = json.dumps({"work": self._work})
        payload = save({LOGITS: logits.contiguous()}, metadata={METADATA: entry})
        path = named(self._directory, self.rows, payload)
        manifest.write_atomically(path, payload)
        self._files.append(path)
        self.rows += len(logits)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Every row, one file after another."""
        for path in self._files:
            found = self._read(path)
            assert found is not None, f"{path} was whole"
            yield found

    def _read(self, path: Path) -> torch.Tensor | None:
        payload = path.read_bytes()
        if not is_whole(path, payload) or work_of(payload) != self._work:
            return None
        logits: torch.Tensor = load(payload)[LOGITS]
        return logits


def take_over(own: Path, other: Path) -> None:
    """Take over the files below another directory, as links where the file system has them.

    They never change, but whoever made them may be at work still. A copy that was cut off is not what its
    name says.
    """
    for path in sorted(other.glob("*/*.safetensors")):
        to = own / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError, FileExistsError):
            try:
                os.link(path, to)
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError:  # no links here, or none to there
                shutil.copy2(path, to)
