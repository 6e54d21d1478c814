"""What every stage is given, and how it decides that its work is done already."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.cluster import Job, RayCluster
from ukd_dist.errors import DataError, MismatchError, TrainingError, UkdError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Bar, Progress
from ukd_dist.rundir import ERROR, RunDirectory, leave_error

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """One coordinator's work on one root.

    Attributes:
        run: Where everything lies.
        experiment: What is to be done.
        cluster: Where it runs.
        progress: Who is told.
        replace: Make again what was made from other settings or inputs, instead of refusing.
    """

    run: RunDirectory
    experiment: Experiment
    cluster: RayCluster
    progress: Progress
    replace: bool = False

    def finished(self, directory: Path, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
        """Whether a directory that the calling stage makes holds exactly this work.

        With `replace`, other work in it, finished or begun, is dropped.

        Raises:
            MismatchError: It holds other work, and `replace` was not asked for.
        """
        try:
            if manifest.finished(directory, kind, settings, inputs):
                return True
            for checkpoint in directory.glob("checkpoint/*"):
                with suppress(DataError):  # a damaged one is passed over when training resumes
                    manifest.finished(checkpoint, "checkpoint", settings, inputs)
        except MismatchError as error:
            if not self.replace:
                raise
            _log.warning("making %s again: %s", directory, error.problem)
            manifest.drop(directory)
        return False

    def values(self, jobs: Sequence[Job], bar: Bar) -> Iterator[Any]:
        """What jobs return, in their order: sums of floating-point numbers depend on it.

        Each that is done advances the bar, and the first error ends them.

        Raises:
            UkdError: What a job raised.
        """
        names, done = deque(job.name for job in jobs), dict[str, Any]()
        for outcome in self.cluster.run(jobs):
            if outcome.error is not None:
                raise outcome.error
            bar.advance()
            done[outcome.job.name] = outcome.value
            while names and names[0] in done:
                yield done.pop(names.popleft())

    def run_members(
        self,
        what: str,
        jobs: Sequence[Job],
        directory: Callable[[str], Path],
        epochs: Callable[[], float],
        total_epochs: int,
    ) -> None:
        """Run one job a member and show their epochs; the others go on when one fails.

        Args:
            what: Name of the work.
            jobs: One job a member, named by the member's id.
            directory: A member's directory, where its error is left.
            epochs: Epochs done by all members, read from the run directory.
            total_epochs: Of all members.

        Raises:
            TrainingError: Some members failed; names the first and counts them.
        """
        for job in jobs:
            (directory(job.name) / ERROR).unlink(missing_ok=True)
        failed: list[tuple[str, UkdError]] = []
        with self.progress.bar(what, total_epochs, "epochs") as bar:
            for outcome in self.cluster.run(jobs, lambda: bar.update(epochs())):
                if outcome.error is not None:
                    failed.append((outcome.job.name, outcome.error))
                    leave_error(directory(outcome.job.name), outcome.error)
            bar.update(epochs())
        if failed:
            first, error = failed[0]
            raise TrainingError(
                f"{len(failed)} of {len(jobs)} {what} failed, first {first}: {error.problem}",
                expected=error.expected,
                action=f"{error.action}, and run again: the others are kept",
            )


def shards_digest(run: RunDirectory) -> str:
    """What a stage names as its input: the digest of the finished shards.

    Raises:
        UsageError: There are none.
    """
    found = manifest.read(run.shards)
    if found is None:
        raise UsageError(
            f"{run.shards} holds no finished shards",
            expected="a manifest",
            action="make them with `ukd shard`",
        )
    return found.digest()
