"""Prometheus metrics: the catalogue, the recorder of a working process, and the exporter of a run.

Trainings are shorter than they are many, and processes end between scrapes; so every process writes
snapshots of its own registry under `<root>/metrics`, and the coordinator's exporter serves their sum from
there. A count that was written is never lost with its process. Only this module imports prometheus_client.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ukd_dist.errors import ResourceError
from ukd_dist.manifest import write_atomically

SNAPSHOT_SECONDS = 2.0
_log = logging.getLogger(__name__)
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
    "ukd_loss": Definition("gauge", "Mean loss of the latest epoch.", ("member", "kind")),
    "ukd_accuracy_ratio": Definition("gauge", "Top-1 accuracy.", ("member", "split")),
    "ukd_teachers": Definition("gauge", "Teachers of the fleet by state.", ("state",)),
    "ukd_reduce_logits_bytes_total": Definition("counter", "Bytes of logits that the reduction has read."),
    "ukd_rejected_samples_total": Definition("counter", "Videos that sharding has rejected.", ("reason",)),
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

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._child(name, labels)
        assert isinstance(metric, Gauge)
        metric.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        metric = self._child(name, labels)
        assert isinstance(metric, Histogram)
        metric.observe(value)

    def write(self) -> None:
        """Write a snapshot now."""
        write_to_textfile(str(self._path), self._registry)

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        definition = CATALOGUE[name]
        label_names = (*_COMMON, *definition.labels)
        if name not in self._metrics:
            self._metrics[name] = _make(name, definition, label_names, self._registry)
        values = {**self._own, **labels}
        return self._metrics[name].labels(**{label: values[label] for label in label_names})

    def _write_periodically(self) -> None:
        while not self._stop.wait(SNAPSHOT_SECONDS):
            try:
                self.write()
            except OSError as error:  # a full disk must not end the thread: the next snapshot has it all
                _log.warning("metrics were not written: %s", error)


@dataclass(frozen=True)
class Committed:
    """A metric that the run directory itself states, so that no restart counts anything twice.

    Attributes:
        name: A name of `CATALOGUE` with one label of its own.
        stage: The stage that it speaks of.
        values: Value of that label -> number.
    """

    name: str
    stage: str
    values: Mapping[str, float]


class RunCollector(Collector):
    """Serves the sum of all snapshots under `<root>/metrics`, and what the run directory states.

    Args:
        directory: `<root>/metrics`.
        run: The experiment's name.
        read_committed: Reads what the run directory states now.
    """

    def __init__(self, directory: Path, run: str, read_committed: Callable[[], Iterable[Committed]]) -> None:
        self._directory = directory
        self._run = run
        self._read_committed = read_committed

    def collect(self) -> Iterator[Metric]:
        """Yields each metric family once."""
        yield from merge_snapshots(sorted(self._directory.glob("*.prom"), key=lambda p: p.stat().st_mtime))
        for committed in self._read_committed():
            definition = CATALOGUE[committed.name]
            (label,) = definition.labels
            family = Metric(committed.name.removesuffix("_total"), definition.help, definition.kind)
            for value, number in committed.values.items():
                labels = {"run": self._run, "stage": committed.stage, "rank": "0", label: value}
                family.add_sample(committed.name, labels, float(number))
            yield family


def merge_snapshots(paths: Iterable[Path]) -> list[Metric]:
    """Families of several snapshots as one: counts are summed, of gauges the latest holds."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for path in paths:
        for family in text_string_to_metric_families(path.read_text()):
            if family.name.endswith("_created"):  # of one process, and no family of its own in OpenMetrics
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                before = 0.0 if family.type == "gauge" else merged.get(key, 0.0)
                merged[key] = before + sample.value
    for name, merged in values.items():
        for (sample_name, labels), value in merged.items():
            families[name].add_sample(sample_name, dict(labels), value)
    return list(families.values())


@contextmanager
def exporting(
    directory: Path, run: str, port: int | None, read_committed: Callable[[], Iterable[Committed]]
) -> Iterator[int | None]:
    """Serve a run's metrics over HTTP; yields the port, or None where `port` is None.

    `<root>/metrics/targets.json` names the address in the form that Prometheus' file discovery reads.

    Raises:
        ResourceError: The port is taken.
    """
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(RunCollector(directory, run, read_committed))
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        raise ResourceError(
            f"cluster.metrics_port {port}: {error.strerror}",
            expected="a port that is free",
            action="choose another, or 0 for any free one",
        ) from error
    targets = (
        f'[{{"targets": ["{socket.gethostname()}:{server.server_port}"], "labels": {{"run": "{run}"}}}}]\n'
    )
    write_atomically(directory / "targets.json", targets.encode())
    try:
        yield server.server_port
    finally:
        (directory / "targets.json").unlink(missing_ok=True)
        server.shutdown()
        server.server_close()
        thread.join()


def peak_host_memory_bytes() -> int:
    """Peak resident memory of this process.

    Not by getrusage, whose peak outlives exec: it may be that of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


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
