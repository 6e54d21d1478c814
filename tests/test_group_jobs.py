"""Groups of ranks among the jobs on two Ray nodes: their room, what they give back, why they fail."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from ukd_dist.cluster import Job, Outcome, RayCluster
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import NotFiniteError, ResourceError

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes of one CPU each."""
    settings = Cluster(local_nodes=2, cpus_per_node=1, network_interface="lo")
    with RayCluster(settings, tmp_path_factory.mktemp("groups") / "logs") as cluster:
        yield cluster


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


def add_up() -> tuple[float, float]:
    """The sum over ranks of their numbers plus one, and when it was known."""
    total = torch.tensor(distributed.get_rank() + 1.0)
    distributed.all_reduce(total)
    return total.item(), time.time()


def fail(how: str) -> None:
    if distributed.get_rank() == 1:
        match how:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raises":
                raise ValueError("nobody thought of this")
            case "explodes":
                raise NotFiniteError("the loss is nan", expected="a finite loss", action="lower lr")
    distributed.all_reduce(torch.zeros(1))  # waits for the other rank, which never comes


def group(name: str, *arguments: str) -> Job:
    return Job(name, fail if arguments else add_up, arguments, ranks=2, fresh_process=True)


def run(cluster: RayCluster, *jobs: Job) -> dict[str, Outcome]:
    return {outcome.job.name: outcome for outcome in cluster.run(jobs)}


def test_a_group_gets_its_room_though_single_jobs_wait_for_every_slot(cluster: RayCluster) -> None:
    singles = [Job(f"single-{n}", nap, (1.0,)) for n in range(12)]

    outcomes = run(cluster, *singles, group("sum"))

    assert [outcome.error for outcome in outcomes.values()] == [None] * 13
    total, known = outcomes["sum"].value
    assert total == 3.0
    assert sum(outcomes[job.name].value > known for job in singles) >= 6, "it did not have to wait for them"


@pytest.mark.parametrize(
    ("how", "kind"), [("killed", "lost"), ("raises", "raised"), ("explodes", "not_finite")]
)
def test_the_failure_of_a_rank_is_its_groups_and_leaves_nothing_reserved(
    cluster: RayCluster, how: str, kind: str
) -> None:
    outcomes = run(cluster, group(how, how), Job("after", nap, (0.0,)))

    failure = outcomes[how].failure
    assert failure is not None
    assert failure.kind == kind, json.dumps(failure.error.problem)
    if kind == "raised":
        assert "nobody thought of this" in failure.error.problem
        assert 'File "' in failure.traceback
    assert outcomes["after"].error is None
    assert outcomes_of_two(cluster) == [None, None]


def outcomes_of_two(cluster: RayCluster) -> list[object]:
    """Errors of two jobs that need both nodes at once, of which nothing may be reserved."""
    return [outcome.error for outcome in run(cluster, *(Job(f"n{n}", nap, (0.5,)) for n in (0, 1))).values()]


def test_a_group_for_which_there_are_too_few_slots_is_refused(cluster: RayCluster) -> None:
    with pytest.raises(ResourceError, match=r"3 x \(1 CPUs and 0 GPUs\) were asked for"):
        list(cluster.run([Job("crowd", add_up, (), Resources(), ranks=3)]))
