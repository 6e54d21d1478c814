"""`ukd k8s render`: an overlay's manifests with an experiment in place of the one that it holds.

The experiment travels in a ConfigMap, and its digest names the job: applied again it is that job, and what
was changed is another. Left out: bringing videos and the image there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, digest
from ukd_dist.kubernetes.groups import fit
from ukd_dist.kubernetes.manifests import Manifest, build, overlay_folder
from ukd_dist.kubernetes.pods import cluster_spec, job_spec, pods

DIGEST = "ukd-dist/experiment"  # the label
RUN = "app.kubernetes.io/instance"
METRICS = "ukd-metrics"  # the port's name
_FILE = "experiment.yaml"
# KubeRay keeps 50 of a cluster's name: "ukd-", this, a digest, and six that it adds to the job's.
_NAME_LENGTH = 31
_LARGEST_BYTES = 1_000_000  # of a ConfigMap: 1 MiB


def render(experiment: Experiment, overlay: str) -> list[Manifest]:
    """The objects of an overlay for an experiment, ready to be applied.

    Args:
        experiment: Its paths are those of the pods.
        overlay: Name, or folder of one's own.

    Raises:
        UsageError: There is no such overlay or it holds no job, a path is on no volume of the pods, or
            members reserve what the overlay's nodes do not have.
        ResourceError: There is no kustomize.
    """
    objects = build(overlay_folder(overlay))
    job = _job_of(objects, overlay)
    spec, cluster = job_spec(job), cluster_spec(job)
    assert spec is not None
    assert cluster is not None
    _check_paths(experiment, cluster)
    port = _metrics_port(job, experiment)
    document = _document(experiment, port)
    mark = digest(document)
    cluster["workerGroupSpecs"] = fit(
        cluster["workerGroupSpecs"], experiment, grows=bool(cluster.get("enableInTreeAutoscaling"))
    )
    stem = f"ukd-{_slug(experiment.name)}"
    # A cron job of a fleet that has grown is still that job, any other is one for each experiment.
    job["metadata"]["name"] = stem if job["kind"] == "RayCronJob" else f"{stem}-{mark}"
    _carry(objects, job, document, f"{stem}-{mark}")
    _label(job, experiment.name, mark)
    return objects


def _job_of(objects: list[Manifest], overlay: str) -> Manifest:
    jobs = [item for item in objects if job_spec(item) is not None]
    if len(jobs) != 1:
        raise UsageError(
            f"overlay '{overlay}' holds {len(jobs)} jobs",
            expected="one RayJob or RayCronJob",
            action="choose another, or apply a cluster as it is (kubectl apply -k) and use `ukd submit`",
        )
    return jobs[0]


def _slug(name: str) -> str:
    """An experiment's name as names of Kubernetes allow it; as a label it has to fit by itself."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", name) is None:
        raise UsageError(
            f"the experiment's name {name} is no label of Kubernetes",
            expected="at most 63 characters, the last of them a letter or digit",
            action="choose another name",
        )
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:_NAME_LENGTH].strip("-")


def _document(experiment: Experiment, port: int | None) -> dict[str, Any]:
    """The experiment's file as it is in the pods, where it finds the cluster of its job."""
    if experiment.cluster.address not in (None, "auto"):
        raise UsageError(
            f"cluster.address is {experiment.cluster.address}",
            expected="none: the job has a cluster of its own",
            action="give cluster.address=null, or use `ukd submit`",
        )
    cluster = {**experiment.document["cluster"], "address": None, "metrics_port": port}
    return {**experiment.document, "cluster": cluster}


def _metrics_port(job: Manifest, experiment: Experiment) -> int | None:
    """The coordinator's port: the experiment's, else that of the manifests, which are told."""
    asked = experiment.cluster.metrics_port
    ports = [
        port
        for pod in pods(job)
        for container in pod.containers
        for port in container.get("ports", [])
        if port.get("name") == METRICS
    ]
    if asked is None or not ports:
        return asked
    for port in ports:
        port["containerPort"] = asked or port["containerPort"]
    return int(ports[0]["containerPort"])


def _check_paths(experiment: Experiment, cluster: dict[str, Any]) -> None:
    """Refuse paths that no claim of the pods holds, and a root or cache that cannot be written to."""
    head = cluster["headGroupSpec"]["template"]["spec"]
    _refuse_outside("root", experiment.root, _mounts(head, writable=True), f"root=/runs/{experiment.name}")
    for name, path in _paths(experiment):
        _refuse_outside(name, path, _mounts(head), f"give {name}=... as the pods see it")
    if cache := experiment.cluster.shard_cache:
        for group in cluster["workerGroupSpecs"]:
            scratch = _mounts(group["template"]["spec"], claimed=False, writable=True)
            _refuse_outside("cluster.shard_cache", cache, scratch, "give cluster.shard_cache=/scratch/ukd")


def _mounts(spec: dict[str, Any], *, claimed: bool = True, writable: bool = False) -> list[Path]:
    """Where a pod's first container finds its volumes: those of claims, or of the node alone."""
    claims = {
        volume["name"]: volume["persistentVolumeClaim"].get("readOnly", False)
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    return [
        Path(mount["mountPath"])
        for mount in spec["containers"][0]["volumeMounts"]
        if (mount["name"] in claims) == claimed
        and not (writable and (mount.get("readOnly") or claims.get(mount["name"])))
    ]


def _refuse_outside(name: str, path: Path, mounts: list[Path], action: str) -> None:
    if not any(path.is_relative_to(mount) for mount in mounts):
        raise UsageError(
            f"{name} {path} is on no volume of the pods",
            expected=f"a path below {' or '.join(map(str, mounts))}",
            action=action,
        )


def _paths(experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """What an experiment reads beside its root."""
    data = experiment.data
    if data.videos and data.source != "synthetic":
        yield "data.videos", data.videos
    if data.classes:
        yield "data.classes", data.classes
    if data.shards and "://" not in data.shards:
        yield "data.shards", Path(data.shards)
    for name, split in data.splits.items():
        yield f"data.splits.{name}.train", split.train
        yield f"data.splits.{name}.test", split.test
    members: list[TeacherMember | StudentMember] = [*experiment.teachers, *experiment.students]
    for member in members:
        if member.settings.init.startswith("/"):
            yield f"{member.id}: init", Path(member.settings.init)


def _carry(objects: list[Manifest], job: Manifest, document: dict[str, Any], name: str) -> None:
    """Put the experiment into its ConfigMap, under a name of its own, wherever it is mounted from."""
    (held,) = [item for item in objects if item["kind"] == "ConfigMap" and _FILE in item.get("data", {})]
    text = yaml.safe_dump(document, sort_keys=False)
    if len(text.encode()) > _LARGEST_BYTES:
        raise UsageError(
            f"the experiment has {len(text.encode())} bytes",
            expected=f"at most {_LARGEST_BYTES}, which a ConfigMap holds",
            action="write its members as a grid",
        )
    before, held["metadata"]["name"], held["data"] = held["metadata"]["name"], name, {_FILE: text}
    for pod in pods(job):
        for volume in pod.spec.get("volumes", []):
            if volume.get("configMap", {}).get("name") == before:
                volume["configMap"]["name"] = name
    held["metadata"].setdefault("labels", {})[DIGEST] = name.rpartition("-")[2]


def _label(job: Manifest, run: str, mark: str) -> None:
    """Say on the job and on its pods which run and which experiment they are of."""
    labels = {RUN: run, DIGEST: mark}
    job["metadata"].setdefault("labels", {}).update(labels)
    for pod in pods(job):
        pod.template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
