"""What the cluster's nodes have, and how many processes of a kind fit on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ukd_dist.cluster_config import Resources
from ukd_dist.errors import ResourceError


@dataclass(frozen=True)
class Node:
    """One node that is alive.

    Attributes:
        id: Ray's.
        cpus: CPUs, whoever has them now.
        gpus: GPUs.
        memory_gib: Host memory that Ray gives to tasks, GiB.
        labels: Of the node, as `ray start --labels` was given them.
    """

    id: str
    cpus: float
    gpus: float
    memory_gib: float
    labels: Mapping[str, str]


def alive_nodes() -> list[Node]:
    """The nodes that are alive now."""
    import ray

    return [_node(found) for found in ray.nodes() if found["Alive"]]


def metrics_addresses() -> list[str]:
    """`host:port` where each node serves Ray's own metrics; none while the cluster does not answer."""
    import ray
    from ray.exceptions import RayError

    try:
        nodes = ray.nodes()
    except RayError:
        return []
    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes if node["Alive"]]


def draining_nodes() -> set[str]:
    """Ids of nodes that are about to go: they got SIGTERM, or their cluster wants them back."""
    # Ray Train asks the same way; there is no public one (2.60).
    from ray._private.state import state

    return set(state.get_draining_nodes())


def copies(node: Node, resources: Resources) -> int:
    """How many processes of a kind fit on a node."""
    if any(node.labels.get(name) != value for name, value in resources.node_labels.items()):
        return 0
    by_gpus = node.gpus / resources.gpus if resources.gpus else math.inf
    by_memory = node.memory_gib / resources.memory_gib if resources.memory_gib else math.inf
    return int(min(node.cpus / resources.cpus, by_gpus, by_memory))


def require(nodes: Sequence[Node], resources: Resources, count: int = 1) -> None:
    """Refuse what the nodes can never give.

    Raises:
        ResourceError: Fewer than `count` processes fit.
    """
    if sum(copies(node, resources) for node in nodes) >= count:
        return
    raise ResourceError(
        f"{count} x ({amounts_of(resources)}) were asked for, but {describe(nodes)}",
        expected="nodes with that much",
        action="lower resources or workers in the experiment, or add nodes",
    )


def describe(nodes: Sequence[Node]) -> str:
    """What the nodes have, in words."""
    if not nodes:
        return "the cluster has no nodes"
    have = ", ".join(_amounts(node.cpus, node.gpus, node.memory_gib, node.labels) for node in nodes)
    return f"the cluster's {len(nodes)} nodes have {have}"


def amounts_of(resources: Resources) -> str:
    """What a process asks for, in words."""
    return _amounts(resources.cpus, resources.gpus, resources.memory_gib, resources.node_labels)


def _node(found: Mapping[str, Any]) -> Node:
    resources = found["Resources"]
    cpus, gpus, memory = (float(resources.get(kind, 0)) for kind in ("CPU", "GPU", "memory"))
    labels = {name: value for name, value in found["Labels"].items() if not name.startswith("ray.io/")}
    return Node(found["NodeID"], cpus, gpus, memory / 2**30, labels)


def _amounts(cpus: float, gpus: float, memory_gib: float | None, labels: Mapping[str, str]) -> str:
    parts = [f"{cpus:g} CPUs", f"{gpus:g} GPUs"]
    if memory_gib:
        parts.append(f"{memory_gib:.1f} GiB")
    return " and ".join([*parts, *(f"{name}={value}" for name, value in labels.items())])
