"""One coordinator at work on a root: the lock, the metrics that it serves, the cluster that it uses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from ukd_dist.cancellation import cancellable
from ukd_dist.cluster import RayCluster
from ukd_dist.discovery import NODES, following
from ukd_dist.experiment import Experiment
from ukd_dist.exporter import exporting
from ukd_dist.live import watching
from ukd_dist.metrics import Committed
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, coordinating
from ukd_dist.scaling import as_begun, begin
from ukd_dist.stages.context import Context
from ukd_dist.status import committed_metrics, read_status


@contextmanager
def working(
    experiment: Experiment,
    progress: Progress,
    replace: bool = False,
    workers: int | None = None,
    cluster: RayCluster | None = None,
    asked: Experiment | None = None,
) -> Iterator[Context]:
    """Hold a root as its coordinator: serve metrics, show what goes on, stop when `ukd cancel` asks.

    Args:
        experiment: Whose root.
        progress: Who is told.
        replace: As in `Context`.
        workers: As in `Context`.
        cluster: Where it runs; None: the experiment's own, which starts with the first work.
        asked: What the work is on; None: the experiment itself.

    Raises:
        BusyError: Another process holds the root.
    """
    run, port = RunDirectory(experiment.root), experiment.cluster.metrics_port

    def committed() -> list[Committed]:
        return committed_metrics(run, experiment)

    with (
        coordinating(experiment),
        cancellable(run),
        exporting(run.metrics, experiment.name, port, committed) as served,
        nullcontext(cluster) if cluster else cluster_of(experiment, progress) as used,
        ExitStack() as stack,
    ):
        if served is not None:
            progress.say(f"metrics: http://{socket.gethostname()}:{served}/metrics")
            stack.enter_context(following(run.metrics / NODES, experiment.name, used.metrics_addresses))
        used.begin(run.logs)
        if asked not in (None, experiment):
            begin(run)
        stack.enter_context(watching(progress, lambda: read_status(run, experiment)))
        work = asked or experiment
        own = {student.id for student in work.students}
        beside = tuple(s for s in as_begun(run, experiment).students if s.id not in own)
        yield Context(run, work, used, progress, replace, workers, beside)


def cluster_of(experiment: Experiment, progress: Progress) -> RayCluster:
    """The cluster that the experiment names, or this machine's own; it starts with the first work."""

    def started(num_nodes: int) -> None:
        progress.say(f"Ray: {num_nodes} node(s); logs in {cluster.logs}")

    cluster = RayCluster(experiment.cluster, RunDirectory(experiment.root).logs, started)
    return cluster
