"""The RayJob's way without Kubernetes: nodes started as KubeRay starts pods, and the experiment on them.

A node is a set of namespaces, as in `tests/namespaces.py`, and its file system is a pod's: read-only, with
the volumes of the manifests. Left out: the user (all run as root), limits, network policies, the
autoscaler.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import links
from tests.kubernetes import kuberay
from tests.namespaces import INIT, REPOSITORY, Nodes, wait_until
from ukd_dist import pipeline
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import cluster_spec, job_spec
from ukd_dist.rundir import RunDirectory
from ukd_dist.status import read_status

Built = Callable[[str], list[Manifest]]
BUILT = Path(sys.prefix) / "torch_extensions"  # DeepSpeed's op, which the image has built too
SERVICE = "ukd-tiny-abcde-head-svc.ukd.svc.cluster.local"
HEAD = (
    "ray start --head  --block  --dashboard-agent-listen-port=52365  --dashboard-host=0.0.0.0 "
    " --memory=3221225472  --metrics-export-port=8080  --no-monitor  --num-cpus=0 "
    " --object-store-memory=200000000 "
)
WORKER = (
    f"ray start  --address={SERVICE}:6379  --block  --dashboard-agent-listen-port=52365 "
    " --memory=4294967296  --metrics-export-port=8080  --num-cpus=2  --object-store-memory=200000000 "
)

# A pod's file system put together at $1 and made the root: this machine's read-only, fresh volumes over it.
# Arguments: the folder, the head's address and name, places below /tmp that are needed, mounts, the folder of
# DeepSpeed's op and a copy of it, a command.
POD = r"""
set -e
root=$1 head=$2 service=$3 kept=$4 mounts=$5 built=$6 copy=$7; shift 7
echo "$head $service" >> /etc/hosts
mount -t tmpfs -o mode=755 tmpfs "$root"
for place in /*; do
  case $place in
    /tmp|/home|/runs|/data|/scratch|/experiment) ;;
    /proc|/sys|/dev) mkdir "$root$place"; mount --rbind "$place" "$root$place" ;;
    *) if [ -L "$place" ]; then cp -P "$place" "$root/"
       elif [ -d "$place" ]; then
         mkdir "$root$place"; mount --rbind "$place" "$root$place"; mount -o remount,bind,ro "$root$place"
       fi ;;
  esac
done
echo "$mounts" | while IFS='|' read -r path source options; do
  mkdir -p "$root$path"
  if [ "$source" = tmpfs ]; then mount -t tmpfs -o "$options,mode=1777" tmpfs "$root$path"
  else mount --bind "$source" "$root$path"; mount -o "remount,bind,$options" "$root$path"; fi
done
for place in $kept; do
  mkdir -p "$root$place"; mount --bind "$place" "$root$place"; mount -o remount,bind,ro "$root$place"
done
mount --bind "$copy" "$root$built"
mkdir "$root/.before"
cd "$root"
pivot_root . .before
umount -l /.before
mount -o remount,ro /
cd /runs
exec "$@"
"""


class Pods(Nodes):
    """Nodes whose file systems, environments and commands are those of a Ray cluster's pods.

    Args:
        folder: For logs and roots.
        cluster: The spec of the RayCluster.
        workers: How many pods of its first worker group.
        folders: What stands for claims and ConfigMaps.
    """

    def __init__(self, folder: Path, cluster: dict[str, Any], workers: int, folders: dict[str, str]) -> None:
        self._cluster, self._folders, self._roots = cluster, folders, folder
        super().__init__(folder, 1 + workers, environment={"PYTHONPATH": str(REPOSITORY)})

    def _ray_start(self, node: int) -> list[str]:
        head = node == 0
        group = self._cluster["headGroupSpec"] if head else self._cluster["workerGroupSpecs"][0]
        told = kuberay.environment(group, SERVICE, head=head) | {"TORCH_EXTENSIONS_DIR": str(BUILT)}
        command = kuberay.container_command(self._cluster, group, SERVICE, head=head)
        places = self._places(node, group)
        return ["sh", "-c", POD, "pod", *places, "env", *(f"{k}={v}" for k, v in told.items()), *command]

    def _places(self, node: int, group: dict[str, Any]) -> list[str]:
        """What `POD` is told of a node's file system."""
        root, op = self._roots / f"root{node}", self._roots / f"op{node}"
        root.mkdir()
        op.mkdir()
        shutil.copytree(BUILT, op, dirs_exist_ok=True)
        needed = {str(place) for place in (sys.prefix, sys.base_prefix, REPOSITORY)}
        kept = " ".join(sorted(place for place in needed if place.startswith("/tmp/")))
        mounts = "\n".join(kuberay.mounts(group, self._folders))
        return [str(root), self.ip(0), SERVICE, kept, mounts, str(BUILT), str(op)]


@pytest.fixture(scope="module")
def objects(built: Built) -> list[Manifest]:
    return built("cpu")


@pytest.fixture(scope="module")
def job(objects: list[Manifest]) -> dict[str, Any]:
    (found,) = [spec for spec in map(job_spec, objects) if spec is not None]
    return found


@pytest.fixture(scope="module")
def cluster(objects: list[Manifest]) -> dict[str, Any]:
    (found,) = [spec for spec in map(cluster_spec, objects) if spec is not None]
    return found


@pytest.fixture(scope="module")
def folders(objects: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder for each claim and each ConfigMap."""
    found = {}
    for item in objects:
        if item["kind"] in ("PersistentVolumeClaim", "ConfigMap"):
            name = item["metadata"]["name"]
            folder = tmp_path_factory.mktemp(name)
            found[name] = str(folder)
            for key, text in item.get("data", {}).items():
                (folder / key).write_text(text)
    return found


@pytest.fixture(scope="module")
def pods(
    cluster: dict[str, Any], folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """The head and two workers."""
    if reason := links.missing() or (
        None if BUILT.is_dir() else "DeepSpeed's op is not built here: make install"
    ):
        pytest.skip(reason)
    with Pods(tmp_path_factory.mktemp("pods"), cluster, 2, folders) as pods:
        yield pods


def call(pods: Pods, command: str, node: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a pod, with a token unless told otherwise."""
    told = kuberay.quoted({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": kuberay.TOKEN, **environment})
    process = pods.run(
        "bash",
        "-c",
        f"cd /runs; unset RAY_ADDRESS; export {told}; {command}",
        node=node,
        output=subprocess.PIPE,
    )
    said, _ = process.communicate(timeout=900)
    return subprocess.CompletedProcess(command, process.returncode, said)


def test_ray_is_started_by_the_commands_that_kuberay_derives(cluster: dict[str, Any]) -> None:
    head, worker = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    assert kuberay.start_command(cluster, head, SERVICE, head=True) == HEAD
    assert kuberay.start_command(cluster, worker, SERVICE, head=False) == WORKER


@pytest.mark.cluster
def test_the_job_succeeds_on_nodes_that_are_started_as_pods_are(
    pods: Pods, job: dict[str, Any], folders: dict[str, str]
) -> None:
    server = f"http://{SERVICE}:8265"
    asked = call(pods, f"ray job list --address {server}", RAY_AUTH_MODE="disabled")
    assert asked.returncode != 0, asked.stdout  # whoever has no token

    submitted = call(pods, kuberay.submit_command(job, SERVICE, "ukd-tiny-fghij"), node=1)

    ended = call(pods, f"ray job status --address {server} ukd-tiny-fghij")
    assert "succeeded" in ended.stdout, submitted.stdout + ended.stdout
    assert "Ray: 3 node(s)" in submitted.stdout
    root = Path(folders["ukd-runs"]) / "tiny"
    experiment = pipeline.load(Path(folders["ukd-tiny"]) / "experiment.yaml", [f"root={root}"])
    states = read_status(RunDirectory(root), experiment)
    assert {member.state for member in states} == {"done"}
    assert (root / "report/index.html").is_file()


@pytest.mark.cluster
def test_nothing_but_the_volumes_can_be_written_to(pods: Pods) -> None:
    tried = call(
        pods, "for place in / /usr /etc /opt /experiment /data; do touch $place/x 2>&1; done; true", node=0
    )
    assert tried.stdout.count("Read-only file system") == 6, tried.stdout
    kept = call(pods, "touch /tmp/x /tmp/ray/x /dev/shm/x /home/ukd/x /runs/x /scratch/x", node=1)
    assert kept.returncode == 0, kept.stdout


@pytest.mark.cluster
def test_a_pod_that_kubernetes_tells_to_go_drains_and_ends(pods: Pods) -> None:
    """The shell around `ray start` is gone by then: it would swallow the signal."""
    started = pods.raylet(2).parent()
    assert started is not None
    first = started.parent()
    assert first is not None
    assert INIT in first.cmdline()

    started.terminate()

    wait_until(lambda: not pods.is_up(2), 60)
    assert pods.is_up(0)
    assert pods.is_up(1)
