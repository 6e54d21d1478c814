"""Jobs and groups of ranks on two Ray nodes: what comes back, what is tried again, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import distributed

from ukd_dist.cluster import Job, Outcome, RayCluster
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.errors import DataError, ResourceError, TrainingError

NODES, MAX_FAILURES = 2, 1
SETTINGS = Cluster(
    local_nodes=NODES,
    cpus_per_node=1,
    max_failures=MAX_FAILURES,
    network_interface="lo",
    rank_timeout_minutes=1.5,
)
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster") / "logs"


@pytest.fixture(scope="module")
def starts() -> list[int]:
    """What the cluster said each time that it started."""
    return []


@pytest.fixture(scope="module")
def cluster(logs: Path, starts: list[int]) -> Iterator[RayCluster]:
    """Two nodes of one CPU each."""
    with RayCluster(SETTINGS, logs, starts.append) as cluster:
        yield cluster


def run(cluster: RayCluster, *jobs: Job) -> dict[str, Outcome]:
    return {outcome.job.name: outcome for outcome in cluster.run(jobs)}


def run_one(cluster: RayCluster, name: str, function: Callable[..., Any], *arguments: Any) -> Outcome:
    (outcome,) = cluster.run([Job(name, function, arguments)])
    return outcome


def beginnings(log: Path) -> list[dict[str, Any]]:
    """Where each process that wrote a log ran."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"node"')]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing came in {seconds} s"
        time.sleep(0.02)


def double(number: int) -> int:
    return 2 * number


def refuse() -> None:
    raise DataError("the row is odd", expected="an even row", action="add one")


def stumble() -> None:
    raise ValueError("nobody thought of this")


def fill_the_disk() -> None:
    Path("/dev/full").write_bytes(b"one byte too many")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        die()
    return "done at last"


def speak(word: str) -> int:
    print(f"{word} of Python")
    os.write(1, f"{word} of C++\n".encode())
    os.write(2, f"{word} of C++'s complaints\n".encode())
    return os.getpid()


def wait_for(path: Path) -> None:
    wait_until(path.exists)


def test_the_value_of_every_job_comes_back(cluster: RayCluster) -> None:
    outcomes = run(cluster, *(Job(f"double-{n}", double, (n,)) for n in range(12)))

    assert {name: outcome.value for name, outcome in outcomes.items()} == {
        f"double-{n}": 2 * n for n in range(12)
    }
    assert all(outcome.error is None for outcome in outcomes.values())


def test_a_cluster_starts_once_and_says_how_many_nodes_it_has(cluster: RayCluster, starts: list[int]) -> None:
    run_one(cluster, "first", double, 1)
    run_one(cluster, "second", double, 2)

    assert starts == [NODES]


def test_an_error_of_ours_arrives_as_it_was_raised(cluster: RayCluster) -> None:
    error = run_one(cluster, "refuse", refuse).error

    assert type(error) is DataError
    assert (error.problem, error.expected, error.action) == ("the row is odd", "an even row", "add one")


def test_any_other_error_names_the_job_and_its_log_which_holds_the_traceback(
    cluster: RayCluster, logs: Path
) -> None:
    error = run_one(cluster, "stumble", stumble).error

    assert type(error) is TrainingError
    assert error.problem == "stumble failed: ValueError: nobody thought of this"
    assert error.action == f"see {logs / 'stumble.log'}"
    log = (logs / "stumble.log").read_text()
    assert "Traceback" in log
    assert "in stumble" in log
    assert "ValueError: nobody thought of this" in log


def test_an_error_leaves_the_other_jobs_alone(cluster: RayCluster) -> None:
    outcomes = run(cluster, Job("wrong", stumble, ()), Job("right", double, (4,)))

    assert outcomes["right"].value == 8
    assert outcomes["wrong"].error is not None


def test_a_full_disk_gets_its_answer(cluster: RayCluster) -> None:
    error = run_one(cluster, "full", fill_the_disk).error

    assert type(error) is ResourceError
    assert "No space left on device" in error.problem
    assert error.action == "free some space and run again: what is finished is kept"


def test_a_job_whose_process_died_is_run_again(cluster: RayCluster, logs: Path, tmp_path: Path) -> None:
    outcome = run_one(cluster, "dies-once", die_once, tmp_path / "died")

    assert outcome.value == "done at last"
    first, second = beginnings(logs / "dies-once.log")
    assert first["pid"] != second["pid"]


