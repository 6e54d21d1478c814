"""Worker groups to the measure of an experiment's members."""

from __future__ import annotations

from typing import Any

import pytest

from ukd_dist import resolution
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.kubernetes.groups import fit

EXPERIMENT = """
name: groups
root: /runs/groups
data: {source: synthetic, clip: {frames: 8, size: 32, short_side: [32, 40]}}
teachers: {fleet: TEACHERS}
targets: {ukd: {method: pkd}}
students: {runs: [{name: ukd, arch: slowfast_tiny, modality: rgb, targets: ukd, temperature: 20, STUDENT}]}
"""
GPU = "nvidia.com/gpu"


def experiment(teachers: str, student: str) -> Experiment:
    """Teachers as a list of settings, a student's workers and resources."""
    fleet = ", ".join(f"{{arch: slowfast_tiny, modality: rgb, {teacher}}}" for teacher in teachers.split(";"))
    text = EXPERIMENT.replace("TEACHERS", f"[{fleet}]").replace("STUDENT", student)
    return resolution.parse(text, "here", [])


def group(name: str, cpus: int, memory: str, gpus: int = 0, most: int = 8) -> dict[str, Any]:
    limits = {"cpu": str(cpus), "memory": memory, **({GPU: str(gpus)} if gpus else {})}
    resources = {"requests": dict(limits), "limits": limits}
    return {
        "groupName": name,
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": most,
        "template": {"spec": {"containers": [{"resources": resources}]}},
    }


GROUPS = [group("cpu", 8, "32Gi"), group("gpu", 8, "64Gi", gpus=1)]


def sizes(groups: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {found["groupName"]: (found["minReplicas"], found["maxReplicas"]) for found in groups}


def limits(found: dict[str, Any]) -> dict[str, str]:
    resources = found["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    held: dict[str, str] = resources["limits"]
    return held


def test_members_without_gpus_get_no_node_with_one() -> None:
    made = fit(GROUPS, experiment("seed: 0;seed: 1", "workers: 2"), grows=True)
    assert sizes(made) == {"cpu": (1, 1)}  # two of one CPU fit on a node of eight


def test_there_are_no_more_nodes_than_members_can_use_at_once() -> None:
    of_gpus = "resources: {gpus: 1, cpus: 4}"
    teachers = ";".join(f"seed: {seed}, {of_gpus}" for seed in range(5))
    made = fit(GROUPS, experiment(teachers, f"workers: 2, {of_gpus}"), grows=True)
    assert sizes(made) == {"cpu": (0, 8), "gpu": (1, 5)}


def test_a_fleet_larger_than_the_cluster_waits_its_turn() -> None:
    teachers = ";".join(f"seed: {seed}, resources: {{gpus: 1}}" for seed in range(50))
    made = fit(GROUPS, experiment(teachers, "resources: {gpus: 1}"), grows=True)
    assert sizes(made)["gpu"] == (1, 8)


def test_ranks_that_start_together_get_as_many_nodes_as_they_need() -> None:
    made = fit(GROUPS, experiment("seed: 0", "workers: 16, resources: {gpus: 1}"), grows=True)
    assert sizes(made)["gpu"] == (1, 16)


def test_shares_of_a_gpu_share_a_node() -> None:
    teachers = ";".join(f"seed: {seed}, resources: {{gpus: 0.25, cpus: 3}}" for seed in range(8))
    made = fit(GROUPS, experiment(teachers, "resources: {gpus: 1}"), grows=True)
    assert sizes(made)["gpu"] == (1, 2)
    assert limits(made[1])["cpu"] == "12"  # four of three CPUs each


def test_a_node_grows_where_a_member_would_not_fit() -> None:
    of_rank = "resources: {cpus: 12, gpus: 2, memory_gib: 70}"
    made = fit(GROUPS, experiment(f"seed: 0, {of_rank}", "resources: {cpus: 1}"), grows=True)
    assert limits(made[0]) == {"cpu": "12", "memory": "100Gi", GPU: "2"}
    assert limits(made[1]) == {"cpu": "8", "memory": "32Gi"}


def test_ray_is_told_what_of_a_pod_s_memory_tasks_may_reserve() -> None:
    """All of it would let two members into a pod that has room for one."""
    made = fit(GROUPS, experiment("resources: {memory_gib: 15}", "resources: {gpus: 1}"), grows=True)
    told = {found["groupName"]: int(found["rayStartParams"]["memory"]) / 2**30 for found in made}
    assert told == pytest.approx({"cpu": 0.7 * 32, "gpu": 0.7 * 64})


def test_members_that_ask_for_labels_get_nodes_with_them() -> None:
    labelled = "resources: {gpus: 1, node_labels: {accelerator: H100}}"
    made = fit(GROUPS, experiment(f"seed: 0, {labelled};seed: 1, resources: {{gpus: 1}}", ""), grows=True)
    assert [found["groupName"] for found in made] == ["gpu", "gpu-2", "cpu"]
    assert made[0]["labels"] == made[0]["template"]["spec"]["nodeSelector"] == {"accelerator": "H100"}
    assert "labels" not in made[1]


def test_a_cluster_that_does_not_grow_has_all_nodes_from_the_beginning() -> None:
    teachers = ";".join(f"seed: {seed}, resources: {{gpus: 1}}" for seed in range(3))
    made = fit(GROUPS, experiment(teachers, "resources: {gpus: 1}"), grows=False)
    assert sizes(made) == {"gpu": (3, 3)}


def test_the_coordinator_s_node_stays_as_it_is() -> None:
    own = group("coordinator", 2, "8Gi", most=1)
    made = fit([*GROUPS, own], experiment("seed: 0", ""), grows=True)
    assert made[0] == own


def test_gpus_that_no_node_has_are_refused() -> None:
    with pytest.raises(UsageError, match="no worker group with GPUs, which members reserve"):
        fit(GROUPS[:1], experiment("seed: 0, resources: {gpus: 1}", ""), grows=True)


def test_the_overlay_s_groups_are_not_changed() -> None:
    before = str(GROUPS)
    fit(GROUPS, experiment("seed: 0, resources: {cpus: 30}", ""), grows=True)
    assert str(GROUPS) == before
