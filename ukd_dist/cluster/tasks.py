"""Jobs as Ray tasks: queued by priority, a bounded number of them submitted, their outcomes as they come."""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist.cluster.failures import Failure, classify
from ukd_dist.cluster.nodes import Node, alive_nodes, copies
from ukd_dist.cluster.waiting import Waiting, Wanted
from ukd_dist.cluster.worker import run_job
from ukd_dist.cluster_config import Resources
from ukd_dist.errors import UkdError

ONE_CPU = Resources(cpus=1)
_POLL_SECONDS = 0.5
_WINDOW = 2  # tasks submitted beyond those that can run, so that no worker waits for the coordinator
_NODES_SECONDS = 5.0  # how long it is believed which nodes there are: they come and go
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One piece of independent work.

    Attributes:
        name: Names the log file, and the job in messages.
        function: An importable function.
        arguments: Its arguments; anything that pickles.
        resources: What Ray reserves for it, and which jobs go first.
        fresh_process: Run it in a process of its own, which ends with it.
        retries: How often Ray starts it again after its process or node died; None: `cluster.max_failures`.
        avoid: Id of a node where it does not run while another can take it.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: Resources = ONE_CPU
    fresh_process: bool = False
    retries: int | None = None
    avoid: str = ""

    @property
    def kind(self) -> str:
        """Equal for jobs that compete for the same slots."""
        return self.resources.model_dump_json(exclude={"priority"})


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its value, or why it failed."""

    job: Job
    value: Any = None
    failure: Failure | None = None

    @property
    def error(self) -> UkdError | None:
        """What is said of its failure."""
        return self.failure.error if self.failure else None


class Tasks:
    """Jobs on their way; what is left of them when it is closed is cancelled.

    Args:
        logs: Folder of the jobs' logs.
        retries: Of a job that says nothing of them.
    """

    def __init__(self, logs: Path, retries: int) -> None:
        import ray

        self._logs = logs
        self._retries = retries
        self._remotes = {fresh: ray.remote(max_calls=int(fresh))(run_job) for fresh in (False, True)}
        # A queue for each kind of resources: CPU jobs that fill their window must not keep a GPU waiting.
        self._queues: dict[str, list[tuple[int, int, Job]]] = {}
        self._delayed: list[tuple[float, int, Job]] = []
        self._running: dict[Any, Job] = {}
        self._order = 0
        self._nodes: list[Node] = []
        self._looked = -math.inf
        self._waiting = Waiting()

    def __bool__(self) -> bool:
        return bool(self._running or self._delayed or any(self._queues.values()))

    def add(self, job: Job, delay_seconds: float = 0.0) -> None:
        """Queue a job: of one priority those that came first go first."""
        self._order += 1
        heapq.heappush(self._delayed, (time.monotonic() + delay_seconds, self._order, job))

    def cancel(self, name: str) -> None:
        """Stop a job that is submitted, by force; nothing comes of it any more."""
        for reference in [reference for reference, job in self._running.items() if job.name == name]:
            del self._running[reference]
            self._cancel(reference)

    def withdraw(self) -> None:
        """Forget the jobs that are not submitted."""
        self._delayed.clear()
        self._queues.clear()

    def submitted(self) -> list[str]:
        """Names of the jobs that run, or wait at Ray for their turn."""
        return [job.name for job in self._running.values()]

    def poll(self) -> list[Outcome]:
        """Submit what has its turn, and wait a moment for outcomes."""
        import ray

        self._look_at_nodes()
        self._submit_due()
        if not self._running:
            time.sleep(_POLL_SECONDS)
            return []
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_SECONDS)
        return [self._outcome(self._running.pop(reference), reference) for reference in done]

    def close(self) -> None:
        """Cancel what is left."""
        for reference in self._running:
            self._cancel(reference)
        self._running.clear()

    def _submit_due(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _, order, job = heapq.heappop(self._delayed)
            queue = self._queues.setdefault(job.kind, [])
            heapq.heappush(queue, (-job.resources.priority, order, job))
        active = Counter(job.kind for job in self._running.values())
        # The more urgent kinds first: Ray takes tasks that fit in the order in which they came.
        for kind, queue in sorted(self._queues.items(), key=lambda item: item[1][:1]):
            room = self._slots_of(queue[0][2]) + _WINDOW if queue else 0
            while queue and active[kind] < room:
                job = heapq.heappop(queue)[2]
                self._running[self._submit(job)] = job
                active[kind] += 1

    def _slots_of(self, job: Job) -> int:
        """How many jobs of a kind run at once when the cluster has nothing else to do."""
        return sum(copies(node, job.resources) for node in self._nodes)

    def _look_at_nodes(self) -> None:
        """See which nodes there are, now and then, and say what none of them can run."""
        if time.monotonic() - self._looked < _NODES_SECONDS:
            return
        self._nodes, self._looked = alive_nodes(), time.monotonic()
        for line in self._waiting.look(self._wanted(), self._nodes, self._looked):
            _log.warning(line)

    def _wanted(self) -> dict[str, Wanted]:
        """What is submitted or has its turn, by its kind."""
        jobs: dict[str, list[Job]] = {}
        for job in self._running.values():
            jobs.setdefault(job.kind, []).append(job)
        for kind, queue in self._queues.items():
            jobs.setdefault(kind, []).extend(job for *_, job in queue)
        return {kind: Wanted(of[0].resources, of[0].name, len(of)) for kind, of in jobs.items() if of}

    def _submit(self, job: Job) -> Any:
        resources = job.resources
        options: dict[str, Any] = {
            "name": job.name,
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_retries": self._retries if job.retries is None else job.retries,
            "scheduling_strategy": "SPREAD",
        }
        if resources.memory_gib:
            options["memory"] = int(resources.memory_gib * 2**30)
        if resources.node_labels or job.avoid:
            options["label_selector"] = dict(resources.node_labels)
        if job.avoid:
            options["label_selector"]["ray.io/node-id"] = f"!{job.avoid}"
            options["fallback_strategy"] = [{"label_selector": dict(resources.node_labels)}]
        # A process that has used a GPU holds memory on it until it ends.
        fresh = job.fresh_process or resources.gpus > 0
        return (
            self._remotes[fresh]
            .options(**options)
            .remote(self._log(job), job.function, job.arguments, resources.gpus > 0)
        )

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        import ray

        try:
            return Outcome(job, value=ray.get(reference))
        except Exception as error:  # noqa: BLE001 - the one job boundary: Ray hands over what the job raised
            return Outcome(job, failure=classify(error, job.name, self._log(job)))

    def _log(self, job: Job) -> Path:
        return self._logs / f"{job.name}.log"

    def _cancel(self, reference: Any) -> None:
        import ray

        ray.cancel(reference, force=True)
