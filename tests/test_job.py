"""`ray job submit` of a stage against a running cluster: the command takes the cluster that it runs in."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stages import fake_store
from ukd_dist.manifest import write_atomically
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.reduce import TARGET_FILE

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def job_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running cluster's job server; the cluster has two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes: Any = Cluster()
    try:
        nodes.add_node(num_cpus=1, include_dashboard=True, dashboard_port=port)
        nodes.add_node(num_cpus=1)
        yield f"http://127.0.0.1:{port}"
    finally:
        nodes.shutdown()


def submit(job_server: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Submit a job and wait for its end; its output is the submission's."""
    ray = shutil.which("ray", path=Path(sys.executable).parent)
    assert ray is not None
    entrypoint = [sys.executable, "-m", "ukd_dist.cli", *command]
    return subprocess.run(
        [ray, "job", "submit", "--address", job_server, "--", *entrypoint],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def test_a_submitted_reduction_runs_on_the_clusters_nodes(job_server: str, tmp_path: Path) -> None:
    store = fake_store.build(tmp_path / "run", teachers=3, rows=50, classes=7)
    study = store.experiment("{ukd: {method: pkd}}")
    write_atomically(tmp_path / "study.yaml", study.to_yaml().encode())

    done = submit(job_server, "reduce", str(tmp_path / "study.yaml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray: 2 node(s)" in done.stdout
    (target,) = study.targets
    assert (RunDirectory(study.root).target(target.id) / TARGET_FILE).is_file()


def test_a_submitted_reduction_that_is_refused_fails_the_job_with_its_line(
    job_server: str, tmp_path: Path
) -> None:
    write_atomically(tmp_path / "study.yaml", b"name: study")
    done = submit(job_server, "reduce", str(tmp_path / "study.yaml"))
    assert done.returncode != 0
    assert f"ukd: {tmp_path}/study.yaml: root is missing" in done.stdout
