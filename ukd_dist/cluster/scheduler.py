"""The only scheduler on Ray: independent jobs as core tasks, a group of ranks by Ray Train.

State is never only in Ray: every job writes files under the run directory, and a job is started again after
a crash of its process or node because its files say that it is not done.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist.cluster.localnodes import LocalNodes
from ukd_dist.cluster.ranks import GroupLostError, free_reservations, run_group
from ukd_dist.cluster.worker import last_line, run_job
from ukd_dist.config import Cluster, Resources
from ukd_dist.errors import ResourceError, TrainingError, UkdError

ONE_CPU = Resources(cpus=1)
_POLL_SECONDS = 0.5
_REACH_SECONDS = 5.0
_WINDOW = 2  # tasks submitted beyond those that can run, so that no worker waits for the coordinator


@dataclass(frozen=True)
class Job:
    """One piece of independent work.

    Attributes:
        name: Names the log file, and the job in messages.
        function: An importable function.
        arguments: Its arguments; anything that pickles.
        resources: What Ray reserves for it.
        fresh_process: Run it in a process of its own, which ends with it.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: Resources = ONE_CPU
    fresh_process: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its value, or the error that ended it."""

    job: Job
    value: Any = None
    error: UkdError | None = None


class RayCluster:
    """A Ray cluster, joined or started when the first work comes; a context manager that leaves or stops it.

    Args:
        settings: Address, retries and sizes.
        logs: Folder where each job's output goes.
        on_start: Called with the number of nodes once it is there.
    """

    def __init__(
        self, settings: Cluster, logs: Path, on_start: Callable[[int], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self.logs = logs
        self._on_start = on_start
        self._local: Any = None
        self.started = False

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self.started:
            import ray

            ray.shutdown()
        if self._local is not None:
            self._local.shutdown()

    def run(self, jobs: Sequence[Job], while_waiting: Callable[[], None] = lambda: None) -> Iterator[Outcome]:
        """Run jobs, a bounded number at a time; yields outcomes as they come, in any order.

        Raises:
            ResourceError: No node has what a job asks for.
        """
        import ray

        if jobs:
            self._start()
        for resources in {job.resources for job in jobs}:
            self._require(resources)
        # A window for each kind of resources: CPU jobs that fill theirs must not keep a GPU waiting.
        waiting: dict[Resources, list[Job]] = {}
        for job in reversed(jobs):
            waiting.setdefault(job.resources, []).append(job)
        windows = {resources: self._slots(resources) + _WINDOW for resources in waiting}
        running: dict[Any, Job] = {}
        try:
            while running or any(waiting.values()):
                for resources, left in waiting.items():
                    active = sum(job.resources == resources for job in running.values())
                    for _ in range(min(len(left), windows[resources] - active)):
                        job = left.pop()
                        running[self._submit(job)] = job
                done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
                while_waiting()
                for reference in done:
                    yield self._outcome(running.pop(reference), reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def run_ranks(
        self,
        name: str,
        function: Callable[[Any], None],
        argument: Any,
        workers: int,
        resources: Resources,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Run `function(argument)` on `workers` ranks with torch.distributed initialised, spread over nodes.

        A lost rank or node restarts the group, which goes on from its last checkpoint.

        Raises:
            UkdError: What a rank raised.
            TrainingError: The group failed more than `max_failures` times.
            ResourceError: The cluster is too small.
        """
        self._start()
        for attempt in range(self._settings.max_failures + 1):
            self._require(resources, count=workers)  # each time: a node may be gone for good
            try:
                run_group(name, function, argument, workers, resources, self.logs, while_waiting)
                return
            except GroupLostError as error:
                free_reservations()
                if attempt == self._settings.max_failures:
                    raise TrainingError(
                        f"{name} failed {attempt + 1} times, last: {error}",
                        expected=f"at most {attempt} (cluster.max_failures)",
                        action=f"see {self.logs}/{name}-*.log",
                    ) from error
                logging.getLogger(__name__).warning("%s lost a rank (%s); starting it again", name, error)

    def _start(self) -> None:
        if self.started:
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
        self.started = True
        self._on_start(len(self._nodes()))

    def _require(self, resources: Resources, count: int = 1) -> None:
        """Refuse what the cluster can never give."""
        nodes = self._nodes()
        fits = sum(_copies(node, resources) for node in nodes)
        if fits < count:
            have = ", ".join(_describe(n["CPU"], n["GPU"], n["memory"] / 2**30) for n in nodes)
            raise ResourceError(
                f"{count} x ({_describe(resources.cpus, resources.gpus, resources.memory_gib)}) "
                f"were asked for, but the cluster's {len(nodes)} nodes have {have}",
                expected="nodes with that much",
                action="lower resources or workers in the experiment, or add nodes",
            )

    def _nodes(self) -> list[dict[str, float]]:
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [{kind: float(r.get(kind, 0)) for kind in ("CPU", "GPU", "memory")} for r in alive]

    def _slots(self, resources: Resources) -> int:
        return sum(_copies(node, resources) for node in self._nodes())

    def _submit(self, job: Job) -> Any:
        import ray

        options: dict[str, Any] = {
            "num_cpus": job.resources.cpus,
            "num_gpus": job.resources.gpus,
            "max_retries": self._settings.max_failures,
            # A process that has used a GPU holds memory on it until it ends.
            "max_calls": 1 if job.fresh_process or job.resources.gpus else 0,
            "scheduling_strategy": "SPREAD",
        }
        if job.resources.memory_gib:
            options["memory"] = int(job.resources.memory_gib * 2**30)
        remote = ray.remote(**options)(run_job)
        return remote.options(name=job.name).remote(
            self.logs / f"{job.name}.log", job.function, job.arguments
        )

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        import ray

        try:
            return Outcome(job, value=ray.get(reference))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UkdError):
                return Outcome(job, error=cause)
            log = self.logs / f"{job.name}.log"
            failure = TrainingError(
                f"{job.name} failed: {last_line(error)}", expected="the job to finish", action=f"see {log}"
            )
            return Outcome(job, error=failure)


def _describe(cpus: float, gpus: float, memory_gib: float | None) -> str:
    return f"{cpus:g} CPUs and {gpus:g} GPUs" + (f" and {memory_gib:.1f} GiB" if memory_gib else "")


def _copies(node: dict[str, float], resources: Resources) -> int:
    """How many processes of a kind fit on a node."""
    by_gpus = node["GPU"] / resources.gpus if resources.gpus else math.inf
    by_memory = node["memory"] / (resources.memory_gib * 2**30) if resources.memory_gib else math.inf
    return int(min(node["CPU"] / resources.cpus, by_gpus, by_memory))


def _reach(address: str) -> None:
    """Fail within seconds where nothing listens at `host:port`: ray.init would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
