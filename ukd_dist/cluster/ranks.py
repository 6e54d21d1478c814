"""A group of ranks with torch.distributed between them, placed and watched by Ray Train."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ukd_dist.cluster.worker import STARTED_ON, current_node, last_line, run_rank
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import UkdError

_POLL_SECONDS = 0.5
GRACE_SECONDS = 20.0  # for a step and a checkpoint, where the coordinator is asked to stop
_FOR_EVER_SECONDS = "1e8"


class GroupLostError(Exception):
    """A group of ranks ended, but not by an error of ours.

    Attributes:
        raised: What a rank raised; None where one was lost.
    """

    def __init__(self, message: str, raised: BaseException | None = None) -> None:
        super().__init__(message)
        self.raised = raised


def run_group(
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    workers: int,
    resources: Resources,
    settings: Cluster,
    logs: Path,
    while_waiting: Callable[[], None] = lambda: None,
    ask_to_stop: Callable[[], bool] = lambda: False,
    start_failures: int = 3,
) -> Any:
    """Run `function(*arguments)` on every rank of a group, once, and wait for its end.

    Args:
        name: Names the ranks' logs, `<logs>/<name>-rank<n>.log`.
        function: An importable function.
        arguments: Its arguments.
        workers: Ranks, spread over nodes.
        resources: Of each rank; GPUs make it an NCCL group, none a gloo group.
        settings: How they talk.
        logs: Folder of the logs.
        while_waiting: Called now and then, and when the group has ended.
        ask_to_stop: Called on Ctrl-C; if it asked, the ranks have `GRACE_SECONDS` to end by themselves.
        start_failures: Starts that fail or time out, after 60 s each, before the group counts as lost.

    Returns:
        What rank 0 returned.

    Raises:
        UkdError: What a rank raised.
        GroupLostError: A rank raised something else, or was lost.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    trainer = TorchTrainer(
        run_rank,
        train_loop_config={"log": logs / name, "function": function, "arguments": arguments},
        torch_config=TorchConfig(
            backend="nccl" if resources.gpus else "gloo", timeout_s=round(60 * settings.rank_timeout_minutes)
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=_per_worker(resources),
            placement_strategy="SPREAD",
            label_selector=dict(resources.node_labels) or None,
        ),
        run_config=RunConfig(
            storage_path=str(logs / "ray_train"),
            name=name,
            worker_runtime_env={"env_vars": settings.rank_environment | {STARTED_ON: current_node()}},
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=start_failures, max_preemption_failures=0
            ),
        ),
    )
    try:
        return _in_a_thread(trainer.fit, while_waiting, ask_to_stop).return_value
    except RayError as error:  # its controller died
        raise GroupLostError(last_line(error)) from error
    except TrainingFailedError as error:
        failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
        for failure in failures:
            if isinstance(failure, UkdError):
                raise failure from error
        raised = None if any(map(_is_loss, failures)) else next(iter(failures), None)
        raise GroupLostError(last_line(failures[0] if failures else error), raised) from error


def run_group_alone(
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    workers: int,
    resources: Resources,
    settings: Cluster,
    logs: Path,
) -> Any:
    """`run_group` in a process of its own (a Ray task): it waits for room as long as it takes."""
    # Ray Train tells its controller by the environment alone.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = _FOR_EVER_SECONDS
    return run_group(name, function, arguments, workers, resources, settings, logs, start_failures=0)


def _is_loss(failure: BaseException) -> bool:
    """Whether a rank was lost, or complains that it lost another one, as gloo and NCCL do."""
    of_ray = type(failure).__module__.startswith("ray.")
    of_nccl = any(kind.__name__ == "DistError" for kind in type(failure).__mro__)
    return of_ray or of_nccl or "gloo" in str(failure)


def _in_a_thread(
    function: Callable[[], Any], while_waiting: Callable[[], None], ask_to_stop: Callable[[], bool]
) -> Any:
    """What a function returns that is called in a thread of its own, so that Ctrl-C is as everywhere.

    In the main thread Ray Train answers it with a handler of its own, which is lost on a group that is about
    to end, and which stays afterwards.
    """
    results: list[Any] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=call, daemon=True).start()
    try:
        # Not by join: a thread that is joined counts as ended once that is interrupted (Python 3.11).
        while not ended.wait(_POLL_SECONDS):
            while_waiting()
        while_waiting()
    except KeyboardInterrupt:
        if ask_to_stop():
            ended.wait(GRACE_SECONDS)
        raise
    if failures:
        raise failures[0]
    return results[0]


def _per_worker(resources: Resources) -> dict[str, float]:
    """What Ray Train reserves for a rank, as Ray names it."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": (resources.memory_gib or 0) * 2**30}
    return {kind: amount for kind, amount in wanted.items() if amount}
