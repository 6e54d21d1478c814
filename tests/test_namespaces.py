"""Machines of a cluster that die, are cut off and told to go, and the seconds that each costs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests import links
from tests.beating import lines
from tests.links import Bridge
from tests.namespaces import REPOSITORY, Nodes, wait_until

pytestmark = pytest.mark.cluster
Record = Callable[[str, object], None]

COUNT = 4
DRAIN_SECONDS = 5
NOTICE_SECONDS = 60.0  # far more than any fault needs to be noticed
CUT_SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster(start_nodes: Callable[..., Nodes]) -> Nodes:
    return start_nodes(COUNT, environment={"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS)})


class Fault(NamedTuple):
    """What befell the node of a job at a moment, and the seconds from then on."""

    job: str
    node: int
    begin: float
    elsewhere: float
    noticed: float


class Beating:
    """Jobs that beat on a cluster, seen from outside."""

    def __init__(self, nodes: Nodes, folder: Path, jobs: int) -> None:
        self.nodes, self.folder, self.jobs = nodes, folder, [f"job{n}" for n in range(jobs)]
        self.driver = self.start()

    def __enter__(self) -> Beating:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> subprocess.Popen[str]:
        return self.nodes.run("python", "-m", "tests.beating", str(self.folder), str(len(self.jobs)))

    def last(self, job: str) -> tuple[int, float] | None:
        """The node of a job's last beat and its time."""
        beats = lines(self.folder / f"{job}.beats")
        return (node_of(beats[-1]), float(beats[-1]["time"])) if beats else None

    def places(self, since: float = 0.0) -> dict[str, int]:
        """The node on which each job beat last, of those that did after a moment."""
        beats = {job: self.last(job) for job in self.jobs}
        return {job: beat[0] for job, beat in beats.items() if beat and beat[1] > since}

    def wait(self) -> dict[str, int]:
        """The node of each job, once all of them beat."""
        start = time.time()
        wait_until(lambda: len(self.places(start)) == len(self.jobs), NOTICE_SECONDS)
        return self.places()

    def off_the_head(self) -> tuple[str, int]:
        """A job, and its node, which is not the driver's."""
        return next((job, node) for job, node in self.wait().items() if node != 0)

    def seconds_until_elsewhere(self, job: str, node: int, begin: float) -> float:
        """From a moment to the job's first beat on another node."""

        def elsewhere() -> list[float]:
            beats = lines(self.folder / f"{job}.beats")
            return [float(beat["time"]) for beat in beats if beat["time"] > begin and node_of(beat) != node]

        wait_until(lambda: bool(elsewhere()), NOTICE_SECONDS)
        return min(elsewhere()) - begin

    def seconds_until_noticed(self, node: int, begin: float) -> float:
        """From a moment to the driver's knowing that a node is lost."""
        name = self.nodes.name(node)

        def without() -> list[float]:
            seen = lines(self.folder / "nodes")
            return [
                float(line["time"]) for line in seen if line["time"] > begin and name not in line["alive"]
            ]

        wait_until(lambda: bool(without()), NOTICE_SECONDS)
        return min(without()) - begin

    def suffer(self, strike: Callable[[int], None]) -> Fault:
        """Strike a job's node, and wait until the job beats elsewhere and the node's loss is known."""
        job, node = self.off_the_head()
        begin = time.time()
        strike(node)
        elsewhere = self.seconds_until_elsewhere(job, node, begin)
        return Fault(job, node, begin, elsewhere, self.seconds_until_noticed(node, begin))

    def end(self) -> int:
        """The driver's exit status once the jobs are told to end: how many failed."""
        (self.folder / "end").touch()
        return self.driver.wait(NOTICE_SECONDS)


def test_jobs_run_on_every_node(nodes: Nodes, tmp_path: Path) -> None:
    with Beating(nodes, tmp_path, COUNT) as beating:
        assert set(beating.wait().values()) == set(range(COUNT))
        assert [len(nodes.workers(node)) for node in range(COUNT)] == [1] * COUNT
        assert beating.end() == 0


@pytest.mark.slow  # test_fleet_faults.py has the fault with real trainings
def test_a_killed_process_costs_its_job_a_start(
    nodes: Nodes, tmp_path: Path, record_property: Record
) -> None:
    with Beating(nodes, tmp_path, 2) as beating:
        job, node = beating.off_the_head()
        (worker,) = nodes.workers(node)

        worker.kill()
        begin = time.time()
        seconds = wait_until(lambda: job in beating.places(begin + 0.2), NOTICE_SECONDS)

        tell(record_property, beats_again=seconds)
        assert not worker.is_running()
        assert beating.end() == 0


@pytest.mark.slow  # test_fleet_faults.py has the fault with real trainings
def test_the_job_of_a_killed_node_runs_on_another(
    nodes: Nodes, tmp_path: Path, record_property: Record
) -> None:
    with Beating(nodes, tmp_path, 2) as beating:
        fault = beating.suffer(nodes.kill)

        tell(record_property, noticed=fault.noticed, beats_elsewhere=fault.elsewhere)
        assert fault.elsewhere < 30
        assert not nodes.is_up(fault.node)
        assert beating.end() == 0


