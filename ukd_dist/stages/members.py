"""Members on their way: attempt after attempt at each, watched, committed or set aside; the others go on.

The coordinator decides by its own clock and by files alone: an attempt says in its heartbeat how far it is,
and in its manifest what it made, and only what its coordinator commits is ever seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ukd_dist.attempts import (
    Attempt,
    attempt_directory,
    new_attempt,
    note_interrupted,
    now,
    reached,
    read_attempts,
    record,
)
from ukd_dist.cluster import GRACE_SECONDS, Failure, Job, Outcome, RayCluster, Tasks
from ukd_dist.cluster_config import Resources
from ukd_dist.config import Keep
from ukd_dist.errors import DataError, ResourceError, TrainingError, UkdError
from ukd_dist.heartbeat import Beat, ask_to_stop, read_beat
from ukd_dist.rundir import ERROR, leave_error
from ukd_dist.stages.commits import commit, drop_older
from ukd_dist.stages.keeping import keep_only
from ukd_dist.stages.verdicts import Ended, judge

CRASH = "crash.txt"  # of an attempt: what Python says when its process gets SIGSEGV or the like
_WATCH_SECONDS = 2.0
_STARTING = 3  # times as long as between steps until the first one: shards are copied, videos decoded
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """What is tried.

    Attributes:
        id: Its id.
        directory: Where its files end up.
        resources: Of its first attempt.
        job: Makes the job of an attempt from its number and resources; the job's value is the digest of the
            manifest that it left in the attempt's directory.
        keep: What stays on disk of it once it is finished.
        ranks: Processes of an attempt, each with such resources.
    """

    id: str
    directory: Path
    resources: Resources
    job: Callable[[int, Resources], Job]
    keep: Keep = "all"
    ranks: int = 1


@dataclass
class _Course:
    """A member's way through its attempts, of which one is queued or running."""

    member: Member
    resources: Resources
    number: int = 0
    started: str = ""
    past: list[Ended] = field(default_factory=list)
    avoid: str = ""
    newest: str = ""  # checkpoint of all attempts
    beat: Beat | None = None
    epoch: int = 0
    moved: float = 0.0
    asked: bool = False

    @property
    def attempt(self) -> Path:
        """Directory of the attempt."""
        return attempt_directory(self.member.directory, self.number)