def test_a_job_whose_process_always_dies_is_given_up(cluster: RayCluster, logs: Path) -> None:
    error = run_one(cluster, "always-dies", die).error

    assert type(error) is TrainingError
    assert error.problem.startswith("always-dies failed: ")
    assert error.action == f"see {logs / 'always-dies.log'}"
    assert len(beginnings(logs / "always-dies.log")) == MAX_FAILURES + 1


def test_what_a_job_prints_goes_to_its_log_after_a_line_of_where_it_ran(
    cluster: RayCluster, logs: Path
) -> None:
    pid = run_one(cluster, "speaks", speak, "a word").value

    whereabouts, *words = (logs / "speaks.log").read_text().splitlines()
    assert json.loads(whereabouts) == {
        "node": json.loads(whereabouts)["node"],
        "host": socket.gethostname(),
        "pid": pid,
    }
    assert sorted(words) == ["a word of C++", "a word of C++'s complaints", "a word of Python"]


def test_jobs_that_share_a_process_do_not_share_a_log(cluster: RayCluster, logs: Path) -> None:
    names = [f"word-{number}" for number in range(6)]
    outcomes = run(cluster, *(Job(name, speak, (name,)) for name in names))

    assert len({outcome.value for outcome in outcomes.values()}) < len(names)
    for name in names:
        _, *words = (logs / f"{name}.log").read_text().splitlines()
        assert [word.split()[0] for word in words] == [name] * 3


def test_jobs_that_need_one_run_on_every_node(cluster: RayCluster, logs: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("first", "second")]
    jobs = [Job(f"meets-{path.name}", meet, (path, paths)) for path in paths]

    outcomes = run(cluster, *jobs)

    assert all(outcome.error is None for outcome in outcomes.values())
    assert len({beginnings(logs / f"{job.name}.log")[0]["node"] for job in jobs}) == NODES


def meet(own: Path, everyones: list[Path]) -> None:
    own.touch()
    wait_until(lambda: all(path.exists() for path in everyones))


def test_jobs_of_one_size_do_not_keep_those_of_another_waiting(cluster: RayCluster, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    large = [Job(f"large-{n}", wait_for, (opened,), Resources(cpus=0.6)) for n in range(12)]
    small = Job("small", opened.touch, (), Resources(cpus=0.3))

    outcomes = run(cluster, *large, small)

    assert [outcome.error for outcome in outcomes.values()] == [None] * 13


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        (Resources(cpus=2), r"1 x \(2 CPUs and 0 GPUs\)"),
        (Resources(gpus=64), r"1 x \(1 CPUs and 64 GPUs\)"),
        (Resources(memory_gib=2**20), r"1 x \(1 CPUs and 0 GPUs and 1048576.0 GiB\)"),
    ],
    ids=["cpus", "gpus", "memory"],
)
def test_what_no_node_has_is_refused_before_anything_runs(
    cluster: RayCluster, tmp_path: Path, resources: Resources, asked: str
) -> None:
    jobs = [Job("small", (tmp_path / "ran").touch, ()), Job("large", double, (1,), resources)]

    with pytest.raises(
        ResourceError, match=asked + r" were asked for, but the cluster's 2 nodes have 1 CPUs"
    ):
        list(cluster.run(jobs))

    assert not (tmp_path / "ran").exists()


def test_a_group_that_does_not_fit_on_the_nodes_is_refused(cluster: RayCluster) -> None:
    with pytest.raises(ResourceError, match=r"3 x \(1 CPUs and 0 GPUs\) were asked for"):
        cluster.run_ranks("crowd", print, lambda: None, workers=3, resources=Resources(cpus=1))


def test_a_job_that_asks_for_a_fresh_process_shares_it_with_none(cluster: RayCluster) -> None:
    outcomes = run(cluster, *(Job(f"fresh-{n}", os.getpid, (), fresh_process=True) for n in range(4)))

    assert len({outcome.value for outcome in outcomes.values()}) == 4


