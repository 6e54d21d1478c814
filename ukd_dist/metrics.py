"""Prometheus metrics: the catalogue, and the recorder of a working process.

Trainings are shorter than they are many, and processes end between scrapes; so every process writes
snapshots of its own registry under `<root>/metrics`, and `exporter.py` serves their sum from there. A count
that was written is never lost with its process. A killed one loses less than 2 seconds of its counts and,
once it is some seconds old, less than a hundredth of them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, write_to_textfile

_SNAPSHOT_SECONDS = 0.01, 2.0  # between two at least and at most
_SNAPSHOT_SHARE = 0.005  # of a process's age in between
_log = logging.getLogger(__name__)
_CGROUPS = Path("/sys/fs/cgroup")
_STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Definition:
    """One metric: its kind, what it says, and its labels beside run, stage and rank."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


CATALOGUE: Mapping[str, Definition] = {
    "ukd_epoch_seconds": Definition("gauge", "Duration of the latest epoch.", ("member",)),
    "ukd_epoch": Definition("gauge", "Epochs that are finished.", ("member",)),
    "ukd_step_seconds": Definition("histogram", "Duration of a training step, waiting for data included."),
    "ukd_data_wait_seconds_total": Definition("counter", "Time that steps waited for clips."),
    "ukd_clips_total": Definition("counter", "Clips decoded and used."),
    "ukd_memory_peak_bytes": Definition("gauge", "Peak memory of a process.", ("member", "device")),
    "ukd_memory_limit_bytes": Definition(
        "gauge", "Memory of a process: what it reserved, or all of its machine or GPU.", ("member", "device")
    ),
    "ukd_loss": Definition("gauge", "Mean loss of the latest epoch.", ("member", "kind")),
    "ukd_accuracy_ratio": Definition("gauge", "Top-1 accuracy.", ("member", "split")),
    "ukd_teachers": Definition("gauge", "Teachers of the fleet by state.", ("state",)),
    "ukd_students": Definition("gauge", "Students by state.", ("state",)),
    "ukd_attempts_total": Definition("counter", "Attempts at members that ended.", ("outcome",)),
    "ukd_member_epochs_total": Definition(
        "counter", "Epochs that are finished, over all members.", ("kind",)
    ),
    "ukd_member_epochs_asked": Definition("gauge", "Epochs that the experiment asks for.", ("kind",)),
    "ukd_remaining_seconds": Definition("gauge", "Time until the fleet is trained, at the pace so far."),
    "ukd_progress_timestamp_seconds": Definition(
        "gauge", "When a member that runs made a step or captured logits.", ("kind",)
    ),
    "ukd_disk_free_bytes": Definition("gauge", "Room where the run directory lies."),
    "ukd_disk_size_bytes": Definition("gauge", "Size of the file system where the run directory lies."),
    "ukd_reduce_logits_bytes_total": Definition("counter", "Bytes of logits that the reduction has read."),
    "ukd_rejected_samples_total": Definition("counter", "Videos that sharding has rejected.", ("reason",)),
    "ukd_rejected_limit_ratio": Definition("gauge", "Share of the listed videos that may be rejected."),
    "ukd_listed_samples": Definition("gauge", "Videos that the lists name, rejected ones included."),
}
_COMMON = ("run", "stage", "rank")


class Recorder:
    """The metrics of one working process; a context manager that writes snapshots while it is open.

    Args:
        directory: `<root>/metrics`.
        run: The experiment's name.
        stage: The stage that the process works for.
        member: Id of the teacher or student, used by gauges only.
        rank: The process's rank.
    """

    def __init__(self, directory: Path, *, run: str, stage: str, member: str = "", rank: int = 0) -> None:
        name = "-".join(filter(None, [stage, member, f"r{rank}", uuid.uuid4().hex[:8]]))
        self._path = directory / f"{name}.prom"
        self._registry = CollectorRegistry()
        self._own = {"run": run, "stage": stage, "rank": str(rank), "member": member}
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self._is_new = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_periodically, daemon=True)

    def __enter__(self) -> Recorder:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.write()

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        metric = self._child(name, labels)
        assert isinstance(metric, Counter)
        metric.inc(amount)
        self._is_new = True

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._child(name, labels)
        assert isinstance(metric, Gauge)
        metric.set(value)
        self._is_new = True

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        metric = self._child(name, labels)
        assert isinstance(metric, Histogram)
        metric.observe(value)
        self._is_new = True

    def write(self) -> None:
        """Write a snapshot now."""
        self._is_new = False  # first: what is recorded meanwhile is for the next one
        write_to_textfile(str(self._path), self._registry)

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        definition = CATALOGUE[name]
        label_names = (*_COMMON, *definition.labels)
        if name not in self._metrics:
            self._metrics[name] = _make(name, definition, label_names, self._registry)
        values = {**self._own, **labels}
        return self._metrics[name].labels(**{label: values[label] for label in label_names})

    def _write_periodically(self) -> None:
        begin, (shortest, longest) = time.monotonic(), _SNAPSHOT_SECONDS
        while not self._stop.wait(min(max(shortest, _SNAPSHOT_SHARE * (time.monotonic() - begin)), longest)):
            try:
                if self._is_new:
                    self.write()
            except OSError as error:  # a full disk must not end the thread: the next snapshot has it all
                self._is_new = True
                _log.warning("metrics were not written: %s", error)


@dataclass(frozen=True)
class Committed:
    """A metric that the run directory itself states, so that no restart counts anything twice.

    Attributes:
        name: A name of `CATALOGUE` with one label of its own, or none.
        stage: The stage that it speaks of; empty: the whole run.
        values: Value of that label -> number; without one under the empty string.
    """

    name: str
    stage: str
    values: Mapping[str, float]


def peak_host_memory_bytes() -> int:
    """Peak resident memory of this process.

    Not by getrusage, whose peak outlives exec: it may be that of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def host_memory_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups v2 and v1; `max` is no number
        with suppress(OSError, ValueError):
            return min(physical, int((_CGROUPS / limit).read_text()))
    return physical


class Stopwatch:
    """Seconds since it was made or last read."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()

    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._begin

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed


def _make(
    name: str, definition: Definition, labels: tuple[str, ...], registry: CollectorRegistry
) -> Counter | Gauge | Histogram:
    if definition.kind == "counter":
        return Counter(name, definition.help, labels, registry=registry)
    if definition.kind == "gauge":
        return Gauge(name, definition.help, labels, registry=registry)
    return Histogram(name, definition.help, labels, registry=registry, buckets=_STEP_BUCKETS)
