"""Where pods are described in objects of Kubernetes: Ray clusters, the jobs around them, pods that submit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ukd_dist.kubernetes.manifests import Manifest

RAY_KINDS = ("RayJob", "RayCluster", "RayCronJob")
GPU = "nvidia.com/gpu"
_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


@dataclass(frozen=True)
class Pod:
    """The description of a pod.

    Attributes:
        where: Object and part of it, for messages.
        template: As it stands in the object.
        ray: Whether it is a node of Ray.
    """

    where: str
    template: dict[str, Any]
    ray: bool

    @property
    def spec(self) -> dict[str, Any]:
        """What runs in it, and where."""
        found: dict[str, Any] = self.template.get("spec") or {}
        return found

    @property
    def labels(self) -> dict[str, str]:
        """Its own."""
        found: dict[str, str] = (self.template.get("metadata") or {}).get("labels") or {}
        return found

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that begin first, and those that stay."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]


def name_of(manifest: Manifest) -> str:
    """An object's kind and name."""
    return f"{manifest['kind']}/{manifest['metadata'].get('name', '?')}"


def job_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The part of a RayJob or RayCronJob that says what is run; None of other kinds."""
    spec = manifest.get("spec") or {}
    found: dict[str, Any] | None = {"RayJob": spec, "RayCronJob": spec.get("jobTemplate")}.get(
        manifest["kind"]
    )
    return found


def cluster_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The part of an object that describes a Ray cluster; None of other kinds."""
    holder = (
        {"rayClusterSpec": manifest.get("spec")} if manifest["kind"] == "RayCluster" else job_spec(manifest)
    )
    return (holder or {}).get("rayClusterSpec")


def pods(manifest: Manifest) -> Iterator[Pod]:
    """Every pod that an object is or describes; Deployments and the like, which are not ours, left out."""
    where, cluster = name_of(manifest), cluster_spec(manifest)
    if manifest["kind"] == "Pod":
        yield Pod(where, {name: manifest.get(name, {}) for name in ("metadata", "spec")}, ray=False)
    if cluster:
        yield Pod(f"{where} head", cluster.get("headGroupSpec", {}).get("template", {}), ray=True)
        for group in cluster.get("workerGroupSpecs", []):
            yield Pod(f"{where} {group.get('groupName', '?')}", group.get("template", {}), ray=True)
    submitter = (job_spec(manifest) or {}).get("submitterPodTemplate")
    if submitter:
        yield Pod(f"{where} submitter", submitter, ray=False)


def quantity(text: str | float) -> float:
    """A quantity of Kubernetes as a number: cores, bytes.

    Raises:
        ValueError: It is none.
    """
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if found is None or found.group(2) not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(found.group(1)) * _UNITS[found.group(2)]
