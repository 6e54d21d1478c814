"""A fleet that trains for real on four machines, while machines die: nobody is lost, no byte is another."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.namespaces import Nodes, wait_until
from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS, Attempt, attempt_directory, attempt_numbers, read_attempts
from ukd_dist.data.shards import ShardSet
from ukd_dist.heartbeat import Beat, read_beat
from ukd_dist.rundir import RunDirectory

pytestmark = pytest.mark.cluster
Record = Callable[[str, object], None]

COUNT = 4
DRAIN_SECONDS = 20
MEMBERS, EPOCHS = 5, 120
FEWER = COUNT - 1  # leaves a node free: what a lost member waits for is that it is missed, not room
SECONDS = 240.0  # far more than a fleet takes
RESTART_SECONDS = 30.0

EXPERIMENT = """
name: faults
root: {root}
data:
  shards: {shards}
  modalities: [rgb]
  clip: {{frames: 4, stride: 2, size: 32, short_side: [32, 48]}}
teachers:
  keep: all
  defaults: {{arch: slowfast_tiny, modality: rgb, epochs: {epochs}, lr: 0.05, batch_size: 4}}
  fleet: [{{grid: {{seed: [{seeds}]}}}}]
students:
  runs: [{{name: nobody, arch: slowfast_tiny, modality: rgb, targets: none}}]
cluster: {{checkpoint_minutes: 0.01}}
"""


@pytest.fixture(scope="module")
def cluster(start_nodes: Callable[..., Nodes]) -> Nodes:
    return start_nodes(COUNT, environment={"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS)})


@dataclass(frozen=True)
class Fleet:
    """Teachers of one experiment on the nodes, and the command that trains them."""

    nodes: Nodes
    file: Path
    run: RunDirectory

    @classmethod
    def of(cls, nodes: Nodes, folder: Path, shards: ShardSet, members: int, epochs: int) -> Fleet:
        folder.mkdir(parents=True, exist_ok=True)
        file, seeds = folder / "fleet.yaml", ", ".join(map(str, range(members)))
        file.write_text(
            EXPERIMENT.format(root=folder / "run", shards=shards.directory, epochs=epochs, seeds=seeds)
        )
        subprocess.run([sys.executable, "-m", "ukd_dist.cli", "shard", str(file)], check=True)
        return cls(nodes, file, RunDirectory(folder / "run"))

    def start(self) -> subprocess.Popen[str]:
        (output := self.file.with_suffix(".log")).touch()
        with output.open("a") as log:
            return self.nodes.run("ukd", "teach", str(self.file), output=log)

    def await_end(self, driver: subprocess.Popen[str], seconds: float = SECONDS) -> None:
        """Until the command ended well."""
        assert driver.wait(seconds) == 0, self.file.with_suffix(".log").read_text()

    def finish(self) -> None:
        """Train to the end."""
        self.await_end(self.start())

    @property
    def directories(self) -> list[Path]:
        return sorted(path for path in (self.run.root / "teachers").glob("*") if path.is_dir())

    def beats(self) -> dict[tuple[Path, int], Beat]:
        """The newest beat of each attempt that began, by member's directory and number."""
        found = {
            (directory, number): read_beat(attempt_directory(directory, number))
            for directory in self.directories
            for number in attempt_numbers(directory)
        }
        return {key: beat for key, beat in found.items() if beat is not None}

    def training(self, node: int | None = None) -> tuple[Path, int] | None:
        """Somebody's attempt that trains, on that node or on any but the head."""
        for key, beat in self.beats().items():
            host = self.nodes.name(0 if node is None else node)
            if (beat.host == host) == (node is not None) and beat.phase == "training" and beat.epoch > 1:
                return key
        return None

    def await_training(self) -> tuple[Path, int, int]:
        """A member that trains off the head: its directory, attempt and node."""
        wait_until(lambda: self.training() is not None, SECONDS)
        found = self.training()
        assert found is not None
        host = self.beats()[found].host
        return *found, next(n for n in range(COUNT) if self.nodes.name(n) == host)

    def seconds_until_restart(self, directory: Path, number: int, begin: float) -> float:
        """From a moment to the first beat of a later attempt at a member."""

        def later() -> list[Path]:
            attempts = [n for n in attempt_numbers(directory) if n > number]
            return [
                path
                for n in attempts
                if (path := attempt_directory(directory, n) / "heartbeat.json").exists()
            ]

        wait_until(lambda: bool(later()) or not (directory / "attempts").exists(), SECONDS)
        return time.time() - begin

    def finish_despite(self, strike: Callable[[int], None]) -> tuple[Attempt, Attempt, int, float]:
        """Train to the end although a member's node is struck.

        Returns:
            Of the member its attempt there and the one that ended it, the node, and the seconds in between.
        """
        driver = self.start()
        directory, number, node = self.await_training()
        strike(node)
        restart = self.seconds_until_restart(directory, number, time.time())
        self.await_end(driver)
        struck, *_, done = (line for line in read_attempts(directory) if line.attempt >= number)
        return struck, done, node, restart

    def made_of(self, others: dict[str, str]) -> dict[str, str]:
        """What `others` have of this fleet's members."""
        names = {directory.name for directory in self.directories}
        return {place: digest for place, digest in others.items() if place.split("/")[0] in names}

    def made(self) -> dict[str, str]:
        """Digest of every member's weights and logits, by place."""
        return {
            f"{directory.name}/{path.name}": manifest.sha256_of(path)
            for directory in self.directories
            for path in [*directory.glob("logits/*"), directory / "model.safetensors"]
        }

    def times(self) -> dict[Path, int]:
        """When each file of the finished members was written; what goes meanwhile is left out."""
        found = {}
        for member in (directory for directory in self.directories if (directory / "manifest.json").exists()):
            for directory, _, names in os.walk(member):
                for path in (Path(directory) / name for name in names):
                    with suppress(FileNotFoundError):
                        found[path] = path.stat().st_mtime_ns
        return found


