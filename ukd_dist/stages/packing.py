"""How members fit on nodes, and when they are done.

First come, first placed, on the node with the most free CPUs. As in Ray, a share of a GPU lies on one GPU,
and several GPUs are whole ones. Left out: other work on the nodes, and slots that stay free while several
ranks wait until there is room for all of them.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch

from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import ResourceError, UsageError

_UNITS = 10_000  # Ray's: a share is a whole number of them, so that ten tenths are one
_RAY_MEMORY_RATIO = 0.7  # of a node's memory is for tasks, the rest for objects


@dataclass(frozen=True)
class Node:
    """What a node has; `memory_gib` None: enough."""

    cpus: float
    gpus: int = 0
    memory_gib: float | None = None

    def __str__(self) -> str:
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB"
        return f"{self.cpus:g} CPUs, {self.gpus} GPUs{memory}"


class Load(NamedTuple):
    """One member: what each of its ranks reserves, and for how long."""

    resources: Resources
    seconds: float
    ranks: int = 1


@dataclass(frozen=True)
class Schedule:
    """When everything is done.

    Attributes:
        seconds: From the first start to the last end.
        at_once: The most members at one time.
    """

    seconds: float
    at_once: int


class _Free:
    """What is free of a node, in units; each GPU by itself."""

    def __init__(self, node: Node) -> None:
        self.cpus = round(node.cpus * _UNITS)
        self.gpus = [_UNITS] * node.gpus
        self.memory = round(node.memory_gib * _UNITS) if node.memory_gib is not None else None

    def place(self, wanted: Resources) -> list[int] | None:
        """Reserve; the GPUs that were taken, or None where it does not fit."""
        share = round(min(wanted.gpus, 1) * _UNITS)
        gpus = [n for n, free in enumerate(self.gpus) if share and free >= share]
        needed = max(1, round(wanted.gpus)) if share else 0
        cpus, memory = self._host(wanted)
        if self.cpus < cpus or len(gpus) < needed or (self.memory is not None and self.memory < memory):
            return None
        self._take(wanted, gpus[:needed], 1)
        return gpus[:needed]

    def release(self, wanted: Resources, gpus: list[int]) -> None:
        """Give back."""
        self._take(wanted, gpus, -1)

    def _take(self, wanted: Resources, gpus: list[int], sign: int) -> None:
        cpus, memory = self._host(wanted)
        self.cpus -= sign * cpus
        if self.memory is not None:
            self.memory -= sign * memory
        for gpu in gpus:
            self.gpus[gpu] -= sign * round(min(wanted.gpus, 1) * _UNITS)

    @staticmethod
    def _host(wanted: Resources) -> tuple[int, int]:
        return max(1, round(wanted.cpus * _UNITS)), round((wanted.memory_gib or 0) * _UNITS)


_Place = tuple[_Free, list[int]]  # of a rank: a node, and GPUs of it


def schedule(members: Sequence[Load], nodes: Sequence[Node]) -> Schedule:
    """Place members that take so many seconds each, in their order where they fit.

    Raises:
        ResourceError: Some fit on no node at all.
    """
    kinds: dict[tuple[str, int], deque[Load]] = {}
    for member in members:
        kinds.setdefault((str(member.resources), member.ranks), deque()).append(member)
    for queue in kinds.values():
        if at_once(queue[0].resources, nodes, queue[0].ranks) == 0:
            raise _too_large(queue[0], nodes)
    free, ties = [_Free(node) for node in nodes], count()
    ends: list[tuple[float, int, Resources, list[_Place]]] = []
    now, most = 0.0, 0
    while ends or any(kinds.values()):
        for queue in kinds.values():
            while queue and (places := _place(queue[0].resources, free, queue[0].ranks)):
                member = queue.popleft()
                heapq.heappush(ends, (now + member.seconds, next(ties), member.resources, places))
        most = max(most, len(ends))
        now, _, wanted, places = heapq.heappop(ends)
        _release(wanted, places)
    return Schedule(now, most)


def at_once(wanted: Resources, nodes: Sequence[Node], ranks: int = 1) -> int:
    """How many members of one kind the nodes hold at one time."""
    free = [_Free(node) for node in nodes]
    return next(n for n in count() if not _place(wanted, free, ranks))


def parse_nodes(given: Sequence[str]) -> list[Node]:
    """Nodes as a command line names them, for example `cpus=16,gpus=4,memory_gib=120,count=8`.

    Raises:
        UsageError: One cannot be read.
    """
    nodes: list[Node] = []
    for text in given:
        try:
            fields = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
            number, gpus = fields.pop("count", 1.0), fields.pop("gpus", 0.0)
            node = Node(gpus=int(gpus), **fields)
            if min(node.cpus, number) <= 0 or gpus < 0 or not (number.is_integer() and gpus.is_integer()):
                raise ValueError("a number is out of range")
        except (ValueError, TypeError):
            raise UsageError(
                f"--node {text}",
                expected="cpus=N and, if there are any, gpus=N, memory_gib=N and count=N",
                action="write it like cpus=16,gpus=4,count=8",
            ) from None
        nodes += [node] * int(number)
    return nodes


def local_nodes(cluster: Cluster) -> list[Node]:
    """The nodes that a run would start on this machine, where no cluster is named."""
    cpus = cluster.cpus_per_node or max(1, len(os.sched_getaffinity(0)) // cluster.local_nodes)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 * _RAY_MEMORY_RATIO
    first = Node(cpus, torch.cuda.device_count(), memory_gib)
    return [first, *[Node(cpus, 0, memory_gib)] * (cluster.local_nodes - 1)]


def _place(wanted: Resources, free: list[_Free], ranks: int) -> list[_Place]:
    """Reserve for every rank; where they got it, or nothing where there is no room for all of them."""
    places: list[_Place] = []
    while len(places) < ranks:
        tried = ((node, node.place(wanted)) for node in sorted(free, key=lambda node: -node.cpus))
        found = next(((node, gpus) for node, gpus in tried if gpus is not None), None)
        if found is None:
            _release(wanted, places)
            return []
        places.append(found)
    return places


def _release(wanted: Resources, places: list[_Place]) -> None:
    for node, gpus in places:
        node.release(wanted, gpus)


def _too_large(member: Load, nodes: Sequence[Node]) -> ResourceError:
    wanted = member.resources
    ranks = f"{member.ranks} times " if member.ranks > 1 else ""
    memory = f" and {wanted.memory_gib:g} GiB" if wanted.memory_gib else ""
    return ResourceError(
        f"members of {ranks}{wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs{memory} fit on no node: "
        f"{'; '.join(sorted(set(map(str, nodes))))}",
        expected="a node with that much",
        action="lower their resources, or name the nodes with --node",
    )
