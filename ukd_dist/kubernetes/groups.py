"""The worker groups of a Ray cluster, made to measure: what an experiment's members reserve, as pods.

An overlay's groups say how large a pod is and how many there may be. A pod grows where a member would not
fit, and there are no more pods than all members of a stage can use at once. Members that ask for labels of
nodes get a group of their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ukd_dist.cluster_config import Resources
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember
from ukd_dist.kubernetes.pods import GPU, quantity
from ukd_dist.stages.packing import Node, at_once

Group = dict[str, Any]
COORDINATOR = "coordinator"
_GIB = 2.0**30
_TASKS_MEMORY = 0.7  # of a pod's; the rest is for Ray itself, its objects, and caches of files


@dataclass(frozen=True)
class Demand:
    """Members that reserve the same: what each rank of them does, ranks of one member, ranks of all."""

    resources: Resources
    ranks: int
    all_ranks: int


def fit(groups: Sequence[Group], experiment: Experiment, *, grows: bool) -> list[Group]:
    """The worker groups for an experiment.

    Args:
        groups: Those of the overlay.
        experiment: Whose members are to run there.
        grows: Whether the cluster has an autoscaler; otherwise all pods are there from the beginning.

    Raises:
        UsageError: Members reserve GPUs, and the overlay has no group with any.
    """
    stages = [_demands(experiment.teachers), _demands(experiment.students)]
    kinds = list(dict.fromkeys(_kind(demand) for stage in stages for demand in stage))
    made = [group for group in groups if group["groupName"] == COORDINATOR]
    for kind in kinds:
        template = _template(groups, kind[0])
        own = [[demand for demand in stage if _kind(demand) == kind] for stage in stages]
        number = 1 + sum(_has_gpus(group) == kind[0] for group in made if group["groupName"] != COORDINATOR)
        group = _labelled(copy.deepcopy(template), dict(kind[1]), number)
        made.append(_sized(group, own, grows=grows))
    if all(with_gpus for with_gpus, _ in kinds):
        made = [*_spare(groups, bool(kinds), grows), *made]
    for group in made:
        if group["groupName"] != COORDINATOR:  # no task runs there
            _tell_memory(group)
    return made


def _demands(members: Iterable[TeacherMember | StudentMember]) -> list[Demand]:
    """What a stage's members reserve, each kind once."""
    ranks: dict[str, list[TeacherMember | StudentMember]] = {}
    for member in members:
        settings = member.settings
        ranks.setdefault(f"{settings.workers} {settings.resources}", []).append(member)
    return [
        Demand(same[0].settings.resources, same[0].settings.workers, same[0].settings.workers * len(same))
        for same in ranks.values()
    ]


def _kind(demand: Demand) -> tuple[bool, tuple[tuple[str, str], ...]]:
    return demand.resources.gpus > 0, tuple(sorted(demand.resources.node_labels.items()))


def _template(groups: Sequence[Group], with_gpus: bool) -> Group:
    for group in groups:
        if group["groupName"] != COORDINATOR and _has_gpus(group) == with_gpus:
            return group
    what = "with GPUs, which members reserve" if with_gpus else "without GPUs"
    raise UsageError(
        f"the overlay has no worker group {what}",
        expected="a group for each kind of member",
        action="choose another --overlay, such as gpu",
    )


def _labelled(group: Group, labels: dict[str, str], number: int) -> Group:
    """The group on nodes of Kubernetes with such labels, which are its nodes' labels in Ray too."""
    if number > 1:
        group["groupName"] = f"{group['groupName']}-{number}"
    if labels:
        group["labels"] = {**group.get("labels", {}), **labels}
        spec = group["template"]["spec"]
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **labels}
    return group


def _sized(group: Group, stages: Sequence[Sequence[Demand]], *, grows: bool) -> Group:
    demands = [demand for stage in stages for demand in stage]
    node = _enlarge(group, demands)
    slots = {id(demand): at_once(demand.resources, [node]) for demand in demands}
    together = max(math.ceil(demand.ranks / slots[id(demand)]) for demand in demands)
    useful = max(sum(math.ceil(d.all_ranks / slots[id(d)]) for d in stage) for stage in stages)
    most = max(together, min(useful, int(group["maxReplicas"])))
    least = min(max(1, int(group["minReplicas"])), most) if grows else most
    group.update(replicas=least, minReplicas=least, maxReplicas=most)
    return group


def _enlarge(group: Group, demands: Sequence[Demand]) -> Node:
    """Let the group's pod hold any one rank, and as many as its GPUs have room for; what the pod has then."""
    resources = group["template"]["spec"]["containers"][0]["resources"]
    limits = resources["limits"]
    has = {name: quantity(limits.get(name, 0)) for name in ("cpu", "memory", GPU)}
    gpus = max(has[GPU], *(math.ceil(demand.resources.gpus) for demand in demands))
    wanted = {"cpu": has["cpu"], "memory": has["memory"], GPU: gpus}
    for demand in demands:
        of_rank, ranks = demand.resources, _ranks_by_gpus(demand.resources, gpus)
        memory = (of_rank.memory_gib or 0) * ranks / _TASKS_MEMORY * _GIB
        wanted["cpu"] = max(wanted["cpu"], math.ceil(of_rank.cpus * ranks))
        wanted["memory"] = max(wanted["memory"], math.ceil(memory / _GIB) * _GIB)
    for name, value in wanted.items():
        if value > has[name]:
            text = f"{value / _GIB:.0f}Gi" if name == "memory" else f"{value:.0f}"
            resources["requests"][name] = limits[name] = text
    return Node(wanted["cpu"], int(gpus), wanted["memory"] / _GIB * _TASKS_MEMORY)


def _tell_memory(group: Group) -> None:
    """Tell Ray what its tasks may reserve of a pod's memory: KubeRay would tell it all of the limit."""
    limit = quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
    group["rayStartParams"] = {
        **group.get("rayStartParams", {}),
        "memory": str(int(limit * _TASKS_MEMORY)),
    }


def _ranks_by_gpus(wanted: Resources, gpus: float) -> int:
    """Ranks for which a pod of so many GPUs has room; of those without a GPU, one."""
    if not wanted.gpus:
        return 1
    return int(gpus // wanted.gpus) if wanted.gpus >= 1 else int(gpus) * int(1 / wanted.gpus + 1e-9)


def _spare(groups: Sequence[Group], others: bool, grows: bool) -> list[Group]:
    """The group without GPUs where no member needs it: for shards and reductions, where it may come and go.

    Without `others` it is all that there is, and stays.
    """
    spare = [copy.deepcopy(g) for g in groups if g["groupName"] != COORDINATOR and not _has_gpus(g)][:1]
    for group in spare if others else ():
        group.update(replicas=0, minReplicas=0)
    return spare if grows or not others else []


def _has_gpus(group: Group) -> bool:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return GPU in limits
