"""What KubeRay 1.7 makes of a Ray cluster's description: a node's command, environment and mounts.

Read from its operator (ray-operator/controllers/ray/common/pod.go and job.go); `tests/kubernetes/test_job.py`
records what comes out for our manifests.
"""

from __future__ import annotations

import shlex
from typing import Any

from ukd_dist.kubernetes.pods import quantity

PORT = 6379
TOKEN = "a-token-that-kubernetes-would-keep-in-a-secret"


def start_command(cluster: dict[str, Any], group: dict[str, Any], service: str, *, head: bool) -> str:
    """The `ray start` of a group's pods.

    Args:
        cluster: The RayCluster's spec.
        group: Its head group, or one of its worker groups.
        service: The head service's name.
        head: Whether it is the head's.
    """
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    parameters = {
        "block": "true",
        "dashboard-agent-listen-port": "52365",
        "memory": f"{quantity(limits['memory']):.0f}",
        "metrics-export-port": "8080",
        "num-cpus": f"{quantity(limits['cpu']):.0f}",
        **({"dashboard-host": "0.0.0.0"} if head else {"address": f"{service}:{PORT}"}),
        **({"no-monitor": "true"} if head and cluster["enableInTreeAutoscaling"] else {}),
        **group["rayStartParams"],
    }
    flags = (f" --{k} " if v == "true" else f" --{k}={v} " for k, v in sorted(parameters.items()))
    return f"ray start {'--head ' if head else ''}{''.join(flags)}"


def container_command(
    cluster: dict[str, Any], group: dict[str, Any], service: str, *, head: bool
) -> list[str]:
    """What a pod runs: a worker waits for the head in a container of its own before."""
    started = start_command(cluster, group, service, head=head)
    waited = "" if head else f"until ray health-check --address {service}:{PORT}; do sleep 1; done; "
    return ["/bin/bash", "-c", "--", f"{waited}ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {started}"]


def environment(group: dict[str, Any], service: str, *, head: bool) -> dict[str, str]:
    """Of a pod's Ray container: its own, the token, and where the head is."""
    own = {entry["name"]: entry["value"] for entry in group["template"]["spec"]["containers"][0]["env"]}
    address = "127.0.0.1" if head else service
    return {
        **own,
        "HOME": "/home/ukd",  # the image's
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ADDRESS": f"{address}:{PORT}",
        "RAY_PORT": str(PORT),
        "RAY_CLUSTER_NAMESPACE": "ukd",
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
    }


def submit_command(job: dict[str, Any], service: str, submission: str) -> str:
    """What the pod that submits runs, once the dashboard answers; it may be run again."""
    server = f"http://{service}:8265"
    return (
        f"if ! ray job status --address {server} {submission} >/dev/null 2>&1 ; "
        f"then ray job submit --address {server} --no-wait --submission-id {submission} "
        f"-- {job['entrypoint']} ; fi ; "
        f"ray job logs --address {server} --follow {submission}"
    )


def mounts(group: dict[str, Any], folders: dict[str, str]) -> list[str]:
    """A pod's mounts, the outer ones first, each as `path|source|options` of `mount`.

    Args:
        group: Whose pods.
        folders: What stands for a claim or ConfigMap, by its name.
    """
    spec = group["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    found = []
    for mount in sorted(spec["containers"][0]["volumeMounts"], key=lambda mount: str(mount["mountPath"])):
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            size = quantity(volume["emptyDir"].get("sizeLimit", "1Gi"))
            source, options = "tmpfs", f"size={min(size, 2**30):.0f}"  # this machine has less than a node
        else:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName") or volume["configMap"]["name"]
            source, options = folders[name], "ro" if mount.get("readOnly") else "rw"
        found.append(f"{mount['mountPath']}|{source}|{options}")
    return found


def quoted(environment: dict[str, str]) -> str:
    """As the shell takes it before a command."""
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
