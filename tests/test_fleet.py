"""Members that fail in every way on two Ray nodes: who is tried again, and who is set aside."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from tests.stages import test_attempts_teach
from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS, Attempt, attempt_directory, newest_attempt, read_attempts
from ukd_dist.cluster import Job, RayCluster, current_node
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, NotFiniteError, PreemptedError, UkdError
from ukd_dist.heartbeat import BEAT_SECONDS, STOP, Heart, read_beat
from ukd_dist.rundir import ERROR
from ukd_dist.stages.members import CRASH, Member, Members
from ukd_dist.stages.teacher_attempt import Work, train_teacher

pytestmark = pytest.mark.cluster
WEIGHTS = "model.safetensors"
HANG_SECONDS = 3.0
SHARE = Resources(cpus=0.5, memory_gib=0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes of one CPU each."""
    settings = Cluster(local_nodes=2, cpus_per_node=1)
    with RayCluster(settings, tmp_path_factory.mktemp("fleet") / "logs") as cluster:
        yield cluster


def work(member: Path, fault: Callable[[Heart, Path], None], faults: int, number: int) -> str:
    """An attempt that has a fault, if it is one of the first, and else makes one file."""
    attempt = attempt_directory(member, number)
    with Heart(attempt, current_node(), epochs=1) as heart, (attempt / CRASH).open("w") as crash:
        import faulthandler

        faulthandler.enable(crash)
        heart.begin("")
        if number <= faults:
            fault(heart, attempt)
        (attempt / WEIGHTS).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        return manifest.commit(attempt, "teacher", {}, {}, [WEIGHTS]).digest()


def no_fault(heart: Heart, attempt: Path) -> None:
    pass


def stumble(heart: Heart, attempt: Path) -> None:
    raise ValueError("nobody thought of this")


def explode(heart: Heart, attempt: Path) -> None:
    raise NotFiniteError("the loss is nan", expected="a finite loss", action="lower lr")


def refuse(heart: Heart, attempt: Path) -> None:
    raise DataError("the row is odd", expected="an even row", action="add one")


def ask_for_too_much(heart: Heart, attempt: Path) -> None:
    torch.empty(2**62, dtype=torch.uint8).fill_(1)


def freeze(heart: Heart, attempt: Path) -> None:
    time.sleep(BEAT_SECONDS)
    heart.step(0, 1, 2)
    os.kill(os.getpid(), signal.SIGSTOP)


def die(heart: Heart, attempt: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(heart: Heart, attempt: Path) -> None:
    ctypes.string_at(0)


def leave(heart: Heart, attempt: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert heart.stop_asked()
    raise PreemptedError("asked to stop", expected="to go on", action="run again")


ALWAYS = 99
# Name: the fault, in how many attempts.
FAULTS: dict[str, tuple[Callable[[Heart, Path], None], int]] = {
    "sound": (no_fault, 0),
    "raises": (stumble, ALWAYS),
    "explodes": (explode, ALWAYS),
    "refuses": (refuse, ALWAYS),
    "too-much": (ask_for_too_much, ALWAYS),
    "too-much-once": (ask_for_too_much, 1),
    "freezes": (freeze, 1),
    "killed": (die, 2),
    "crashes": (crash, ALWAYS),
    "preempted": (leave, 2),
}


@dataclass(frozen=True)
class Ended:
    """What became of the members above."""

    root: Path
    set_aside: dict[str, UkdError]

    def attempts(self, name: str) -> list[Attempt]:
        return read_attempts(self.root / name)

    def outcomes(self, name: str) -> list[str]:
        return [line.outcome for line in self.attempts(name)]


@pytest.fixture(scope="module")
def ended(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    root = tmp_path_factory.mktemp("members")
    members = [member(root, name) for name in FAULTS]
    return Ended(root, Members(cluster, HANG_SECONDS).run(members, lambda: None))


def member(root: Path, name: str) -> Member:
    fault, faults = FAULTS[name]

    def job(number: int, resources: Resources) -> Job:
        arguments = (root / name, fault, faults, number)
        return Job(name, work, arguments, resources, fresh_process=True, retries=0)

    return Member(name, root / name, SHARE, job)


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("sound", ["done"]),
        ("too-much-once", ["memory", "done"]),
        ("freezes", ["hung", "done"]),
        ("killed", ["lost", "lost", "done"]),
        ("preempted", ["preempted"] * 2 + ["done"]),
    ],
)
def test_a_member_that_recovers_is_finished(ended: Ended, name: str, outcomes: list[str]) -> None:
    assert ended.outcomes(name) == outcomes
    found = manifest.read(ended.root / name)
    assert found is not None
    manifest.verify(ended.root / name, found)
    assert not (ended.root / name / ATTEMPTS).exists()
    assert not (ended.root / name / ERROR).exists()


@pytest.mark.parametrize(
    ("name", "outcomes", "problem"),
    [
        ("raises", ["raised"] * 3, "raises failed: ValueError: nobody thought of this"),
        ("explodes", ["not_finite"] * 3, "the loss is nan"),
        ("refuses", ["refused"], "the row is odd"),
        ("too-much", ["memory"] * 2, "too-much failed: "),
        ("crashes", ["crashed"] * 3, "crashes's process crashed: Fatal Python error: Segmentation fault"),
    ],
)
def test_a_member_that_does_not_recover_is_set_aside_with_its_error(
    ended: Ended, name: str, outcomes: list[str], problem: str
) -> None:
    assert ended.outcomes(name) == outcomes
    assert ended.set_aside[name].problem.startswith(problem)
    assert manifest.read(ended.root / name) is None
    left = json.loads((ended.root / name / ERROR).read_text())
    assert left["error"] == str(ended.set_aside[name])
    assert 'File "' in left["traceback"]


def test_nobody_else_is_set_aside(ended: Ended) -> None:
    assert set(ended.set_aside) == {"raises", "explodes", "refuses", "too-much", "crashes"}


def test_the_record_says_where_each_attempt_ran_and_with_what(ended: Ended) -> None:
    first, second = ended.attempts("too-much-once")
    assert first.host
    assert first.node
    assert (first.memory_gib, second.memory_gib) != (None, None)
    assert second.memory_gib >= 2 * (first.memory_gib or 0)


def test_a_crashed_process_is_not_started_again_where_it_crashed_while_there_is_room_elsewhere(
    cluster: RayCluster, tmp_path: Path
) -> None:
    Members(cluster, HANG_SECONDS).run([member(tmp_path, "crashes")], lambda: None)
    first, second, third = (line.node for line in read_attempts(tmp_path / "crashes"))
    assert first != second
    assert second != third


def test_a_member_without_gpus_sees_none(ended: Ended) -> None:
    assert (ended.root / "sound" / WEIGHTS).read_text() == ""


def test_a_teacher_killed_within_an_epoch_ends_with_the_bytes_of_an_undisturbed_one(
    cluster: RayCluster, shards: ShardSet, tmp_path: Path
) -> None:
    quiet = test_attempts_teach.study(shards, tmp_path / "undisturbed")
    test_attempts_teach.attempted.train(quiet, quiet.teachers[0])
    study = test_attempts_teach.study(shards, tmp_path / "killed")
    (member,), directory = study.teachers, test_attempts_teach.member(study)
    shot = Work(study.root, study.name, member, checkpoint_seconds=0.0)

    def job(number: int, resources: Resources) -> Job:
        return Job(member.id, train_teacher, (shot, number), resources, fresh_process=True, retries=0)

    def kill_once() -> None:
        attempt = attempt_directory(directory, 1)
        test_attempts_teach.wait_until(lambda: test_attempts_teach.within_an_epoch(attempt))
        beat = read_beat(attempt)
        assert beat is not None
        os.kill(beat.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_once)  # an attempt may be over before the coordinator looks again
    killer.start()
    teacher = Member(member.id, directory, member.settings.resources, job)
    assert Members(cluster, 600.0).run([teacher], lambda: None) == {}
    killer.join()

    lost, done = read_attempts(directory)
    assert (lost.outcome, done.outcome) == ("lost", "done")
    assert lost.reached == done.began_from != ""
    assert test_attempts_teach.made(study) == test_attempts_teach.made(quiet)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT is KeyboardInterrupt, also where these tests are a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("interruptions", "grace_seconds"), [(1, 1.0), (2, 60.0)])
