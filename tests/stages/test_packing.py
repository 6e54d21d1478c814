"""How members fit on nodes: shares of GPUs, whole GPUs, memory; and when all of them are done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import ResourceError, UsageError
from ukd_dist.stages.packing import Load, Node, Schedule, at_once, local_nodes, parse_nodes, schedule

NODES = [Node(16, 2, 64.0), Node(8)]


@pytest.mark.parametrize(
    ("wanted", "fit"),
    [
        (Resources(cpus=1), 24),
        (Resources(cpus=3), 7),
        (Resources(cpus=0.1), 240),
        (Resources(cpus=1, gpus=1), 2),
        (Resources(cpus=1, gpus=2), 1),
        (Resources(cpus=1, gpus=0.5), 4),
        (Resources(cpus=0.5, gpus=0.1), 20),
        (Resources(cpus=1, memory_gib=30), 10),
        (Resources(cpus=9), 1),
    ],
    ids=str,
)
def test_as_many_fit_as_cpus_gpus_and_memory_allow(wanted: Resources, fit: int) -> None:
    assert at_once(wanted, NODES) == fit


def test_a_share_of_a_gpu_lies_on_one_gpu() -> None:
    assert at_once(Resources(cpus=1, gpus=0.6), [Node(16, 2)]) == 2
    assert at_once(Resources(cpus=1, gpus=0.3), [Node(16, 1)]) == 3


def test_several_gpus_are_whole_ones() -> None:
    members = [Load(Resources(cpus=1, gpus=0.1), 10.0), Load(Resources(cpus=1, gpus=2), 5.0)]
    assert schedule(members, [Node(16, 2)]).seconds == 15.0


def test_members_on_cpus_take_no_gpu() -> None:
    members = [Load(Resources(cpus=1), 10.0)] * 14 + [Load(Resources(cpus=1, gpus=1), 10.0)] * 2
    assert schedule(members, [Node(16, 2)]) == schedule(members[::-1], [Node(16, 2)])
    assert schedule(members, [Node(16, 2)]).seconds == 10.0
    assert schedule(members, [Node(16, 2)]).at_once == 16


@given(
    members=st.integers(1, 60),
    cpus=st.integers(1, 4),
    nodes=st.lists(st.integers(4, 20), min_size=1, max_size=4),
)
def test_equal_members_are_done_in_whole_rounds(members: int, cpus: int, nodes: list[int]) -> None:
    where, wanted = [Node(n) for n in nodes], Resources(cpus=cpus)
    slots = sum(n // cpus for n in nodes)
    done = schedule([Load(wanted, 7.0)] * members, where)
    assert done.seconds == pytest.approx(7.0 * math.ceil(members / slots))
    assert done.at_once == min(members, slots)


@given(durations=st.lists(st.floats(0.1, 100), min_size=1, max_size=40), slots=st.integers(1, 8))
def test_the_end_lies_between_ideal_packing_and_one_more_member(durations: list[float], slots: int) -> None:
    """Graham's bound on list scheduling."""
    end = schedule([Load(Resources(cpus=1), d) for d in durations], [Node(slots)]).seconds
    ideal = max(max(durations), sum(durations) / slots)
    assert ideal * (1 - 1e-9) <= end <= (sum(durations) / slots + max(durations)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("wanted", "ranks", "fit"),
    [
        (Resources(cpus=1), 2, 12),
        (Resources(cpus=1), 5, 4),
        (Resources(cpus=5), 4, 1),
        (Resources(cpus=5), 5, 0),
        (Resources(cpus=1, gpus=1), 2, 1),
        (Resources(cpus=1, gpus=1), 3, 0),
    ],
    ids=str,
)
def test_the_ranks_of_a_member_need_a_place_each(wanted: Resources, ranks: int, fit: int) -> None:
    assert at_once(wanted, NODES, ranks) == fit


def test_a_member_of_several_ranks_waits_for_room_for_all_of_them() -> None:
    one, two = Load(Resources(cpus=1), 10.0), Load(Resources(cpus=1), 5.0, ranks=2)
    assert schedule([one, two], [Node(1), Node(1)]) == Schedule(seconds=15.0, at_once=1)
    assert schedule([one, two], [Node(3)]) == Schedule(seconds=10.0, at_once=2)


def test_a_member_whose_ranks_fit_nowhere_together_is_named() -> None:
    with pytest.raises(ResourceError, match="members of 3 times 1 CPUs and 1 GPUs fit on no node"):
        schedule([Load(Resources(cpus=1, gpus=1), 1.0, ranks=3)], NODES)


def test_nothing_to_do_takes_no_time() -> None:
    assert schedule([], NODES).seconds == 0.0
    assert schedule([], NODES).at_once == 0


def test_a_member_that_fits_nowhere_is_named_with_the_nodes() -> None:
    with pytest.raises(
        ResourceError, match="members of 2 CPUs and 3 GPUs fit on no node: 16 CPUs, 2 GPUs, 64 GiB; 8"
    ):
        schedule([Load(Resources(cpus=2, gpus=3), 1.0)], NODES)


def test_nodes_are_read_as_they_are_written() -> None:
    assert parse_nodes(["cpus=16,gpus=4,memory_gib=120,count=2", "cpus=1.5"]) == [Node(16, 4, 120.0)] * 2 + [
        Node(1.5)
    ]


@pytest.mark.parametrize(
    "text",
    ["", "16", "cpus", "cpus=x", "gpus=1", "cpus=0", "cpus=4,gpus=0.5", "cpus=4,count=0", "cpus=4,discs=2"],
)
def test_a_node_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write it like cpus=16,gpus=4,count=8"):
        parse_nodes([text])


def test_without_a_cluster_the_nodes_are_those_that_a_run_starts_here() -> None:
    nodes = local_nodes(Cluster(local_nodes=3, cpus_per_node=2))
    assert [node.cpus for node in nodes] == [2, 2, 2]
    assert [node.gpus for node in nodes[1:]] == [0, 0]
