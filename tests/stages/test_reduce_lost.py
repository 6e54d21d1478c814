"""The reduction while a process or a node is killed: what it costs, and that it ends with the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tests.stages import fake_store
from tests.stages.test_reduce import content, run, targets
from ukd_dist.cluster import Job, RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.sums import SUMS
from ukd_dist.experiment import TargetMember
from ukd_dist.manifest import FILENAME
from ukd_dist.rundir import RunDirectory

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    with RayCluster(Cluster(local_nodes=2, cpus_per_node=1), tmp_path / "logs") as cluster:
        yield cluster


def kill_worker(worker: psutil.Process) -> None:
    worker.kill()


def kill_node(worker: psutil.Process) -> None:
    """Everything that a machine takes with it when it fails: the worker's raylet and all that it started."""
    raylet = worker.parent()
    assert raylet is not None
    assert raylet.name() == "raylet"
    for process in [raylet, *raylet.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.parametrize("kill", [kill_worker, kill_node])
def test_what_is_killed_costs_the_blocks_in_its_hands(
    cluster: RayCluster, tmp_path: Path, kill: Callable[[psutil.Process], None]
) -> None:
    root = tmp_path / "run"
    store = fake_store.build(root, 40, 20_000, 16)
    experiment = store.experiment(targets("pkd"), reduce_rows=400)
    (member,) = experiment.targets
    finished: dict[Path, int] = {}
    list(cluster.run([Job("start", len, ("",))]))  # the cluster starts in the main thread
    killer = threading.Thread(target=lambda: finished.update(lose(cluster, member, root, kill)))
    killer.start()
    (target,) = run(cluster, experiment)
    killer.join()

    assert finished, "nothing was killed in the middle of a block"
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    survived = content(target)
    shutil.rmtree(root / "targets")
    run(cluster, experiment)
    assert content(target) == survived


# Ends as kill -9 does, before the first operation on files that an audit event announces: its name, and part
# of its arguments.
KILLED_AT = """
import os, signal, sys
from ukd_dist.cli import app

def kill(event, arguments):
    if event == sys.argv[1] and sys.argv[2] in str(arguments):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
app(sys.argv[3:])
"""


def test_a_reduction_killed_before_or_after_it_is_committed_loses_no_block_and_keeps_none(
    cluster: RayCluster, tmp_path: Path
) -> None:
    experiment = fake_store.build(tmp_path / "run", 3, 50, 7).experiment(targets("pkd"))
    file = tmp_path / "experiment.yaml"
    file.write_text(experiment.to_yaml())
    target = RunDirectory(experiment.root).target(experiment.targets[0].id)
    list(cluster.run([Job("start", len, ("",))]))
    ray_address = ray.get_runtime_context().gcs_address

    def reduce_killed_at(event: str, part: str) -> int:
        command = ["reduce", str(file), "cluster.keep_sums=false"]
        return subprocess.run(
            [sys.executable, "-c", KILLED_AT, event, part, *command],
            env=os.environ | {"RAY_ADDRESS": ray_address},
            check=False,
        ).returncode

    def blocks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (target / SUMS).glob("*")}

    assert reduce_killed_at("os.rename", f"{target.name}/{FILENAME}") == -signal.SIGKILL
    assert not (target / FILENAME).exists()
    done = blocks()
    assert len(done) == 4

    assert reduce_killed_at("os.remove", f"{target.name}/{SUMS}/") == -signal.SIGKILL
    assert (target / FILENAME).exists()
    assert blocks() == done

    assert reduce_killed_at("none", "") == 0
    assert not (target / SUMS).exists()


def lose(
    cluster: RayCluster, member: TargetMember, root: Path, kill: Callable[[psutil.Process], None]
) -> dict[Path, int]:
    """Kill a worker in the middle of a block, off the head node, or its node; the blocks done by then."""
    head, run_directory = ray.get_runtime_context().get_node_id(), RunDirectory(root)
    sums, deadline = run_directory.target(member.id) / SUMS, time.monotonic() + 60
    while time.monotonic() < deadline and not run_directory.finished_targets():
        for log in cluster.logs.glob(f"reduce-{member.id}-*.log"):
            begin = int(log.stem.rpartition("-")[2])
            if not (lines := log.read_text().splitlines()) or any(sums.glob(f"{begin:09d}-*.safetensors")):
                continue
            where = json.loads(lines[0])
            if where["node"] == head:
                continue
            victim = psutil.Process(where["pid"])
            victim.suspend()  # so that it cannot end the block while we look
            blocks = {path: path.stat().st_mtime_ns for path in sums.glob("[0-9]*.safetensors")}
            if blocks and not any(path.name.startswith(f"{begin:09d}") for path in blocks):
                kill(victim)
                return blocks
            victim.resume()
        time.sleep(0.001)
    return {}
