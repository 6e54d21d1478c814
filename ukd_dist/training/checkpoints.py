"""Checkpoints at epoch ends: atomic, verified, and bound to what they were made from.

A checkpoint is a directory `epoch-0003` with `state.pt` and a manifest, so one that was cut off is not seen
and one that was altered is named. The last two are kept: where the newest is damaged, training goes on from
the one before. No generator's state is stored, since the loop seeds every epoch from (seed, epoch, rank).
"""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from ukd_dist import manifest
from ukd_dist.errors import DataError

KEPT = 2
_PREFIX, _STATE = "epoch-", "state.pt"
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training.

    Args:
        directory: Where they lie.
        settings: What the training is; resuming with others is refused.
        inputs: Digests of what it reads; resuming with others is refused.
    """

    def __init__(self, directory: Path, settings: dict[str, Any], inputs: dict[str, str]) -> None:
        self._directory = directory
        self._settings = settings
        self._inputs = inputs

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Commit the state after `epoch` epochs (tensors and plain values), and drop old ones."""
        directory = self._path(epoch)
        shutil.rmtree(directory, ignore_errors=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        manifest.write_atomically(directory / _STATE, buffer.getvalue())
        manifest.commit(directory, "checkpoint", self._settings, self._inputs, [_STATE])
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> int:
        """Epochs done at the newest sound checkpoint; 0 where there is none.

        Raises:
            MismatchError: It was made from other settings or inputs.
            DataError: Every checkpoint is damaged.
        """
        damaged: DataError | None = None
        for directory in reversed(self._all()):
            try:
                found = manifest.finished(directory, "checkpoint", self._settings, self._inputs)
                if found is None:
                    continue
                manifest.verify(directory, found)
            except DataError as error:
                _log.warning("checkpoint passed over: %s", error)
                damaged = error
                continue
            return int(directory.name.removeprefix(_PREFIX))
        if damaged:
            raise damaged
        return 0

    def load(self, epoch: int, device: torch.device) -> dict[str, Any]:
        """The state after `epoch` epochs.

        Raises:
            DataError: It is not there.
        """
        path = self._path(epoch) / _STATE
        if not path.is_file():
            raise DataError(
                f"checkpoint {path} is not there, though rank 0 sees it",
                expected="a root that every node sees alike",
                action="mount the same shared file system on every node",
            )
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state

    def _path(self, epoch: int) -> Path:
        return self._directory / f"{_PREFIX}{epoch:04d}"

    def _all(self) -> list[Path]:
        return sorted(self._directory.glob(f"{_PREFIX}*"))
