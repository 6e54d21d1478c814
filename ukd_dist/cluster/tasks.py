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
from ukd_dist.cluster.ranks import run_group_alone
from ukd_dist.cluster.reservations import Reservations
from ukd_dist.cluster.waiting import Waiting, Wanted
from ukd_dist.cluster.worker import run_job
from ukd_dist.cluster_config import Cluster, Resources
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
        avoid: Id of a node where it does not run while another can take it; of one rank.
        ranks: Processes that run the function together, each with such resources and torch.distributed
            between them; the job's value is rank 0's.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: Resources = ONE_CPU
    fresh_process: bool = False
    retries: int | None = None
    avoid: str = ""
    ranks: int = 1

    @property
    def kind(self) -> str:
        """Equal for jobs that compete for the same slots."""
        return f"{self.ranks} x {self.resources.model_dump_json(exclude={'priority'})}"


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
        settings: Retries of a job that says nothing of them, and how ranks talk.
    """

    def __init__(self, logs: Path, settings: Cluster) -> None:
        import ray

        self._logs = logs
        self._settings = settings
        self._remotes = {fresh: ray.remote(max_calls=int(fresh))(run_job) for fresh in (False, True)}
        # A queue for each kind of resources: CPU jobs that fill their window must not keep a GPU waiting.
        self._queues: dict[str, list[tuple[int, int, Job]]] = {}
        self._delayed: list[tuple[float, int, Job]] = []
        self._running: dict[Any, Job] = {}
        self._order = 0
        self._nodes: list[Node] = []
        self._looked = -math.inf
        self._waiting = Waiting()
        self._reservations = Reservations()

    def __bool__(self) -> bool:
        return bool(self._running or self._delayed or any(self._queues.values()))

    def add(self, job: Job, delay_seconds: float = 0.0) -> None:
        """Queue a job: of one priority those that came first go first."""
        self._order += 1
        heapq.heappush(self._delayed, (time.monotonic() + delay_seconds, self._order, job))

    def cancel(self, name: str) -> None:
        """Stop a job that is submitted, by force; nothing comes of it any more."""
        for reference in [reference for reference, job in self._running.items() if job.name == name]:
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
        return [self._outcome(self._take(reference), reference) for reference in done]

    def close(self) -> None:
        """Cancel what is left."""
        for reference in list(self._running):
            self._cancel(reference)

    def _submit_due(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            _, order, job = heapq.heappop(self._delayed)
            queue = self._queues.setdefault(job.kind, [])
            heapq.heappush(queue, (-job.resources.priority, order, job))
        active = Counter(job.kind for job in self._running.values())
        # The more urgent kinds first: Ray takes tasks that fit in the order in which they came. Of one
        # priority groups, for which an empty cluster has room at once.
        waiting = [queue for queue in self._queues.values() if queue]
        for queue in sorted(waiting, key=lambda queue: (queue[0][0], -queue[0][2].ranks, queue[0][1])):
            room = self._room_for(queue[0][2])
            while queue and active[queue[0][2].kind] < room and self._may_begin(queue[0][2]):
                job = heapq.heappop(queue)[2]
                self._running[self._submit(job)] = job
                active[job.kind] += 1

    def _room_for(self, job: Job) -> int:
        """How many jobs of a kind are submitted when the cluster has nothing else to do."""
        slots = sum(copies(node, job.resources) for node in self._nodes)
        return slots + _WINDOW if job.ranks == 1 else slots // job.ranks

    def _may_begin(self, job: Job) -> bool:
        """Whether a job takes no slot that a group waits for, which needs several of them at once."""
        name = self._reservations.starting()
        if not name:
            return True
        if job.ranks > 1:
            return False
        (group,) = (running for running in self._running.values() if running.name == name)
        shared = any(copies(node, job.resources) and copies(node, group.resources) for node in self._nodes)
        return not shared or self._room_for(group) == 0

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
        return {
            kind: Wanted(of[0].resources, of[0].name, len(of), of[0].ranks) for kind, of in jobs.items() if of
        }

    def _submit(self, job: Job) -> Any:
        if job.ranks > 1:
            return self._submit_group(job)
        resources = job.resources
        options: dict[str, Any] = {
            "name": job.name,
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_retries": self._settings.max_failures if job.retries is None else job.retries,
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

    def _submit_group(self, job: Job) -> Any:
        """Submit what waits for a group; the ranks' resources Ray Train reserves for each of them."""
        self._reservations.begin(job.name)
        group = (job.name, job.function, job.arguments, job.ranks, job.resources, self._settings, self._logs)
        options: dict[str, Any] = {
            "name": job.name,
            "num_cpus": 0,
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        return self._remotes[True].options(**options).remote(self._log(job), run_group_alone, group)

    def _take(self, reference: Any) -> Job:
        """A job that is no longer on its way."""
        job = self._running.pop(reference)
        if job.ranks > 1:
            self._reservations.end(job.name)
        return job

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
        self._take(reference)