@pytest.fixture(scope="module")
def undisturbed(cluster: Nodes, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    fleet = Fleet.of(cluster, tmp_path_factory.mktemp("undisturbed"), shards, MEMBERS, EPOCHS)
    fleet.finish()
    assert len(fleet.directories) == MEMBERS
    return fleet.made()


def test_a_killed_node_costs_its_members_what_came_after_their_checkpoints(
    nodes: Nodes, shards: ShardSet, tmp_path: Path, undisturbed: dict[str, str], record_property: Record
) -> None:
    fleet = Fleet.of(nodes, tmp_path, shards, FEWER, EPOCHS)
    lost, done, node, restart = fleet.finish_despite(nodes.kill)

    assert fleet.made() == fleet.made_of(undisturbed)
    assert (lost.outcome, done.outcome) == ("lost", "done")
    assert done.host != nodes.name(node)
    assert done.began_from != ""
    record_property("killed node: seconds until its member began again", round(restart, 1))
    assert restart < RESTART_SECONDS


@pytest.mark.parametrize(
    ("trials", "dark_seconds"),
    [pytest.param(1, 0, id="once"), pytest.param(20, 60, marks=pytest.mark.slow, id="twenty-times")],
)
def test_what_a_node_does_that_was_cut_off_is_not_used_once_it_is_back(
    nodes: Nodes,
    shards: ShardSet,
    tmp_path: Path,
    undisturbed: dict[str, str],
    record_property: Record,
    trials: int,
    dark_seconds: int,
) -> None:
    restarts = []
    for trial in range(trials):
        fleet = Fleet.of(nodes, tmp_path / str(trial), shards, FEWER, EPOCHS)
        driver = fleet.start()
        directory, number, node = fleet.await_training()
        begin = time.time()
        nodes.cut(node)
        restart = fleet.seconds_until_restart(directory, number, begin)
        time.sleep(max(0.0, begin + dark_seconds - time.time()))
        nodes.mend(node)

        fleet.await_end(driver)
        committed = fleet.times()
        wait_until(lambda: not nodes.workers(node), SECONDS)  # noqa: B023 - waits in this turn
        assert fleet.times() == committed, "nothing is written after the end"
        assert fleet.made() == fleet.made_of(undisturbed)
        outcomes = {line.attempt: line.outcome for line in read_attempts(directory)}
        assert outcomes.pop(number) == "lost"
        assert list(outcomes.values())[-1] == "done"
        record_property("cut-off node: seconds until its member began again", round(restart, 1))
        restarts.append(restart)
        nodes.kill(node)  # Ray does not take back a node that it gave up
        nodes.start(node)
    assert max(restarts) < RESTART_SECONDS


def test_with_a_killed_head_the_same_command_on_a_new_cluster_trains_no_finished_member_again(
    nodes: Nodes, shards: ShardSet, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    fleet = Fleet.of(nodes, tmp_path, shards, MEMBERS, EPOCHS)
    fleet.start()
    wait_until(lambda: bool(fleet.times()), SECONDS)
    nodes.kill(0)  # the coordinator ran there
    finished = {path: at for path, at in fleet.times().items() if ATTEMPTS not in path.parts}
    assert any(nodes.workers(node) for node in range(1, COUNT)), "they train on without a head"
    nodes.start(0)
    fleet.finish()

    assert {path: at for path, at in fleet.times().items() if path in finished} == finished
    assert fleet.made() == undisturbed


def test_a_node_that_is_told_to_go_loses_no_step(
    nodes: Nodes, shards: ShardSet, tmp_path: Path, undisturbed: dict[str, str], record_property: Record
) -> None:
    fleet = Fleet.of(nodes, tmp_path, shards, MEMBERS, EPOCHS)
    preempted, done, _, restart = fleet.finish_despite(nodes.terminate)

    assert fleet.made() == undisturbed
    assert (preempted.outcome, done.outcome) == ("preempted", "done")
    assert done.began_from == preempted.reached != ""
    record_property("drained node: seconds until its member began again", round(restart, 1))


@pytest.mark.slow
def test_fifty_killed_workers_lose_no_member(
    nodes: Nodes, shards: ShardSet, tmp_path: Path, record_property: Record
) -> None:
    members = 16
    quiet = Fleet.of(nodes, tmp_path / "quiet", shards, members, EPOCHS)
    quiet.finish()
    fleet, draw = Fleet.of(nodes, tmp_path / "killed", shards, members, EPOCHS), random.Random(0)
    driver, killed = fleet.start(), 0
    while killed < 50 and driver.poll() is None:
        time.sleep(draw.uniform(0.3, 1.5))
        if workers := _workers(nodes):
            with suppress(psutil.NoSuchProcess):
                draw.choice(workers).kill()
                killed += 1
    fleet.await_end(driver, 4 * SECONDS)

    assert killed == 50, "the fleet came to its end before"
    assert fleet.made() == quiet.made()
    record_property("attempts", sum(len(read_attempts(directory)) for directory in fleet.directories))


def _workers(nodes: Nodes) -> list[psutil.Process]:
    return [process for node in range(COUNT) for process in nodes.workers(node)]
