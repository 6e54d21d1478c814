"""Jobs whose nodes are gone: the run waits, and says for what."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from ukd_dist.cluster import Job, RayCluster, waiting
from ukd_dist.cluster.nodes import Node
from ukd_dist.cluster.waiting import AGAIN_SECONDS, FIRST_SECONDS, Waiting, Wanted
from ukd_dist.cluster_config import Cluster, Resources

GPU = Resources(gpus=1)
WANTED = {"gpu": Wanted(GPU, "teacher-1", 3), "cpu": Wanted(Resources(), "teacher-2", 1)}
PLAIN, WITH_GPU = Node("a", 2, 0, 4, {}), Node("b", 2, 1, 4, {})


def test_a_kind_of_jobs_that_no_node_can_take_is_named_after_a_while_and_then_seldom() -> None:
    seen, said = Waiting(), []
    for second in range(int(2 * AGAIN_SECONDS)):
        said += [(second, line) for line in seen.look(WANTED, [PLAIN], float(second))]
    (first, line), (second, _) = said
    assert (first, second) == (FIRST_SECONDS, FIRST_SECONDS + AGAIN_SECONDS)
    assert line == (
        "no node has had 1 CPUs and 1 GPUs for 30 s, and 3 job(s) wait for it, first teacher-1: "
        "the cluster's 1 nodes have 2 CPUs and 0 GPUs and 4.0 GiB; "
        "expected a node with that much; add one, or stop and lower resources"
    )


def test_that_a_node_came_is_said_only_where_it_was_said_that_none_is_there() -> None:
    seen = Waiting()
    assert list(seen.look(WANTED, [PLAIN], 0.0)) == []
    assert list(seen.look(WANTED, [PLAIN, WITH_GPU], FIRST_SECONDS)) == []
    assert list(seen.look(WANTED, [PLAIN], FIRST_SECONDS + 1)) == [], "the time begins anew"
    assert len(list(seen.look(WANTED, [], 2 * FIRST_SECONDS + 1))) == 1, "of the CPUs nothing yet"
    again = ["there is a node with 1 CPUs and 1 GPUs again"]
    assert list(seen.look(WANTED, [WITH_GPU], 2 * FIRST_SECONDS + 2)) == again


def test_a_group_waits_until_there_is_room_for_all_of_its_ranks() -> None:
    seen, group = Waiting(), {"group": Wanted(GPU, "teacher-1", 1, ranks=2)}
    list(seen.look(group, [WITH_GPU, PLAIN], 0.0))
    (said,) = seen.look(group, [WITH_GPU, PLAIN], FIRST_SECONDS)
    assert said.startswith("no node has had 2 x (1 CPUs and 1 GPUs) for 30 s, and 1 job(s) wait")
    assert len(list(seen.look(group, [WITH_GPU, WITH_GPU], FIRST_SECONDS))) == 1


def test_a_cluster_without_nodes_is_said_to_be_one() -> None:
    seen = Waiting()
    list(seen.look(WANTED, [], 0.0))
    said = list(seen.look(WANTED, [], FIRST_SECONDS))
    assert ["the cluster has no nodes" in line for line in said] == [True, True]


@pytest.mark.cluster
def test_jobs_whose_node_died_are_said_to_wait_and_run_once_another_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.cluster_utils import Cluster as RayNodes

    monkeypatch.setattr(waiting, "FIRST_SECONDS", 1.0)
    nodes: Any = RayNodes()
    try:
        nodes.add_node(num_cpus=1, include_dashboard=False)
        big = nodes.add_node(num_cpus=1, labels={"kind": "big"})
        with RayCluster(Cluster(address=nodes.address), tmp_path / "logs") as cluster:
            wanted = Resources(node_labels={"kind": "big"})
            cluster.require([(wanted, 1)])

            def lose_and_replace() -> None:
                if big in nodes.worker_nodes:
                    nodes.remove_node(big)
                elif caplog.messages and not nodes.worker_nodes:
                    nodes.add_node(num_cpus=1, labels={"kind": "big"})

            with caplog.at_level(logging.WARNING, "ukd_dist"):
                jobs = [Job(f"job-{n}", time.sleep, (4,), wanted, retries=-1) for n in range(2)]
                outcomes = list(cluster.run(jobs, lose_and_replace))
    finally:
        nodes.shutdown()

    assert [outcome.error for outcome in outcomes] == [None, None]
    first, *_, last = caplog.messages
    assert first.startswith("no node has had 1 CPUs and 0 GPUs and kind=big for ")
    assert ", first job-" in first
    assert last == "there is a node with 1 CPUs and 0 GPUs and kind=big again"
