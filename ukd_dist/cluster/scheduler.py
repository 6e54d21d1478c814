"""The only scheduler on Ray: independent jobs as core tasks, a group of ranks by Ray Train.

State is never only in Ray: every job writes files under the run directory, and a job is started again after
a crash of its process or node because its files say that it is not done.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ukd_dist.cluster.localnodes import LocalNodes
from ukd_dist.cluster.nodes import alive_nodes, draining_nodes, metrics_addresses, require
from ukd_dist.cluster.ranks import GroupLostError, run_group
from ukd_dist.cluster.reservations import free_reservations
from ukd_dist.cluster.tasks import Job, Outcome, Tasks
from ukd_dist.cluster.worker import last_line
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import ResourceError, TrainingError

_REACH_SECONDS = 5.0


class RayCluster:
    """A Ray cluster, joined or started when the first work comes; a context manager that leaves or stops it.

    Args:
        settings: Address, retries and sizes.
        logs: Folder where each job's output goes.
        on_start: Called with the number of nodes once it is there.

    Attributes:
        was_asked: Whether there was any work for it.
    """

    def __init__(
        self, settings: Cluster, logs: Path, on_start: Callable[[int], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self.logs = logs
        self._on_start = on_start
        self._local: Any = None
        self._joined = False
        self.was_asked = False

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._joined:
            import ray

            ray.shutdown()
        if self._local is not None:
            self._local.shutdown()

    def begin(self, logs: Path) -> None:
        """Go on for another run directory, whose logs are there: `was_asked` speaks of its work alone."""
        self.logs, self.was_asked = logs, False

    def run(self, jobs: Sequence[Job], while_waiting: Callable[[], None] = lambda: None) -> Iterator[Outcome]:
        """Run jobs, a bounded number at a time; yields outcomes as they come, in any order.

        Raises:
            ResourceError: No node has what a job asks for.
        """
        if not jobs:
            return
        with self.tasks() as tasks:
            self.require([(job.resources, job.ranks) for job in jobs])
            for job in jobs:
                tasks.add(job)
            while tasks:
                outcomes = tasks.poll()
                while_waiting()
                yield from outcomes

    @contextmanager
    def tasks(self) -> Iterator[Tasks]:
        """Jobs that may be added to while others run; those that are left at the end are cancelled."""
        self._start()
        tasks = Tasks(self.logs, self._settings)
        try:
            yield tasks
        finally:
            tasks.close()

    def require(self, wanted: Iterable[tuple[Resources, int]]) -> None:
        """Refuse what the nodes do not have: resources, for so many ranks at once.

        Raises:
            ResourceError: They do not have what one of them asks for.
        """
        self._start()
        nodes = alive_nodes()
        for resources, ranks in {(r.model_dump_json(), n): (r, n) for r, n in wanted}.values():
            require(nodes, resources, ranks)

    def is_alive(self, node: str) -> bool:
        """Whether a node is one of the cluster's now."""
        return node in {found.id for found in alive_nodes()}

    def draining(self) -> set[str]:
        """Ids of nodes that are about to go."""
        return draining_nodes()

    def metrics_addresses(self) -> list[str]:
        """`host:port` where each node serves Ray's own metrics; none before the first work."""
        return metrics_addresses() if self._joined else []

    def run_ranks(
        self,
        name: str,
        function: Callable[[Any], None],
        begin: Callable[[], Any],
        workers: int,
        resources: Resources,
        while_waiting: Callable[[], None] = lambda: None,
        ask_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run `function(begin())` on `workers` ranks with torch.distributed initialised, spread over nodes.

        A lost rank or node restarts the group, on the nodes that are there then. `begin` is called here, once
        for each start, so that a start can be told from the ones before it, which may be at work still. On
        Ctrl-C `ask_to_stop` is called; if it asked, the ranks have `GRACE_SECONDS` to end by themselves.

        Raises:
            UkdError: What a rank raised.
            TrainingError: The group was lost more than `max_failures` times.
            ResourceError: The cluster is too small.
        """
        self._start()
        for attempt in range(self._settings.max_failures + 1):
            require(alive_nodes(), resources, count=workers)  # each time: a node may be gone for good
            try:
                run_group(
                    name,
                    function,
                    (begin(),),
                    workers,
                    resources,
                    self._settings,
                    self.logs,
                    while_waiting,
                    ask_to_stop,
                )
                return
            except GroupLostError as error:
                free_reservations()
                if attempt == self._settings.max_failures:
                    raise TrainingError(
                        f"{name} lost its ranks {attempt + 1} time(s), last: {error}",
                        expected=f"at most {attempt} (cluster.max_failures)",
                        action=f"see {self.logs}/{name}-*.log, and run again: it goes on from its checkpoint",
                    ) from error
                logging.getLogger(__name__).warning("%s lost a rank (%s); starting it again", name, error)

    def _start(self) -> None:
        self.was_asked = True
        if self._joined:
            return
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        self.logs.mkdir(parents=True, exist_ok=True)
        # Inside `ray job submit` Ray names its cluster in the environment.
        address = self._settings.address or os.environ.get("RAY_ADDRESS") or ""
        try:
            if not address:
                self._local = LocalNodes(self._settings)
                address = self._local.address
            _reach(address)
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise ResourceError(
                f"no Ray cluster at '{address}' ({last_line(error)})",
                expected="one that runs",
                action="start one (`ray start --head`), or remove cluster.address or RAY_ADDRESS",
            ) from error
        self._joined = True
        self._on_start(len(alive_nodes()))


def _reach(address: str) -> None:
    """Fail within seconds where nothing listens at `host:port`: ray.init would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
