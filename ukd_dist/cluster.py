"""The only module that schedules on Ray: independent jobs as core tasks, a group of ranks by Ray Train.

State is never only in Ray: every job writes files under the run directory, and a job is started again after
a crash of its process or node because its files say that it is not done.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist.config import Cluster, Resources
from ukd_dist.errors import ResourceError, TrainingError, UkdError
from ukd_dist.localnodes import LocalNodes
from ukd_dist.worker import run_job, run_rank

ONE_CPU = Resources(cpus=1)
_POLL_SECONDS = 0.5
_REACH_SECONDS = 5.0
_CONTROLLER_FAILURES = 3  # group starts that time out, 60 s each, before a group counts as failed
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
        self._logs = logs
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
                with _calling(while_waiting):
                    self._fit(name, function, argument, workers, resources)
                return
            except _GroupError as error:
                _free_reservations()
                if attempt == self._settings.max_failures:
                    raise TrainingError(
                        f"{name} failed {attempt + 1} times, last: {error}",
                        expected=f"at most {attempt} (cluster.max_failures)",
                        action=f"see {self._logs}/{name}-*.log",
                    ) from error
                logging.getLogger(__name__).warning("%s lost a rank (%s); starting it again", name, error)

    def _start(self) -> None:
        if self.started:
            return
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        self._logs.mkdir(parents=True, exist_ok=True)
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
                f"no Ray cluster at '{address}' ({_last_line(error)})",
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
            self._logs / f"{job.name}.log", job.function, job.arguments
        )

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        import ray

        try:
            return Outcome(job, value=ray.get(reference))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UkdError):
                return Outcome(job, error=cause)
            log = self._logs / f"{job.name}.log"
            failure = TrainingError(
                f"{job.name} failed: {_last_line(error)}", expected="the job to finish", action=f"see {log}"
            )
            return Outcome(job, error=failure)

    def _fit(
        self, name: str, function: Callable[[Any], None], argument: Any, workers: int, resources: Resources
    ) -> None:
        from ray.exceptions import RayError
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

        trainer = TorchTrainer(
            run_rank,
            train_loop_config={"log": self._logs / name, "function": function, "argument": argument},
            torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=_per_worker(resources),
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(
                storage_path=str(self._logs / "ray_train"),
                name=name,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=_CONTROLLER_FAILURES),
            ),
        )
        try:
            with _own_interrupt():
                trainer.fit()
        except RayError as error:  # its controller died
            raise _GroupError(_last_line(error)) from error
        except TrainingFailedError as error:
            failures = (
                list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
            )
            for failure in failures:
                cause = getattr(failure, "cause", failure)
                if isinstance(cause, UkdError):
                    raise cause from error
            raise _GroupError(_last_line(failures[0] if failures else error)) from error


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Ctrl-C as everywhere: Ray Train answers it with its own handler, and keeps that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _free_reservations() -> None:
    """Give back what groups of this process still hold.

    Where a rank is lost while its group starts, Ray Train (2.60) keeps the group's placement group, and with it
    the ranks that are left; the next start would wait for their CPUs for ever.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    own = ray.get_runtime_context().get_job_id()  # the end of the id of everything that this process made
    for group_id, group in placement_group_table().items():
        if group_id.endswith(own) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group_id)))


def _per_worker(resources: Resources) -> dict[str, float]:
    """What Ray Train reserves for a rank, as Ray names it."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": (resources.memory_gib or 0) * 2**30}
    return {kind: amount for kind, amount in wanted.items() if amount}


def _describe(cpus: float, gpus: float, memory_gib: float | None) -> str:
    return f"{cpus:g} CPUs and {gpus:g} GPUs" + (f" and {memory_gib:.1f} GiB" if memory_gib else "")


def _copies(node: dict[str, float], resources: Resources) -> int:
    """How many processes of a kind fit on a node."""
    by_gpus = node["GPU"] / resources.gpus if resources.gpus else math.inf
    by_memory = node["memory"] / (resources.memory_gib * 2**30) if resources.memory_gib else math.inf
    return int(min(node["CPU"] / resources.cpus, by_gpus, by_memory))


class _GroupError(Exception):
    """A group of ranks ended for no reason of its own."""


def _reach(address: str) -> None:
    """Fail within seconds where nothing listens at `host:port`: ray.init would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()


@contextmanager
def _calling(function: Callable[[], None]) -> Iterator[None]:
    """Call a function now and then from a thread of its own; the last time when the block has ended."""
    ended = threading.Event()

    def call() -> None:
        while not ended.wait(_POLL_SECONDS):
            function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        function()


def _last_line(error: BaseException) -> str:
    lines = [line for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
