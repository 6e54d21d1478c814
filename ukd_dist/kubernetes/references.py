"""What no schema says: whether objects that are applied together fit each other, and what every pod owes.

What is mounted exists, ports that are scraped or let through are there, images are named by a tag,
everything has requests and limits, no pod asks for more than the restricted pod security standard allows,
and a pod that is to go has time for what Ray does then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import Pod, cluster_spec, name_of, pods

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
DRAIN_SECONDS = 30.0  # Ray's own, where nothing is said
GRACE_SECONDS = 30.0  # Kubernetes' own
_SPARE_SECONDS = 30.0  # for what Ray does before the drain and after it


def problems(objects: Sequence[Manifest]) -> list[str]:
    """What is wrong with objects that are applied together."""
    described = [pod for item in objects for pod in pods(item)]
    found = [
        f"{name_of(item)}: a secret does not belong in a file" for item in objects if item["kind"] == "Secret"
    ]
    for pod in described:
        own = (*_mounts(pod, objects), *_containers(pod), *_security(pod), *_grace(pod))
        found += [f"{pod.where}: {problem}" for problem in own]
    for item in objects:
        found += [f"{name_of(item)}: {problem}" for problem in _object(item, described)]
    return found


def _object(item: Manifest, described: Sequence[Pod]) -> Iterator[str]:
    cluster = cluster_spec(item)
    if cluster is not None and cluster.get("authOptions", {}).get("mode") != "token":
        yield "Ray asks nobody for a token (authOptions.mode)"
    sidecar = (cluster or {}).get("autoscalerOptions", {})
    if cluster is not None and cluster.get("enableInTreeAutoscaling"):
        yield from (f"autoscaler: {problem}" for problem in _confinement(sidecar))
    there = {
        port.get("name")
        for pod in described
        for container in pod.containers
        for port in container.get("ports", [])
    }
    for port in _named_ports(item):
        if described and port not in there:
            yield f"no container has a port '{port}'"


def _named_ports(item: Manifest) -> Iterator[str]:
    """Ports that a monitor or a policy names."""
    spec = item.get("spec") or {}
    if item["kind"] == "PodMonitor":
        yield from (e["port"] for e in spec.get("podMetricsEndpoints", []) if "port" in e)
    if item["kind"] == "NetworkPolicy":
        rules = [*spec.get("ingress", []), *spec.get("egress", [])]
        ports = (port.get("port") for rule in rules for port in rule.get("ports", []))
        yield from (port for port in ports if isinstance(port, str))


def _mounts(pod: Pod, objects: Sequence[Manifest]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for container in pod.containers:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']} mounts '{mount['name']}', which is no volume of its pod"
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and _held(objects, "PersistentVolumeClaim", claim) is None:
            yield f"there is no claim '{claim}'"
        yield from _keys(volume.get("configMap"), objects)
    account = pod.spec.get("serviceAccountName")
    if account and _held(objects, "ServiceAccount", account) is None:
        yield f"there is no service account '{account}'"


def _keys(mounted: dict[str, Any] | None, objects: Sequence[Manifest]) -> Iterator[str]:
    if mounted is None:
        return
    held = _held(objects, "ConfigMap", mounted["name"])
    if held is None:
        yield f"there is no ConfigMap '{mounted['name']}'"
        return
    for item in mounted.get("items", []):
        if item["key"] not in held.get("data", {}):
            yield f"ConfigMap '{mounted['name']}' has no '{item['key']}'"


def _held(objects: Sequence[Manifest], kind: str, name: str) -> Manifest | None:
    return next((o for o in objects if o["kind"] == kind and o["metadata"].get("name") == name), None)


def _containers(pod: Pod) -> Iterator[str]:
    if not pod.spec.get("containers"):
        yield "has no container"
    for container in pod.containers:
        name, image = container["name"], container.get("image", "")
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{name}: image '{image}' names no version"
        if "imagePullPolicy" not in container:
            yield f"{name} has no imagePullPolicy"
        resources = container.get("resources", {})
        for part in ("requests", "limits"):
            missing = {"cpu", "memory", "ephemeral-storage"} - set(resources.get(part, {}))
            if missing:
                yield f"{name} has no {part} of {', '.join(sorted(missing))}"


def _security(pod: Pod) -> Iterator[str]:
    """What the restricted pod security standard refuses, and file systems that can be written to."""
    own = pod.spec.get("securityContext", {})
    if not own.get("runAsNonRoot"):
        yield "may run as root"
    if own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(name):
            yield f"asks for {name}"
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume '{volume['name']}' is a folder of the node"
    for container in pod.containers:
        yield from (f"{container['name']} {problem}" for problem in _confinement(container))


def _confinement(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("privileged"):
        yield "is privileged"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "can write to its root file system"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield "keeps capabilities"
    if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
        yield "may run as root"


def _grace(pod: Pod) -> Iterator[str]:
    if not (pod.ray and pod.containers):
        return
    settings = {e["name"]: e.get("value") for e in pod.spec["containers"][0].get("env", [])}
    drain = float(settings.get(DRAIN) or DRAIN_SECONDS)
    grace = float(pod.spec.get("terminationGracePeriodSeconds", GRACE_SECONDS))
    if grace < drain + _SPARE_SECONDS:
        yield f"is killed {grace:g} s after it is told to go, and drains for {drain:g}: give it 30 more"
