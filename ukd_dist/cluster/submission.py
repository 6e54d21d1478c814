"""`ray job submit` that can be repeated: an experiment is one job, however often it is submitted.

The submission's id is made from the experiment's digest, and Ray refuses an id a second time. What ended is
submitted under a next id, and goes on from the files of its root.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd_dist.cluster.worker import last_line
from ukd_dist.errors import ResourceError
from ukd_dist.experiment import Experiment, digest

_FILE = "experiment.yaml"
_ENTRYPOINT = f"ukd run {_FILE}"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Submission:
    """A job of Ray's.

    Attributes:
        id: Its submission id.
        root: Where its files are.
        address: Of the job server.
        is_new: Whether it was submitted now; otherwise it was there already.
    """

    id: str
    root: str
    address: str
    is_new: bool

    @property
    def follow(self) -> str:
        """The command that shows what it prints until it ends."""
        return f"ray job logs --follow --address {self.address} {self.id}"


def submit(
    experiment: Experiment, address: str | None = None, cpus: float = 0, patience_seconds: float = 300
) -> Submission:
    """Submit an experiment to a cluster, unless it is there already, and wait until it has started.

    Args:
        experiment: What is to be run. It travels with the job: the cluster needs no file of it.
        address: Of the cluster's job server; None: the one that Ray's environment names, else this machine's.
        cpus: Reserved for the coordinator, on any node; 0: none, on the head.
        patience_seconds: How long it may wait for its start before it is taken back.

    Raises:
        ResourceError: No job server answers or it refuses, or the job did not start in that time.
    """
    client, deadline = _client(address), time.monotonic() + patience_seconds
    first = submission_id(experiment)
    try:
        chosen, is_new = _choose(first, _going_on(client, patience_seconds))
        if is_new:
            is_new = _send(client, experiment, chosen, cpus, deadline)
        _wait_for_start(client, chosen, cpus, deadline)
    except RuntimeError as error:  # whatever the job server answers but success
        raise ResourceError(
            f"the job server at {client.get_address()} refused {first} ({last_line(error)})",
            expected="a job server of the same Ray version",
            action="see `ray job list`, and submit again",
        ) from error
    return Submission(chosen, str(experiment.root), client.get_address(), is_new)


def submission_id(experiment: Experiment) -> str:
    """The id of an experiment's first submission to a cluster; every setting of it counts, and its root."""
    return f"ukd-{experiment.name}-{digest(experiment.document)}"


def _client(address: str | None) -> Any:
    from ray.job_submission import JobSubmissionClient

    for module in ("ray", "ray.dashboard.modules.dashboard_sdk"):  # the latter has a level of its own
        logging.getLogger(module).setLevel(logging.ERROR)
    if address is not None:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # RAY_ADDRESS would win over an argument (ray 2.60)
    try:
        return JobSubmissionClient()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no job server at {address or 'the address that Ray finds'} ({last_line(error)})",
            expected="the dashboard of a running cluster",
            action="start one (`ray start --head`), or give --address http://HEAD:8265",
        ) from error


def _going_on(client: Any, patience_seconds: float) -> dict[str, bool]:
    """Every submission by its id, and whether it goes on; one that has waited for too long does not."""
    latest = (time.time() - patience_seconds) * 1000
    return {
        job.submission_id: job.status == "RUNNING" or (job.status == "PENDING" and job.start_time > latest)
        for job in client.list_jobs()
        if job.submission_id
    }


def _choose(first: str, going_on: dict[str, bool]) -> tuple[str, bool]:
    """The id of the submission that goes on, or the next that is free; and whether it is free."""
    number, chosen = 1, first
    while chosen in going_on:
        if going_on[chosen]:
            return chosen, False
        number += 1
        chosen = f"{first}-{number}"
    return chosen, True


def _send(client: Any, experiment: Experiment, chosen: str, cpus: float, deadline: float) -> bool:
    """Submit under an id; False where somebody else did meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _FILE).write_text(experiment.to_yaml())
        while True:
            try:
                client.submit_job(
                    entrypoint=_ENTRYPOINT,
                    submission_id=chosen,
                    runtime_env={"working_dir": folder},
                    metadata={"name": experiment.name, "root": str(experiment.root)},
                    entrypoint_num_cpus=cpus or None,
                )
                return True
            except RuntimeError as error:
                if any(job.submission_id == chosen for job in client.list_jobs()):
                    return False
                # A head that has just begun has no agent yet.
                if "try again later" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)


def _wait_for_start(client: Any, chosen: str, cpus: float, deadline: float) -> None:
    """Wait while a job is pending, and stop it if that is too long.

    It stays pending then, for a quarter of an hour at most, and ends as soon as it starts (ray 2.60).
    """
    while (info := client.get_job_info(chosen)).status == "PENDING":
        if time.monotonic() > deadline:
            client.stop_job(chosen)
            raise ResourceError(
                f"{chosen} did not start in time ({info.message or 'no reason given'})",
                expected=f"a node with {cpus:g} CPUs free" if cpus else "a head that starts processes",
                action="it was taken back; lower --cpus, add nodes or wait longer, and submit again",
            )
        time.sleep(_POLL_SECONDS)
