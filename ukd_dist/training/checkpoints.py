"""Checkpoints: atomic, verified, and bound to what they were made from.

A checkpoint is a directory `epoch-0003`, or within the fourth epoch `epoch-0003-step-000120`, with `state.pt`
and a manifest, so one that was cut off is not seen and one that was altered is named. The last two are kept:
where the newest is damaged, training goes on from the one before. What the state holds is the loop's affair.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ukd_dist import manifest
from ukd_dist.errors import DataError

KEPT = 2
_STATE = "state.pt"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")
_log = logging.getLogger(__name__)


class Position(NamedTuple):
    """How far a training is: finished epochs, and finished steps of the one after them."""

    epoch: int = 0
    step: int = 0

    @property
    def name(self) -> str:
        """Of the checkpoint's directory; names sort as positions do."""
        return f"epoch-{self.epoch:04d}" + (f"-step-{self.step:06d}" if self.step else "")


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

    def save(self, position: Position, state: dict[str, Any]) -> None:
        """Commit the state at a position (tensors and plain values), and drop old ones."""
        directory = self._directory / position.name
        shutil.rmtree(directory, ignore_errors=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        manifest.write_atomically(directory / _STATE, buffer.getvalue())
        manifest.commit(directory, "checkpoint", self._settings, self._inputs, [_STATE])
        for old in _all(self._directory)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def take(self, others: Sequence[Path]) -> None:
        """Take over the newest checkpoints of other directories, the later directory's where two are equal.

        Links where the file system has them: a checkpoint's files are never changed, only replaced. Whoever
        made them may be at work still, and drop one while it is being taken.
        """
        found = {_position(path): path for other in others for path in _all(other)}
        for position in sorted(found, reverse=True)[:KEPT]:
            source, own = found[position], self._directory / position.name
            own.mkdir(parents=True, exist_ok=True)
            try:
                for name in (
                    _STATE,
                    manifest.FILENAME,
                ):  # the manifest last: without it there is no checkpoint
                    _link(source / name, own / name)
            except FileNotFoundError:
                shutil.rmtree(own)

    def latest(self) -> Position:
        """Position of the newest sound checkpoint; the beginning where there is none.

        Raises:
            MismatchError: It was made from other settings or inputs.
            DataError: Every checkpoint is damaged.
        """
        damaged: DataError | None = None
        for directory in reversed(_all(self._directory)):
            try:
                found = manifest.finished(directory, "checkpoint", self._settings, self._inputs)
                if found is None:
                    continue
                manifest.verify(directory, found)
            except DataError as error:
                _log.warning("checkpoint passed over: %s", error)
                damaged = error
                continue
            return _position(directory)
        if damaged:
            raise damaged
        return Position()

    def load(self, position: Position, device: torch.device) -> dict[str, Any]:
        """The state at a position.

        Raises:
            DataError: It is not there.
        """
        path = self._directory / position.name / _STATE
        if not path.is_file():
            raise DataError(
                f"checkpoint {path} is not there, though rank 0 sees it",
                expected="a root that every node sees alike",
                action="mount the same shared file system on every node",
            )
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state


def _all(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("epoch-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_position)


def _link(source: Path, own: Path) -> None:
    try:
        os.link(source, own)
    except FileNotFoundError:
        raise
    except OSError:  # no links here, or none to there
        shutil.copy2(source, own)


def _position(directory: Path) -> Position:
    found = _NAME.fullmatch(directory.name)
    assert found, f"{directory} is no checkpoint"
    return Position(int(found[1]), int(found[2] or 0))
