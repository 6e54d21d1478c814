"""Checkpoints: atomic, verified, and bound to what they were made from.

A checkpoint is a directory `epoch-0003`, or within the fourth epoch `epoch-0003-step-000120`. `state.pt` is
what all ranks have in common, `rank-0000.pt` and so on what is each one's own, and there is a manifest, so
one that was cut off is not seen and one that was altered is named. The last two are kept, or as many as are
asked for: where the newest is damaged, training goes on from the one before. What they hold is the loop's
affair.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ukd_dist import manifest
from ukd_dist.errors import DataError

KEPT = 2
_STATE = "state.pt"
_RANKS = "ranks"
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


class Ranks(Protocol):
    """Who writes a checkpoint together, as an engine knows it."""

    rank: int
    ranks: int

    def wait_for_ranks(self) -> None:
        """Return when every rank has come here."""


class Checkpoints:
    """The checkpoints of one training.

    Args:
        directory: Where they lie.
        settings: What the training is; resuming with others is refused.
        inputs: Digests of what it reads; resuming with others is refused.
        kept: How many stay.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], inputs: dict[str, str], kept: int = KEPT
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._inputs = inputs
        self._kept = kept

    def save(self, position: Position, state: dict[str, Any], part: dict[str, Any], ranks: Ranks) -> None:
        """Commit the state at a position, and drop old ones; called on every rank.

        Args:
            position: Where the training is.
            state: What is common: tensors and plain values; rank 0's is written.
            part: What is this rank's own.
            ranks: Who calls.
        """
        directory = self._directory / position.name
        if ranks.rank == 0:
            shutil.rmtree(directory, ignore_errors=True)
        ranks.wait_for_ranks()
        _write(directory / _part(ranks.rank), part)
        ranks.wait_for_ranks()
        if ranks.rank == 0:
            _write(directory / _STATE, {**state, _RANKS: ranks.ranks})
            files = [_STATE, *map(_part, range(ranks.ranks))]
            manifest.commit(directory, "checkpoint", self._settings, self._inputs, files)
            for old in _all(self._directory)[: -self._kept]:
                shutil.rmtree(old, ignore_errors=True)

    def take(self, others: Sequence[Path]) -> None:
        """Take over the newest checkpoints of other directories, the later directory's where two are equal.

        Links where the file system has them: a checkpoint's files are never changed, only replaced. Whoever
        made them may be at work still, and drop one while it is being taken.
        """
        found = {_position(path): path for other in others for path in _all(other)}
        for position in sorted(found, reverse=True)[: self._kept]:
            source, own = found[position], self._directory / position.name
            own.mkdir(parents=True, exist_ok=True)
            try:
                for path in source.glob("*.pt"):
                    _link(path, own / path.name)
                _link(
                    source / manifest.FILENAME, own / manifest.FILENAME
                )  # without it there is no checkpoint
            except FileNotFoundError:
                shutil.rmtree(own)

    def take_over(self, others: Sequence[Path]) -> str:
        """As `take`; the name of the checkpoint that is gone on from, or empty.

        Raises:
            MismatchError, DataError: As `latest`.
        """
        self.take(others)
        began = self.latest()
        return began.name if any(began) else ""

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

    def load(self, position: Position) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The state at a position and every rank's part, on the CPU.

        Raises:
            DataError: It is not there.
        """
        directory = self._directory / position.name
        state = _read(directory / _STATE)
        return state, [_read(directory / _part(rank)) for rank in range(state[_RANKS])]


def _part(rank: int) -> str:
    return f"rank-{rank:04d}.pt"


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    manifest.write_atomically(path, buffer.getvalue())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"checkpoint {path} is not there, though rank 0 sees it",
            expected="a root that every node sees alike",
            action="mount the same shared file system on every node",
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
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
