"""Members' histories as TensorBoard event files, a folder a member: what its checkpoints stand for, once.

They are made of history.jsonl, so an epoch that was trained again after a kill is one point, and a training
that is made again starts a folder anew. Left out: steps within an epoch, which Prometheus has.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from ukd_dist.attempts import with_history
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import as_begun
from ukd_dist.stages.results import read_result
from ukd_dist.training.history import Epoch, read_epochs


class EventFiles:
    """The event files of one run; those that are there are made anew.

    Args:
        run: Whose members.
        experiment: Names them.
        folder: Where a member's files lie, in `teachers/<id>` or `students/<id>`.
    """

    def __init__(self, run: RunDirectory, experiment: Experiment, folder: Path) -> None:
        self._run, self._experiment, self._folder = run, experiment, folder
        self._writers: dict[Path, Any] = {}
        self._written: dict[Path, list[Epoch]] = {}
        self._evaluated: set[Path] = set()

    def __enter__(self) -> EventFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def update(self) -> int:
        """Write what is new; returns how many epochs that is.

        Raises:
            DataError: A history or a result is damaged.
        """
        experiment = as_begun(self._run, self._experiment)
        members = [self._run.teacher(member.id) for member in experiment.teachers]
        members += [self._run.student(member.id) for member in experiment.students]
        return sum(self._update(member) for member in members)

    def _update(self, member: Path) -> int:
        epochs, written = read_epochs(with_history(member)), self._written.get(member, [])
        if epochs[: len(written)] != written:  # it is made again
            self._forget(member)
            written = []
        for epoch in epochs[len(written) :]:
            _write(self._writer(member), epoch)
        self._written[member] = epochs
        result = read_result(member) if epochs and member not in self._evaluated else None
        if result is not None:
            self._writer(member).add_scalar("accuracy/test", result.top1, len(epochs))
            self._evaluated.add(member)
        if member in self._writers:
            self._writers[member].flush()
        return len(epochs) - len(written)

    def _writer(self, member: Path) -> Any:
        from tensorboardX import SummaryWriter

        if member not in self._writers:
            place = self._folder / member.parent.name / member.name
            shutil.rmtree(place, ignore_errors=True)
            self._writers[member] = SummaryWriter(str(place), write_to_disk=True)
        return self._writers[member]

    def _forget(self, member: Path) -> None:
        if member in self._writers:
            self._writers.pop(member).close()
        self._evaluated.discard(member)


def _write(writer: Any, epoch: Epoch) -> None:
    scalars = {
        "accuracy/train": epoch.accuracy,
        "lr": epoch.lr,
        "epoch/seconds": epoch.seconds,
        "epoch/data_wait_seconds": epoch.data_wait_seconds,
        "epoch/peak_memory_mib": epoch.peak_memory_bytes / 2**20,
        **{f"loss/{kind}": loss for kind, loss in epoch.losses.items()},
    }
    for name, value in scalars.items():
        writer.add_scalar(name, value, epoch.epoch)