class Members:
    """Runs members until each is committed or set aside.

    Args:
        cluster: Where they run.
        hang_seconds: After how long without a step an attempt is given up.
        grace_seconds: How long attempts may take to end after Ctrl-C or `ukd cancel`.
    """

    def __init__(
        self, cluster: RayCluster, hang_seconds: float, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._cluster = cluster
        self._hang_seconds = hang_seconds
        self._grace_seconds = grace_seconds
        self._courses: dict[str, _Course] = {}
        self._watched = 0.0
        self._stopping = False
        self.set_aside: dict[str, UkdError] = {}

    def run(self, members: Sequence[Member], while_waiting: Callable[[], None]) -> dict[str, UkdError]:
        """Run them; returns why each was set aside that was.

        On a KeyboardInterrupt those that run may write a checkpoint first; on a second one they may not.

        Raises:
            ResourceError: No node has what a member asks for.
        """
        self._cluster.require([(member.resources, member.ranks) for member in members])
        with self._cluster.tasks() as tasks:
            try:
                for member in members:
                    (member.directory / ERROR).unlink(missing_ok=True)
                    note_interrupted(member.directory)
                    self._courses[member.id] = _Course(member, member.resources)
                    self._begin(tasks, self._courses[member.id])
                self._run(tasks, while_waiting)
            except KeyboardInterrupt:
                self._stop(tasks)
                raise
        return self.set_aside

    @property
    def epochs(self) -> float:
        """Epochs that all members are through."""
        return sum(course.epoch for course in self._courses.values())

    def _run(self, tasks: Tasks, while_waiting: Callable[[], None]) -> None:
        while tasks:
            for outcome in tasks.poll():
                self._ended(tasks, self._courses[outcome.job.name], outcome)
            if time.monotonic() - self._watched >= _WATCH_SECONDS:
                self._watched = time.monotonic()
                self._watch(tasks)
            while_waiting()

    def _stop(self, tasks: Tasks) -> None:
        """Ask every attempt that began to write a checkpoint and end, and wait for that, but not for ever."""
        self._stopping = True
        tasks.withdraw()
        for name in tasks.submitted():
            if read_beat(self._courses[name].attempt) is None:
                tasks.cancel(name)
            else:
                ask_to_stop(self._courses[name].attempt)
        if tasks:
            message = (
                "waiting for a checkpoint of each member that runs (%d), %g s at most; Ctrl-C again: not"
            )
            _log.warning(message, len(tasks.submitted()), self._grace_seconds)
        deadline = time.monotonic() + self._grace_seconds
        while tasks and time.monotonic() < deadline:
            for outcome in tasks.poll():
                self._ended(tasks, self._courses[outcome.job.name], outcome)

    def _begin(self, tasks: Tasks, course: _Course, delay_seconds: float = 0.0) -> None:
        course.number, course.started = new_attempt(course.member.directory), now()
        course.beat, course.asked = None, False
        job = course.member.job(course.number, course.resources)
        tasks.add(replace(job, avoid=course.avoid), delay_seconds)

    def _watch(self, tasks: Tasks) -> None:
        """Look at every attempt's heartbeat: who hangs is stopped, who is on a node that goes is asked to."""
        draining = self._cluster.draining()
        for name in tasks.submitted():
            course = self._courses[name]
            beat, clock = read_beat(course.attempt), time.monotonic()
            if beat is None:
                continue
            if course.beat is None or beat.place != course.beat.place:
                course.moved = clock
            course.beat, course.epoch = beat, max(course.epoch, beat.epoch)
            if beat.nodes & draining and not course.asked:
                ask_to_stop(course.attempt)
                course.asked = True
            limit = self._hang_seconds * (_STARTING if beat.phase == "starting" else 1)
            if clock - course.moved > limit:
                tasks.cancel(name)
                self._failed(tasks, course, "hung", Failure("raised", _hung(name, beat, limit)))

    def _ended(self, tasks: Tasks, course: _Course, outcome: Outcome) -> None:
        course.beat = read_beat(course.attempt) or course.beat
        failure = outcome.failure
        if failure is None:
            try:
                self._note(course, "done", "")
                commit(course.member.directory, course.number, outcome.value)
            except DataError as error:
                failure = Failure("raised", error)
            else:
                course.epoch = course.beat.epochs if course.beat else course.epoch
                keep_only(course.member.directory, course.member.keep)
                return
        kind: str = failure.kind
        if kind == "lost" and (crash := _crash(course.attempt)) and self._lives(course):
            kind, failure = "crashed", Failure("lost", _crashed(course.member.id, crash), traceback=crash)
        self._failed(tasks, course, kind, failure)

    def _failed(self, tasks: Tasks, course: _Course, kind: str, failure: Failure) -> None:
        beat, name, newest = course.beat, course.member.id, reached(course.attempt)
        if self._stopping:
            self._note(course, "interrupted" if kind == "preempted" else kind, failure.error.problem)
            return
        course.past.append(
            Ended(
                outcome=kind,
                progressed=newest > course.newest,
                node_alive=self._lives(course),
                on_gpu=failure.on_gpu,
                peak_gib=beat.memory_bytes / 2**30 if beat else 0.0,
            )
        )
        course.newest = max(course.newest, newest)
        verdict = judge(course.past, course.resources)
        self._note(course, verdict.outcome, failure.error.problem)
        if not verdict.again or not self._fits(course, verdict.resources):
            _log.warning("%s is set aside after attempt %d: %s", name, course.number, failure.error)
            leave_error(course.member.directory, failure.error, failure.traceback)
            self.set_aside[name] = failure.error
            return
        _log.warning("%s, attempt %d: %s; trying again", name, course.number, verdict.outcome)
        course.resources, course.avoid = verdict.resources, beat.node if beat else ""
        drop_older(course.member.directory, course.number)
        self._begin(tasks, course, verdict.delay_seconds)

    def _fits(self, course: _Course, resources: Resources) -> bool:
        """Whether some node has what an attempt is to get; what the one before had may come again."""
        try:
            if resources != course.resources:
                self._cluster.require([(resources, course.member.ranks)])
        except ResourceError:
            return False
        return True

    def _note(self, course: _Course, outcome: str, message: str) -> None:
        """Write the line of an attempt that ended; one whose files cannot be committed gets another."""
        directory, beat = course.member.directory, course.beat
        line = Attempt(
            attempt=course.number,
            host=beat.host if beat else "",
            node=beat.node if beat else "",
            started=course.started,
            ended=now(),
            outcome=outcome,
            message=message,
            began_from=beat.began_from if beat else "",
            reached=reached(course.attempt),
            memory_gib=course.resources.memory_gib,
            gpus=course.resources.gpus,
        )
        earlier = [known for known in read_attempts(directory) if known.attempt != course.number]
        record(directory, [*earlier, line])

    def _lives(self, course: _Course) -> bool:
        """Whether the nodes of an attempt that began are there still."""
        return course.beat is not None and all(map(self._cluster.is_alive, course.beat.nodes))


def _crash(attempt: Path) -> str:
    """What Python said when the attempt's process ended itself, or nothing."""
    try:
        return (attempt / CRASH).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _crashed(member: str, crash: str) -> TrainingError:
    return TrainingError(
        f"{member}'s process crashed: {crash.splitlines()[0]}",
        expected="the training to end",
        action=f"see `traceback` in its {ERROR}",
    )


def _hung(member: str, beat: Beat, seconds: float) -> TrainingError:
    phase = "training" if beat.phase == "training" else f"{beat.phase},"
    return TrainingError(
        f"{member} made no step for {seconds / 60:g} minutes "
        f"({phase} epoch {beat.epoch + 1}, step {beat.step}, process {beat.pid} on {beat.host})",
        expected="progress",
        action="look at that machine, or raise teachers.hang_minutes if its steps take so long",
    )
