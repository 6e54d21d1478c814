"""What every stage is given, and how it decides that its work is done already."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS
from ukd_dist.cluster import Job, RayCluster
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.experiment import Experiment, StudentMember
from ukd_dist.manifest import Manifest
from ukd_dist.progress import Bar, Progress
from ukd_dist.rundir import CHECKPOINTS, RunDirectory

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
        workers: Ranks of every student in place of its own `workers`; what others began goes on with them.
        beside: What else is to be done in this root, by the experiment's own students or those of its study:
            they too may wait for teachers' weights.
    """

    run: RunDirectory
    experiment: Experiment
    cluster: RayCluster
    progress: Progress
    replace: bool = False
    workers: int | None = None
    beside: tuple[StudentMember, ...] = ()

    @property
    def waiting(self) -> tuple[StudentMember, ...]:
        """Every student that may wait for teachers' weights."""
        return (*self.experiment.students, *self.beside)

    def finished(self, directory: Path, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
        """Whether a directory that the calling stage makes holds exactly this work.

        With `replace`, other work in it, finished or begun, is dropped.

        Raises:
            MismatchError: It holds other work, and `replace` was not asked for.
        """
        try:
            if manifest.finished(directory, kind, settings, inputs):
                return True
            for begun in (f"{CHECKPOINTS}/*", f"{ATTEMPTS}/*/{CHECKPOINTS}/*"):
                for checkpoint in directory.glob(begun):
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


def shards_digest(run: RunDirectory) -> str:
    """What a stage names as its input: the digest of the finished shards.

    Raises:
        UsageError: There are none.
    """
    return finished_shards(run).digest()


def finished_shards(run: RunDirectory) -> Manifest:
    """The manifest of the finished shards.

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
    return found
