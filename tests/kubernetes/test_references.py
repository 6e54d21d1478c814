"""What is wrong between objects and in pods is named: each thing broken once in manifests that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.references import problems

Built = Callable[[str], list[Manifest]]


class Objects:
    """The objects of an overlay, by what tests break in them."""

    def __init__(self, objects: list[Manifest]) -> None:
        self.all = objects

    def one(self, kind: str, name: str | None = None) -> Manifest:
        (found,) = [o for o in self.all if o["kind"] == kind and name in (None, o["metadata"]["name"])]
        return found

    def drop(self, kind: str, name: str) -> None:
        self.all.remove(self.one(kind, name))

    @property
    def cluster(self) -> dict[str, Any]:
        found: dict[str, Any] = self.one("RayJob")["spec"]["rayClusterSpec"]
        return found

    @property
    def head(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster["headGroupSpec"]["template"]["spec"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.head["containers"][0]
        return found


BROKEN: dict[str, Callable[[Objects], object]] = {
    "mounts 'nowhere', which is no volume": lambda o: o.container["volumeMounts"].append(
        {"name": "nowhere", "mountPath": "/x"}
    ),
    "there is no claim 'ukd-runs'": lambda o: o.drop("PersistentVolumeClaim", "ukd-runs"),
    "there is no service account 'ukd-head'": lambda o: o.drop("ServiceAccount", "ukd-head"),
    "there is no ConfigMap 'ukd-tiny'": lambda o: o.drop("ConfigMap", "ukd-tiny"),
    "ConfigMap 'ukd-tiny' has no 'experiment.yaml'": lambda o: o.one("ConfigMap", "ukd-tiny")["data"].clear(),
    "image 'ukd-dist' names no version": lambda o: o.container.update(image="ukd-dist"),
    "image 'host:5000/ukd-dist' names no version": lambda o: o.container.update(image="host:5000/ukd-dist"),
    "image 'ukd-dist:latest' names no version": lambda o: o.container.update(image="ukd-dist:latest"),
    "ray-head has no imagePullPolicy": lambda o: o.container.pop("imagePullPolicy"),
    "ray-head has no limits of memory": lambda o: o.container["resources"]["limits"].pop("memory"),
    "ray-head has no requests of cpu": lambda o: o.container["resources"]["requests"].pop("cpu"),
    "head: may run as root": lambda o: o.head["securityContext"].pop("runAsNonRoot"),
    "head: has no seccomp profile": lambda o: o.head["securityContext"].pop("seccompProfile"),
    "head: asks for hostNetwork": lambda o: o.head.update(hostNetwork=True),
    "volume 'tmp' is a folder of the node": lambda o: o.head["volumes"][5].update(hostPath={"path": "/"}),
    "ray-head may gain privileges": lambda o: o.container.pop("securityContext"),
    "ray-head is privileged": lambda o: o.container["securityContext"].update(privileged=True),
    "ray-head can write to its root file system": lambda o: o.container["securityContext"].pop(
        "readOnlyRootFilesystem"
    ),
    "ray-head keeps capabilities": lambda o: o.container["securityContext"]["capabilities"].update(add=["X"]),
    "ray-head may run as root": lambda o: o.container["securityContext"].update(runAsUser=0),
    "autoscaler: keeps capabilities": lambda o: o.cluster["autoscalerOptions"]["securityContext"].pop(
        "capabilities"
    ),
    "is killed 59 s after it is told to go": lambda o: o.head.update(terminationGracePeriodSeconds=59),
    "is killed 30 s after it is told to go": lambda o: o.head.pop("terminationGracePeriodSeconds"),
    "Ray asks nobody for a token": lambda o: o.cluster.pop("authOptions"),
    "no container has a port 'ukd-metrics'": lambda o: o.container["ports"].pop(3),
    "head: has no container": lambda o: o.head.pop("containers"),
    "Secret/token: a secret does not belong in a file": lambda o: o.all.append(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": "x"}}
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_broken_is_named(built: Built, said: str) -> None:
    objects = Objects(built("gpu"))
    assert problems(objects.all) == []

    BROKEN[said](objects)

    assert any(said in problem for problem in problems(objects.all)), problems(objects.all)


def test_an_image_may_be_named_by_its_digest(built: Built) -> None:
    objects = Objects(built("gpu"))
    objects.container["image"] = f"host:5000/ukd-dist@sha256:{'0' * 64}"
    assert problems(objects.all) == []
