"""A group of ranks with torch.distributed between them, placed and watched by Ray Train."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ukd_dist.cluster.worker import last_line, run_rank
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import UkdError

_POLL_SECONDS = 0.5
_CONTROLLER_FAILURES = 3  # group starts that time out, 60 s each, before a group counts as failed


class GroupLostError(Exception):
    """A group of ranks ended for no reason of its own."""


def run_group(
    name: str,
    function: Callable[[Any], None],
    argument: Any,
    workers: int,
    resources: Resources,
    settings: Cluster,
    logs: Path,
    while_waiting: Callable[[], None],
) -> None:
    """Run `function(argument)` on every rank of a group, once, and wait for its end.

    Args:
        name: Names the ranks' logs, `<logs>/<name>-rank<n>.log`.
        function: An importable function.
        argument: Its argument.
        workers: Ranks, spread over nodes.
        resources: Of each rank; GPUs make it an NCCL group, none a gloo group.
        settings: How they talk.
        logs: Folder of the logs.
        while_waiting: Called now and then, and when the group has ended.

    Raises:
        UkdError: What a rank raised.
        GroupLostError: The group ended for no reason of its own.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    trainer = TorchTrainer(
        run_rank,
        train_loop_config={"log": logs / name, "function": function, "argument": argument},
        torch_config=TorchConfig(
            backend="nccl" if resources.gpus else "gloo", timeout_s=round(60 * settings.rank_timeout_minutes)
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=_per_worker(resources),
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            storage_path=str(logs / "ray_train"),
            name=name,
            worker_runtime_env={"env_vars": settings.rank_environment},
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_CONTROLLER_FAILURES),
        ),
    )
    try:
        _in_a_thread(trainer.fit, while_waiting)
    except RayError as error:  # its controller died
        raise GroupLostError(last_line(error)) from error
    except TrainingFailedError as error:
        failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
        for failure in failures:
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, UkdError):
                raise cause from error
        raise GroupLostError(last_line(failures[0] if failures else error)) from error


def _in_a_thread(function: Callable[[], Any], while_waiting: Callable[[], None]) -> None:
    """Call a function in a thread of its own and wait for it, so that Ctrl-C is as everywhere.

    In the main thread Ray Train answers it with a handler of its own, which is lost on a group that is about
    to end, and which stays afterwards.
    """
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        while_waiting()
    if failures:
        raise failures[0]


def free_reservations() -> None:
    """Give back what groups of this process still hold.

    Where a rank is lost while its group starts, Ray Train (2.60) keeps the group's placement group, and with
    it the ranks that are left; the next start would wait for their CPUs for ever.
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
