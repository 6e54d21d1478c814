"""Where jobs run and in which order, on a cluster of two unlike nodes that is joined by its address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ukd_dist.cluster import Job, RayCluster, current_node
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import ResourceError

pytestmark = pytest.mark.cluster
BIG = Resources(node_labels={"kind": "big"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A plain node of one CPU, and one that is labelled."""
    from ray.cluster_utils import Cluster as RayNodes

    nodes: Any = RayNodes()
    nodes.add_node(num_cpus=1, include_dashboard=False)
    nodes.add_node(num_cpus=1, labels={"kind": "big"})
    try:
        logs = tmp_path_factory.mktemp("labels") / "logs"
        with RayCluster(Cluster(address=nodes.address), logs) as cluster:
            yield cluster
    finally:
        nodes.shutdown()


def node_of(cluster: RayCluster, resources: Resources, avoid: str = "") -> str:
    (outcome,) = cluster.run([Job("where", current_node, (), resources, fresh_process=True, avoid=avoid)])
    assert outcome.error is None
    return str(outcome.value)


def note(path: Path, word: str) -> None:
    with path.open("a") as file:
        file.write(f"{word}\n")
    time.sleep(0.2)  # longer than a free node takes to get the next job


def test_a_job_runs_on_nodes_of_its_labels_alone(cluster: RayCluster) -> None:
    assert len({node_of(cluster, BIG) for _ in range(3)}) == 1


def test_labels_that_no_node_has_are_refused(cluster: RayCluster) -> None:
    with pytest.raises(ResourceError, match=r"and kind=huge\) were asked for, .* and kind=big"):
        node_of(cluster, Resources(node_labels={"kind": "huge"}))


def test_a_node_is_avoided_while_another_fits_and_taken_where_none_does(cluster: RayCluster) -> None:
    big = node_of(cluster, BIG)
    assert node_of(cluster, Resources(), avoid=big) != big
    assert node_of(cluster, BIG, avoid=big) == big


def test_jobs_of_higher_priority_begin_first(cluster: RayCluster, tmp_path: Path) -> None:
    path = tmp_path / "order"
    jobs = [
        Job(f"job-{n}", note, (path, str(n)), BIG.model_copy(update={"priority": n // 4})) for n in range(12)
    ]

    assert all(outcome.error is None for outcome in cluster.run(jobs))

    assert path.read_text().split() == [str(n) for first in (8, 4, 0) for n in range(first, first + 4)]