def test_a_job_that_no_node_had_room_for_runs_on_one_that_joins(nodes: Nodes, tmp_path: Path) -> None:
    with Beating(nodes, tmp_path, COUNT + 1) as beating:
        wait_until(lambda: len(beating.places()) == COUNT, NOTICE_SECONDS)

        new = nodes.add()

        assert new in beating.wait().values()
        assert beating.end() == 0
        nodes.kill(new)


@pytest.mark.slow  # test_fleet_faults.py has the fault with real trainings
def test_a_node_that_is_told_to_go_keeps_its_job_while_it_drains(
    nodes: Nodes, tmp_path: Path, record_property: Record
) -> None:
    with Beating(nodes, tmp_path, 2) as beating:
        fault = beating.suffer(nodes.terminate)

        tell(record_property, noticed=fault.noticed, beats_elsewhere=fault.elsewhere)
        assert fault.elsewhere > DRAIN_SECONDS
        wait_until(lambda: not nodes.is_up(fault.node), NOTICE_SECONDS)
        assert beating.end() == 0


@pytest.mark.slow
def test_the_job_of_a_node_that_is_cut_off_runs_elsewhere_while_its_first_attempt_goes_on(
    nodes: Nodes, tmp_path: Path, record_property: Record
) -> None:
    with Beating(nodes, tmp_path, 2) as beating:
        fault = beating.suffer(nodes.cut)

        def last_here() -> float:
            beats = lines(tmp_path / f"{fault.job}.beats")
            return max(float(beat["time"]) for beat in beats if node_of(beat) == fault.node)

        time.sleep(max(0.0, fault.begin + CUT_SECONDS - time.time()))
        nodes.mend(fault.node)
        wait_until(lambda: time.time() - last_here() > 10, 2 * NOTICE_SECONDS)

        stale = last_here() - fault.begin
        seconds = {"noticed": fault.noticed, "beats_elsewhere": fault.elsewhere}
        tell(record_property, **seconds, first_attempt_beats=stale)
        assert fault.elsewhere < 30
        assert stale > fault.elsewhere
        assert beating.end() == 0


@pytest.mark.slow  # test_fleet_faults.py has the fault with real trainings
def test_the_same_command_finishes_on_a_new_head(
    nodes: Nodes, tmp_path: Path, record_property: Record
) -> None:
    with Beating(nodes, tmp_path, 2) as beating:
        beating.wait()

        begin = time.time()
        nodes.restart_head()
        restarted = time.time() - begin
        assert beating.driver.wait(NOTICE_SECONDS) != 0

        beating.driver = beating.start()
        beating.wait()
        tell(record_property, new_cluster=restarted, beats_again=time.time() - begin)
        assert beating.end() == 0


def test_nodes_of_a_killed_head_are_started_anew_under_the_next_one(nodes: Nodes) -> None:
    nodes.kill(0)
    nodes.start(0)
    assert nodes.is_up(1), "the old head's nodes live on for a while"

    nodes.revive()

    show = "import ray; ray.init(); print(*(node['NodeName'] for node in ray.nodes() if node['Alive']))"
    seen = nodes.run(sys.executable, "-c", show, output=subprocess.PIPE)
    assert set(map(nodes.ip, range(COUNT))) <= set(seen.communicate(timeout=60)[0].splitlines()[-1].split())


def test_a_signal_reaches_a_command_inside_its_node(nodes: Nodes) -> None:
    sleep = nodes.run("sleep", "60", node=1)
    wait_until(lambda: bool(psutil.Process(sleep.pid).children()), 5)

    nodes.inside(sleep).terminate()

    assert sleep.wait(5) == -signal.SIGTERM


def test_a_bridge_goes_with_its_namespaces_and_what_runs_there(start_nodes: Callable[..., Nodes]) -> None:
    bridge = Bridge()
    name = f"{bridge.name}n0"
    bridge.add(name, f"{bridge.subnet}.1")
    process = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"])

    bridge.remove()

    assert process.wait(5) == -signal.SIGKILL
    assert left_of(bridge.name) == []


STARTER = """
import sys
from pathlib import Path
from tests.namespaces import Nodes

nodes = Nodes(Path(sys.argv[1]), 1)
print("up", flush=True)
sys.stdin.read()
"""


def test_nodes_end_with_the_process_that_started_them_and_their_traces_are_swept(
    start_nodes: Callable[..., Nodes], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    traces = left_of(f"ukd{process.pid}b")
    namespace = next(trace.name for trace in traces if trace.parent == links.FILES)
    assert links.pids(namespace)

    process.kill()
    process.wait()
    wait_until(lambda: not links.pids(namespace), 10)
    links.sweep()

    assert left_of(f"ukd{process.pid}b") == []


def node_of(beat: dict[str, Any]) -> int:
    return int(beat["host"].rpartition("n")[2])


def left_of(prefix: str) -> list[Path]:
    folders = [Path("/run/netns"), Path("/sys/class/net"), links.FILES]
    return [path for folder in folders if folder.is_dir() for path in folder.glob(f"{prefix}*")]


def tell(record_property: Record, **seconds: float) -> None:
    """Into the tests' report, and to those who read along (`pytest -s`)."""
    for name, value in seconds.items():
        record_property(f"{name}_seconds", round(value, 1))
        print(f"{name}: {value:.1f} s")
