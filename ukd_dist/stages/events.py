"""Members' histories as TensorBoard event files, a folder a member: what its checkpoints stand for, once.

They are made of history.jsonl, so an epoch that was trained again after a kill is one point, and a training
that is made again starts a folder anew. Left out: steps within an epoch, which Prometheus has.
"""

from __future__ import annotations

import shutil
from pathlib import Path
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
        self._written: dict[Path, list[Epoch]] = {}
        self._evaluated: set[Path] = set()

    def update(self) -> int:
        """Write what is new, a further file for each member that has something; returns how many epochs.

        Raises:
            DataError: A history or a result is damaged.
        """
        experiment = as_begun(self._run, self._experiment)
        members = [self._run.teacher(member.id) for member in experiment.teachers]
        members += [self._run.student(member.id) for member in experiment.students]
        return sum(self._update(member) for member in members)

    def _update(self, member: Path) -> int:
        from tensorboardX import SummaryWriter

        epochs, written = read_epochs(with_history(member)), self._written.get(member, [])
        place = self._folder / member.parent.name / member.name
        if not written or epochs[: len(written)] != written:  # the first look, or it is made again
            shutil.rmtree(place, ignore_errors=True)
            self._evaluated.discard(member)
            written = []
        new = epochs[len(written) :]
        result = read_result(member) if epochs and member not in self._evaluated else None
        if new or result is not None:
            # Closed at once: a thousand members would need more files at a time than a process may have.
            with SummaryWriter(str(place), filename_suffix=f".{len(written)}") as writer:
                for epoch in new:
                    _write(writer, epoch)
                if result is not None:
                    writer.add_scalar("accuracy/test", result.top1, len(epochs))
                    self._evaluated.add(member)
        self._written[member] = epochs
        return len(new)


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