def test_a_member_that_does_not_stop_when_it_is_asked_to_holds_nobody_up(
    cluster: RayCluster, tmp_path: Path, ctrl_c: None, interruptions: int, grace_seconds: float
) -> None:
    attempt = attempt_directory(tmp_path / "freezes", 1)

    def interrupt() -> None:
        test_attempts_teach.wait_until(lambda: (beat := read_beat(attempt)) and beat.phase == "training")
        for number in range(interruptions):
            time.sleep(2 * number)
            os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        Members(cluster, 600.0, grace_seconds=grace_seconds).run([member(tmp_path, "freezes")], lambda: None)
    beat = read_beat(attempt)
    assert beat is not None
    test_attempts_teach.wait_until(lambda: not psutil.pid_exists(beat.pid), seconds=20.0)
    interrupter.join()
    assert (attempt / STOP).exists()
    assert read_attempts(tmp_path / "freezes") == []


def step_until_asked(drained: Path, head: str, heart: Heart, attempt: Path) -> None:
    """Work until the node is drained, but not on the head, which cannot be."""
    if drained.exists():
        return
    for step in range(3000 if current_node() != head else 0):
        time.sleep(0.1)
        heart.step(0, step, 3000)
        if heart.stop_asked():
            break
    raise PreemptedError("asked to stop", expected="to go on", action="run again")


def drain(node: str) -> None:
    """What `ray start` does on SIGTERM."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline_ms = int(1000 * (time.time() + 60))
    preempted = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    accepted, _ = global_worker.gcs_client.drain_node(node, preempted, "for a test", deadline_ms)
    assert accepted


def test_a_member_on_a_node_that_is_drained_stops_in_time_and_goes_on_elsewhere(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """The last test: it takes one of the two nodes away."""
    list(cluster.run([Job("start", len, ("",))]))
    directory, drained, head = tmp_path / "member", tmp_path / "drained", current_node()
    fault = functools.partial(step_until_asked, drained, head)

    def job(number: int, resources: Resources) -> Job:
        arguments = (directory, fault, ALWAYS, number)
        return Job("drained", work, arguments, resources, fresh_process=True, retries=0)

    def drain_once() -> None:
        newest = newest_attempt(directory)
        beat = read_beat(newest) if newest else None
        if beat and beat.node != head and not drained.exists():
            drained.write_text(beat.node)
            drain(beat.node)

    assert Members(cluster, 600.0).run([Member("drained", directory, SHARE, job)], drain_once) == {}

    *_, preempted, done = read_attempts(directory)
    assert (preempted.outcome, done.outcome) == ("preempted", "done")
    assert (preempted.node, done.node) == (drained.read_text(), head)
