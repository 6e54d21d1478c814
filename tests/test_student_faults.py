"""A student loses a rank, its driver, a node: what it learns is to the last bit what it would have learnt."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.namespaces import Nodes
from tests.tiny_run import (
    command,
    epochs_of,
    learnt,
    load,
    rank_logs,
    running,
    said,
    starts,
    undistilled,
    wait_until,
)
from ukd_dist import manifest
from ukd_dist.attempts import attempt_directory
from ukd_dist.data.knowledge import TARGET, write_target
from ukd_dist.data.shards import ShardSet
from ukd_dist.rundir import RunDirectory, read_error
from ukd_dist.stages.reduce import TARGET_FILE

pytestmark = pytest.mark.cluster
Record = Callable[[str, object], None]

EPOCHS = 3  # of the tiny experiment
SECONDS = 400.0  # far more than a student takes
# One moment in every test run, ten in the slow ones.
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11))]


def await_moment(student: Path, seed: int) -> None:
    """Wait until a moment of the training: soon after its ranks began, or after so many of its epochs."""
    draw = random.Random(seed)
    epochs, delay = draw.randrange(EPOCHS), draw.uniform(0.0, 0.5)
    wait_until("its ranks", lambda: all(starts(log) for log in rank_logs(student)), SECONDS)
    wait_until(f"epoch {epochs}", lambda: len(epochs_of(student)) >= epochs, SECONDS)
    time.sleep(delay)


def seconds_until_next(student: Path, begin: float) -> float:
    """From a moment to when the second attempt trains, or, where the moment came too late, to the end."""
    beats = attempt_directory(student, 2) / "heartbeat.json"
    wait_until("a restart", lambda: beats.exists() or (student / manifest.FILENAME).exists(), SECONDS)
    return time.time() - begin


@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_whose_rank_is_killed_learns_what_it_would_have_learnt(
    seed: int, undisturbed: Path, tmp_path: Path, record_property: Record
) -> None:
    root, student = undistilled(undisturbed, tmp_path)

    with running(root, command(root, stage="distill")) as process:
        await_moment(student, seed)
        with suppress(ProcessLookupError):  # it is done already
            os.kill(starts(rank_logs(student)[seed % 2])[0]["pid"], signal.SIGKILL)
        seconds = seconds_until_next(student, time.time())
        process.wait(SECONDS)

    assert process.returncode == 0, said(root).read_text()
    assert learnt(student) == learnt(undisturbed / "students" / student.name)
    tell(record_property, "rank", len(starts(rank_logs(student)[0])), seconds)


@pytest.fixture(scope="module")
def cluster(start_nodes: Callable[..., Nodes]) -> Nodes:
    """Three nodes for two ranks: one is free."""
    return start_nodes(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_whose_driver_is_killed_learns_what_it_would_have_learnt(
    seed: int, nodes: Nodes, undisturbed: Path, tmp_path: Path, record_property: Record
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    driver = distill(nodes, root)
    await_moment(student, seed)

    with suppress(ValueError, psutil.NoSuchProcess):  # it is done already
        nodes.inside(driver).kill()
    driver.wait(SECONDS)
    begin = time.time()
    again = distill(nodes, root)
    seconds = seconds_until_next(student, begin)

    assert again.wait(SECONDS) == 0, said(root).read_text()
    assert learnt(student) == learnt(undisturbed / "students" / student.name)
    tell(record_property, "driver", len(starts(rank_logs(student)[0])), seconds)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_whose_node_is_lost_for_good_goes_on_where_another_is_free(
    seed: int, nodes: Nodes, undisturbed: Path, tmp_path: Path, record_property: Record
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    driver = distill(nodes, root)
    await_moment(student, seed)
    lost = a_node_of(nodes, student)

    nodes.kill(lost)
    seconds = seconds_until_next(student, time.time())

    assert driver.wait(SECONDS) == 0, said(root).read_text()
    assert learnt(student) == learnt(undisturbed / "students" / student.name)
    hosts = [[start["host"] for start in starts(log)] for log in rank_logs(student)]
    assert {nodes.name(lost)} <= {first for first, *_ in hosts}
    if len(hosts[0]) > 1:
        assert nodes.name(lost) not in {last for *_, last in hosts}
    tell(record_property, "node", len(hosts[0]), seconds)


@pytest.mark.slow
def test_what_a_cut_off_rank_still_writes_is_not_used_once_its_node_is_back(
    nodes: Nodes, undisturbed: Path, tmp_path: Path, record_property: Record
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    driver = distill(nodes, root)
    await_moment(student, seed=0)
    lost, begin = a_node_of(nodes, student), time.time()

    nodes.cut(lost)
    seconds = seconds_until_next(student, begin)
    nodes.mend(lost)

    assert driver.wait(SECONDS) == 0, said(root).read_text()
    committed = times(student)
    wait_until("the end of what it runs", lambda: not nodes.workers(lost), SECONDS)
    assert times(student) == committed
    assert learnt(student) == learnt(undisturbed / "students" / student.name)
    tell(record_property, "silent node", len(starts(rank_logs(student)[0])), seconds)
    nodes.kill(lost)  # Ray does not take back a node that it gave up


@pytest.mark.slow
def test_a_student_that_may_not_be_restarted_fails_with_its_rank(
    nodes: Nodes, undisturbed: Path, tmp_path: Path
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    driver = distill(nodes, root, "cluster.max_failures=0")
    await_moment(student, seed=0)
    node = a_node_of(nodes, student)
    for worker in nodes.workers(node):
        worker.kill()

    assert driver.wait(SECONDS) == 1
    (line,) = [line for line in said(root).read_text().splitlines() if line.startswith("ukd: ")]
    assert line.startswith(f"ukd: {student.name} lost its ranks 1 time(s), last: ")
    assert line.endswith(
        f"; expected at most 0 (cluster.max_failures); see {root}/logs/{student.name}-*.log, "
        "and run again: it goes on from its checkpoint"
    )
    assert [len(starts(log)) for log in rank_logs(student)] == [1, 1]
    assert read_error(student) == line.removeprefix("ukd: ")


@pytest.mark.slow
def test_a_loss_that_one_rank_alone_finds_not_finite_stops_both_and_is_not_tried_again(
    undisturbed: Path, tmp_path: Path
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    key = spoil_a_target(root)

    done = subprocess.run(
        command(root, stage="distill"), capture_output=True, text=True, timeout=SECONDS, check=False
    )

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ukd: ")]
    assert line.startswith("ukd: the loss is nan at epoch ")
    (samples,) = [part.split(")")[0].split(", ") for part in line.split("(samples ")[1:]]
    assert key in samples
    assert len(samples) == 4  # one rank's share of the batch of 8
    logs = [log.read_text() for log in rank_logs(student)]
    assert ["NotFiniteError" in log for log in logs].count(True) == 1
    assert [len(starts(log)) for log in rank_logs(student)] == [1, 1]


def distill(nodes: Nodes, root: Path, *overrides: str) -> subprocess.Popen[str]:
    """`ukd distill` on the head, on the nodes' cluster."""
    with said(root).open("w") as log:
        return nodes.run(*command(root, *overrides, stage="distill"), output=log)