def test_jobs_whose_outcomes_nobody_waits_for_are_stopped(
    cluster: RayCluster, logs: Path, tmp_path: Path
) -> None:
    log = logs / "unwanted.log"
    jobs = [Job("unwanted", wait_for, (tmp_path / "never",)), Job("wanted", wait_for, (log,))]
    outcomes = cluster.run(jobs)

    assert next(outcomes).job.name == "wanted"
    outcomes.close()

    (unwanted,) = beginnings(log)
    wait_until(lambda: not psutil.pid_exists(unwanted["pid"]), seconds=10.0)


@dataclass(frozen=True)
class Group:
    """What a group of two ranks left, whose second rank was killed once.

    Attributes:
        ranks: What each rank saw.
        starts: Where each rank ran, at every start.
        calls: Moments at which the caller was called meanwhile.
    """

    ranks: list[dict[str, Any]]
    starts: list[list[dict[str, Any]]]
    calls: list[float]


def look_around(folder: Path) -> None:
    rank = distributed.get_rank()
    if rank == 1:
        die_once(folder / "died")
    total = torch.tensor(10.0**rank)
    distributed.all_reduce(total)
    assert distributed.group.WORLD is not None
    gloo = distributed.group.WORLD._get_backend(torch.device("cpu"))
    seen = {
        "world_size": distributed.get_world_size(),
        "local_rank": os.environ["LOCAL_RANK"],
        "interfaces": [os.environ[f"{library}_SOCKET_IFNAME"] for library in ("NCCL", "GLOO")],
        "timeout": gloo.options._timeout.total_seconds(),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps({"rank": rank, "sum": total.item(), **seen}))


def complain(folder: Path) -> None:
    if distributed.get_rank() == 1:
        refuse()
    distributed.all_reduce(torch.zeros(1))  # waits for the other rank, which never comes


@dataclass
class Poison:
    """Kills a rank that is given its work, and leaves a file for each that it killed."""

    folder: Path

    def __setstate__(self, state: dict[str, Path]) -> None:
        if "WORLD_SIZE" in os.environ:  # not in Ray Train's controller, which sees it too
            (state["folder"] / str(os.getpid())).touch()
            die()


@pytest.fixture(scope="module")
def group(cluster: RayCluster, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Group:
    folder = tmp_path_factory.mktemp("group")
    calls: list[float] = []
    cluster.run_ranks(
        "group",
        look_around,
        lambda: folder,
        workers=2,
        resources=Resources(cpus=1),
        while_waiting=lambda: calls.append(time.monotonic()),
    )
    ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    return Group(ranks, [beginnings(logs / f"group-rank{rank}.log") for rank in (0, 1)], calls)


def test_two_ranks_on_two_nodes_know_themselves_and_reach_each_other(group: Group) -> None:
    # LOCAL_RANK counts on a machine, and both Ray nodes are on this one.
    known = {"sum": 11.0, "world_size": 2, "interfaces": ["lo", "lo"], "timeout": 90.0}
    assert group.ranks == [{"rank": rank, "local_rank": str(rank), **known} for rank in (0, 1)]
    assert len({starts[-1]["node"] for starts in group.starts}) == NODES


def test_a_group_that_lost_a_rank_starts_again_and_finishes(group: Group) -> None:
    assert [len(starts) for starts in group.starts] == [2, 2]
    assert len({start["pid"] for starts in group.starts for start in starts}) == 4


def test_the_caller_of_a_group_is_called_while_it_waits_and_not_afterwards(group: Group) -> None:
    calls = len(group.calls)
    assert calls > 2

    time.sleep(1.2)

    assert len(group.calls) == calls


def test_a_rank_that_raises_an_error_of_ours_ends_the_group_at_once(
    cluster: RayCluster, logs: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the row is odd; expected an even row; add one"):
        cluster.run_ranks("complains", complain, lambda: tmp_path, workers=2, resources=Resources(cpus=1))

    assert len(beginnings(logs / "complains-rank1.log")) == 1


def test_a_group_that_never_starts_is_given_up(cluster: RayCluster, logs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="doomed lost its ranks 2 time") as raised:
        cluster.run_ranks(
            "doomed", look_around, lambda: Poison(tmp_path), workers=2, resources=Resources(cpus=1)
        )

    assert raised.value.action.startswith(f"see {logs}/doomed-*.log")
    assert len(list(tmp_path.iterdir())) == 2 * (MAX_FAILURES + 1)
