"""`ray job submit` and `ukd submit` against a running cluster: a job takes the cluster that it runs in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.stages import fake_store
from ukd_dist import pipeline
from ukd_dist.manifest import write_atomically
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.status import read_status

pytestmark = pytest.mark.cluster
RAY = Path(sys.executable).with_name("ray")
HOME = Path(__file__).parents[1]
TINY = HOME / "launch/experiments/tiny.yaml"
SUBMIT = HOME / "launch/submit.sh"
SMALLEST = [
    "data.synthetic.train_clips=2",
    "data.synthetic.test_clips=1",
    "teachers.defaults.epochs=1",
    "students.defaults.epochs=1",
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A running cluster of two nodes of one CPU, with a job server."""
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # where ukd is
        nodes = Cluster()
        try:
            nodes.add_node(num_cpus=1, include_dashboard=True, dashboard_port=port)
            nodes.add_node(num_cpus=1)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture(scope="module")
def job_server(nodes: Any) -> str:
    """Address of the cluster's job server."""
    return f"http://{nodes.webui_url}"


def submit(job_server: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Submit a job and wait for its end; its output is the submission's."""
    entrypoint = [sys.executable, "-m", "ukd_dist.cli", *command]
    return call([RAY, "job", "submit", "--address", job_server, "--", *entrypoint])


def call(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def ukd(*command: str | Path) -> dict[str, Any]:
    """What a command that must succeed answers as JSON."""
    done = call([sys.executable, "-m", "ukd_dist.cli", *command, "--json"])
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def end_of(job_server: str, submission_id: str) -> str:
    """The status with which a job ends."""
    from ray.job_submission import JobSubmissionClient

    client, deadline = JobSubmissionClient(job_server), time.monotonic() + 60
    while not (status := client.get_job_status(submission_id)).is_terminal():
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status.value


def test_a_submitted_reduction_runs_on_the_clusters_nodes(job_server: str, tmp_path: Path) -> None:
    store = fake_store.build(tmp_path / "run", teachers=3, rows=50, classes=7)
    study = store.experiment("{ukd: {method: pkd}}")
    write_atomically(tmp_path / "study.yaml", study.to_yaml().encode())

    done = submit(job_server, "reduce", str(tmp_path / "study.yaml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray: 2 node(s)" in done.stdout
    (target,) = study.targets
    assert (RunDirectory(study.root).target(target.id) / TARGET_FILE).is_file()


def test_an_experiment_is_one_job_until_it_ends_and_goes_on_as_the_next(
    job_server: str, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    command = ["submit", str(TINY), f"root={root}", "--address", job_server]

    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda _: ukd(*command), range(2)))
    first = both[0]["id"]
    assert [answer["id"] for answer in both] == [first, first]
    assert sorted(answer["is_new"] for answer in both) == [False, True]
    cancel_when_held(root)
    assert end_of(job_server, first) == "FAILED"
    said = call(both[0]["follow"].replace("ray ", f"{RAY} ", 1).split()).stdout
    assert f"ukd: {root} was cancelled by process " in said

    again = ukd(*command)
    assert (again["id"], again["is_new"]) == (f"{first}-2", True)
    cancel_when_held(root)


@pytest.mark.slow
def test_the_script_that_submits_follows_a_job_to_its_end(job_server: str, tmp_path: Path) -> None:
    experiment = [str(TINY), f"root={tmp_path}/run", *SMALLEST]
    job = ukd("submit", *experiment, "--address", job_server)["id"]

    followed = call([SUBMIT, job_server, *experiment])

    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert f"submit.sh: following {job}\n" in followed.stderr
    states = read_status(RunDirectory(tmp_path / "run"), pipeline.load(TINY, experiment[1:]))
    assert {member.state for member in states} == {"done"}


def test_the_script_that_submits_fails_as_its_job_does(job_server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = call([SUBMIT, job_server, TINY, f"root={tmp_path}/file/run"])
    assert done.returncode == 1
    assert f"ukd: {tmp_path}/file/run: Not a directory; expected" in done.stdout


def cancel_when_held(root: Path) -> None:
    """Cancel a run as soon as it is there."""
    deadline = time.monotonic() + 60
    while ukd("cancel", TINY, f"root={root}")["stopped"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_coordinator_whose_cpus_never_come_is_taken_back(
    nodes: Any, job_server: str, tmp_path: Path
) -> None:
    command = ["submit", str(TINY), f"root={tmp_path}/run", "--address", job_server, "--wait", "20"]

    done = call([sys.executable, "-m", "ukd_dist.cli", *command, "--cpus", "99"])

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()  # nothing of Ray's own
    job, _, rest = line.removeprefix("ukd: ").partition(" did not start in time (")
    assert rest.endswith(
        "; expected a node with 99 CPUs free; "
        "it was taken back; lower --cpus, add nodes or wait longer, and submit again"
    )
    again = ukd(*command)
    assert (again["id"], again["is_new"]) == (f"{job}-2", True)
    cancel_when_held(tmp_path / "run")
    late = nodes.add_node(num_cpus=99)
    assert end_of(job_server, job) == "STOPPED"
    nodes.remove_node(late)


def test_a_submitted_reduction_that_is_refused_fails_the_job_with_its_line(
    job_server: str, tmp_path: Path
) -> None:
    write_atomically(tmp_path / "study.yaml", b"name: study")
    done = submit(job_server, "reduce", str(tmp_path / "study.yaml"))
    assert done.returncode != 0
    assert f"ukd: {tmp_path}/study.yaml: root is missing" in done.stdout