def a_node_of(nodes: Nodes, student: Path) -> int:
    """A node that a rank runs on, but not the head, where the driver is."""
    hosts = {starts(log)[0]["host"] for log in rank_logs(student)}
    return next(node for node in range(1, len(nodes)) if nodes.name(node) in hosts)


def times(student: Path) -> dict[Path, int]:
    """When each of a student's files was written."""
    return {path: path.stat().st_mtime_ns for path in student.rglob("*") if path.is_file()}


def spoil_a_target(root: Path) -> str:
    """Make one video's target not a number; its key."""
    target = RunDirectory(root).target(load(root).targets[0].id)
    found, rows = manifest.read(target), ShardSet(root / "shards").rows["train"]
    assert found is not None
    target_nc = load_file(target / TARGET_FILE)[TARGET]
    target_nc[5] = torch.nan
    write_target(target / TARGET_FILE, target_nc, rows, {}, view="centre")
    manifest.commit(target, found.kind, found.settings, found.inputs, list(found.files))
    return rows.keys[5]


def tell(record_property: Record, lost: str, attempts: int, seconds: float) -> None:
    """Into the tests' report: what a restart cost, unless the moment came after the training's end."""
    if attempts > 1:
        record_property(f"lost {lost}: seconds until its student trained again", round(seconds, 1))
        print(f"lost {lost}: {seconds:.1f} s")
