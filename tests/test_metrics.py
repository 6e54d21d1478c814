"""Metrics: what a process recorded outlives it, sums over processes, and reaches a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests.prometheus_server import get, program, prometheus, query, wait_for
from ukd_dist.cluster_config import Resources
from ukd_dist.discovery import following
from ukd_dist.errors import DataError, ResourceError
from ukd_dist.experiment import Experiment
from ukd_dist.exporter import Page, RunCollector, exporting, merge_snapshots
from ukd_dist.manifest import write_atomically
from ukd_dist.metrics import CATALOGUE, Committed, Recorder, host_memory_bytes
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.status import STATES
from ukd_dist.training.history import Epoch, record_epoch

STATE_COUNTS: dict[str, int] = {**dict.fromkeys(STATES, 0), "done": 3, "running": 2}


def record(
    directory: Path, *, stage: str = "teach", member: str = "x3d_tiny-rgb-s0", rank: int = 0
) -> Recorder:
    return Recorder(directory, run="study", stage=stage, member=member, rank=rank)


def merged(directory: Path) -> list[Metric]:
    return merge_snapshots(directory.glob("*.prom"))


def value(families: Iterable[Metric], name: str, **labels: str) -> float:
    """The one sample with that name and those labels, among others."""
    (found,) = (
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return float(found)


# --- The catalogue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "label"),
    [
        ("ukd_epoch_seconds", "gauge", None),
        ("ukd_step_seconds", "histogram", None),
        ("ukd_data_wait_seconds_total", "counter", None),
        ("ukd_clips_total", "counter", None),
        ("ukd_memory_peak_bytes", "gauge", "device"),
        ("ukd_loss", "gauge", "kind"),
        ("ukd_accuracy_ratio", "gauge", "split"),
        ("ukd_teachers", "gauge", "state"),
        ("ukd_reduce_logits_bytes_total", "counter", None),
        ("ukd_rejected_samples_total", "counter", "reason"),
    ],
)
def test_the_catalogue_holds_what_the_specification_names(name: str, kind: str, label: str | None) -> None:
    assert CATALOGUE[name].kind == kind
    assert label is None or label in CATALOGUE[name].labels


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_follow_the_conventions_and_units_are_base_units(name: str) -> None:
    definition = CATALOGUE[name]
    assert re.fullmatch(r"ukd(_[a-z]+)+", name)
    assert name.endswith("_total") == (definition.kind == "counter")
    assert not re.search(r"_(ms|millis|minutes|hours|kb|mb|mib|gb|gib|percent)(_|$)", name)
    assert definition.help.endswith(".")


@pytest.mark.parametrize("name", [name for name, d in CATALOGUE.items() if d.kind != "gauge"])
def test_only_gauges_carry_a_member(name: str) -> None:
    """A counter for each of a thousand teachers would never go away again."""
    assert "member" not in CATALOGUE[name].labels


# --- Snapshots ---------------------------------------------------------------------------------------------


def test_a_snapshot_says_run_stage_and_rank_and_gauges_their_member(tmp_path: Path) -> None:
    with record(tmp_path, stage="distill", member="ukd-s0", rank=3) as recorder:
        recorder.count("ukd_clips_total", 16)
        recorder.set("ukd_epoch", 2)
        recorder.observe("ukd_step_seconds", 0.2)
        recorder.set("ukd_loss", 1.5, kind="ce")
        recorder.count("ukd_rejected_samples_total", reason="no frames")
    families = merged(tmp_path)
    common = {"run": "study", "stage": "distill", "rank": "3"}
    labels = {f.name: s.labels for f in families for s in f.samples if "le" not in s.labels}
    assert labels == {
        "ukd_clips": common,
        "ukd_epoch": {**common, "member": "ukd-s0"},
        "ukd_step_seconds": common,
        "ukd_loss": {**common, "member": "ukd-s0", "kind": "ce"},
        "ukd_rejected_samples": {**common, "reason": "no frames"},
    }


def test_a_name_outside_the_catalogue_is_refused(tmp_path: Path) -> None:
    with record(tmp_path) as recorder, pytest.raises(KeyError):
        recorder.count("ukd_clipz_total")


def test_a_process_that_recorded_nothing_is_no_trouble(tmp_path: Path) -> None:
    with record(tmp_path):
        pass
    assert merged(tmp_path) == []


def test_counts_and_histograms_are_summed_over_processes(tmp_path: Path) -> None:
    for amount, seconds in ((16, 0.02), (8, 0.2), (4, 99.0)):
        with record(tmp_path) as recorder:
            recorder.count("ukd_clips_total", amount)
            recorder.observe("ukd_step_seconds", seconds)
    families = merged(tmp_path)
    assert value(families, "ukd_clips_total") == 28
    assert value(families, "ukd_step_seconds_count") == 3
    assert value(families, "ukd_step_seconds_sum") == pytest.approx(99.22)
    assert [
        value(families, "ukd_step_seconds_bucket", le=le) for le in ("0.01", "0.025", "0.25", "+Inf")
    ] == [
        0,
        1,
        2,
        3,
    ]


COUNTS = """
import os, sys, time
from pathlib import Path
from ukd_dist.metrics import Recorder
done = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
with Recorder(Path(sys.argv[1]), run="study", stage="teach") as recorder:
    for count in range(1, 10**9):
        recorder.count("ukd_clips_total")
        os.pwrite(done, str(count).encode(), 0)
        time.sleep(0.005)
"""


@pytest.mark.parametrize("seconds", [2.5, 5.0])
def test_a_killed_process_loses_a_hundredth_of_its_counts_at_most(tmp_path: Path, seconds: float) -> None:
    counted = tmp_path / "counted"
    process = subprocess.Popen([sys.executable, "-c", COUNTS, tmp_path / "metrics", counted])
    wait_for(counted.exists, "first count")
    time.sleep(seconds)
    process.kill()
    process.wait()
    true = int(counted.read_text())
    assert true > 50 * seconds
    assert 0.99 * true <= value(merged(tmp_path / "metrics"), "ukd_clips_total") <= true + 1


def test_nothing_is_written_again_where_nothing_is_new(tmp_path: Path) -> None:
    with record(tmp_path) as recorder:
        recorder.count("ukd_clips_total")
        (path,) = wait_for(lambda: list(tmp_path.glob("*.prom")), "snapshot")
        before = path.stat().st_mtime_ns
        time.sleep(0.2)
        assert path.stat().st_mtime_ns == before
        recorder.count("ukd_clips_total")
        wait_for(lambda: path.stat().st_mtime_ns > before, "snapshot of what is new")


def test_members_ranks_and_stages_stay_apart(tmp_path: Path) -> None:
    for stage, member, rank in (
        ("teach", "a", 0),
        ("teach", "b", 0),
        ("distill", "c", 0),
        ("distill", "c", 1),
    ):
        with record(tmp_path, stage=stage, member=member, rank=rank) as recorder:
            recorder.count("ukd_clips_total", 1)
            recorder.set("ukd_epoch", 1)
    families = merged(tmp_path)
    assert value(families, "ukd_clips_total", stage="teach") == 2
    assert [value(families, "ukd_clips_total", stage="distill", rank=rank) for rank in "01"] == [1, 1]
    assert [value(families, "ukd_epoch", member=member) for member in "ab"] == [1, 1]


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.lists(st.integers(0, 2**40), max_size=4), min_size=1, max_size=4), order=st.randoms()
)
def test_a_sum_is_that_of_all_counts_in_whatever_order_they_came(
    counts: list[list[int]], order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("metrics")
    for amounts in counts:
        recorder = record(directory)
        for amount in [0, *amounts]:
            recorder.count("ukd_reduce_logits_bytes_total", amount)
        recorder.write()
    paths = list(directory.glob("*.prom"))
    order.shuffle(paths)
    assert value(merge_snapshots(paths), "ukd_reduce_logits_bytes_total") == sum(map(sum, counts))


KILLED = """
import sys, time
from pathlib import Path
from ukd_dist.metrics import Recorder

with Recorder(Path(sys.argv[1]), run="study", stage="teach", member="a") as recorder:
    recorder.count("ukd_clips_total", 40)
    recorder.write()
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_wrote_is_still_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    with record(tmp_path, member="a") as recorder:
        recorder.count("ukd_clips_total", 2)
    assert value(merged(tmp_path), "ukd_clips_total") == 42


def test_a_process_writes_by_itself_while_it_works(tmp_path: Path) -> None:
    with record(tmp_path) as recorder:
        recorder.count("ukd_clips_total", 5)
        wait_for(lambda: merged(tmp_path), "a snapshot", seconds=10)
        assert value(merged(tmp_path), "ukd_clips_total") == 5


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1048576\n"}, 2**20),
        ({"memory/memory.limit_in_bytes": "2097152\n"}, 2**21),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_a_containers_memory_is_what_it_may_use_of_the_machines(
    limits: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ukd_dist.metrics._CGROUPS", tmp_path)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_memory_bytes() == (psutil.virtual_memory().total if expected is None else expected)


@pytest.mark.parametrize(("reserved_gib", "expected"), [(1.5, 1.5 * 2**30), (None, host_memory_bytes())])
def test_an_epoch_says_how_much_memory_its_process_may_take(
    reserved_gib: float | None, expected: float, tmp_path: Path
) -> None:
    line = Epoch(
        1, {"total": 1.0}, accuracy=0.5, lr=0.1, seconds=1, data_wait_seconds=0, clips=1, peak_memory_bytes=1
    )
    with record(tmp_path) as recorder:
        record_epoch(recorder, line, Resources(memory_gib=reserved_gib))
    families = merged(tmp_path)
    assert value(families, "ukd_memory_limit_bytes", device="host") == expected
    assert 0 < value(families, "ukd_memory_peak_bytes", device="host") < host_memory_bytes()


# --- The exporter ------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """What a few processes of a run have written."""
    directory = tmp_path / "metrics"
    for rank, member in ((0, "a"), (0, "b"), (1, "c")):
        with record(directory, member=member, rank=rank) as recorder:
            recorder.count("ukd_clips_total", 100)
            recorder.count("ukd_data_wait_seconds_total", 0.25)
            recorder.observe("ukd_step_seconds", 0.02)
            recorder.set("ukd_epoch_seconds", 1.5)
            recorder.set("ukd_loss", 0.5, kind="total")
            recorder.set("ukd_memory_peak_bytes", 2**30, device="cpu")
            recorder.set("ukd_accuracy_ratio", 0.75, split="train")
    return directory


RECORDED = (
    "ukd_clips_total",
    "ukd_data_wait_seconds_total",
    "ukd_step_seconds",
    "ukd_epoch_seconds",
    "ukd_loss",
    "ukd_memory_peak_bytes",
    "ukd_accuracy_ratio",
    "ukd_teachers",
)


@contextmanager
def serving(directory: Path) -> Iterator[int]:
    with exporting(directory, "study", 0, lambda: [Committed("ukd_teachers", "teach", STATE_COUNTS)]) as port:
        assert port is not None
        yield port


def test_the_exporter_serves_the_sum_of_all_snapshots(recorded: Path) -> None:
    with serving(recorded) as port:
        families = list(text_string_to_metric_families(get(port, "/metrics")))
    assert value(families, "ukd_clips_total", rank="0") == 200
    assert value(families, "ukd_clips_total", rank="1") == 100
    assert value(families, "ukd_step_seconds_count", rank="0") == 2
    assert {family.name: family.type for family in families} == {
        name.removesuffix("_total"): CATALOGUE[name].kind for name in RECORDED
    }


def test_the_exporter_serves_of_a_gauge_what_was_written_last(tmp_path: Path) -> None:
    with record(tmp_path) as recorder:
        recorder.set("ukd_epoch", 7)
    (first,) = tmp_path.glob("*.prom")
    with record(tmp_path) as recorder:
        recorder.set("ukd_epoch", 2)
    with serving(tmp_path) as port:
        for first_written, latest in ((1, 2), (2**32, 7)):
            os.utime(first, (first_written, first_written))
            families = text_string_to_metric_families(get(port, "/metrics"))
            assert value(families, "ukd_epoch") == latest


def test_the_exporter_serves_teachers_by_state(recorded: Path) -> None:
    with serving(recorded) as port:
        families = list(text_string_to_metric_families(get(port, "/metrics")))
    for state, number in STATE_COUNTS.items():
        labels = {"run": "study", "stage": "teach", "rank": "0", "state": state}
        assert value(families, "ukd_teachers", **labels) == number


def test_the_exporter_speaks_openmetrics_as_prometheus_asks_for(recorded: Path) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    with serving(recorded) as port:
        text = get(port, "/metrics", accept)
    assert text.endswith("# EOF\n")
    assert value(openmetrics.text_string_to_metric_families(text), "ukd_clips_total", rank="0") == 200


def test_the_exporter_serves_what_is_recorded_while_it_runs(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        assert "ukd_clips_total" not in get(port, "/metrics")
        with record(tmp_path) as recorder:
            recorder.count("ukd_clips_total", 3)
        assert value(text_string_to_metric_families(get(port, "/metrics")), "ukd_clips_total") == 3


class SlowCollector(Collector):
    """Takes a while, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        time.sleep(0.1)
        yield GaugeMetricFamily("asked", "times", self.asked)


def test_text_that_takes_long_is_answered_as_it_was_and_made_anew_behind_that() -> None:
    collector = SlowCollector()
    page = Page(collector)
    assert b"asked 1.0" in page.answer("")[0]

    begin, texts = time.monotonic(), set()
    while time.monotonic() - begin < 2.2:
        asked = time.monotonic()
        texts.add(page.answer("")[0])
        assert time.monotonic() - asked < 0.05
        time.sleep(0.02)
    assert len(texts) >= 2
    assert collector.asked <= 4, "a tenth of the time at most"


class DamagedCollector(SlowCollector):
    """Can be read once."""

    def collect(self) -> Iterator[Metric]:
        yield from super().collect()
        if self.asked > 1:
            raise OSError("a file is gone")


def test_text_that_can_no_longer_be_made_is_not_answered_for_ever() -> None:
    page = Page(DamagedCollector())
    page.answer("")
    time.sleep(1.2)
    page.answer("")  # the last one, while another is made in vain
    time.sleep(0.3)
    with pytest.raises(OSError, match="a file is gone"):
        page.answer("")


def test_a_run_whose_metrics_cannot_be_read_is_an_error_to_prometheus(tmp_path: Path) -> None:
    def damaged() -> list[Committed]:
        raise DataError("history.jsonl is damaged", expected="lines", action="remove it")

    with (
        exporting(tmp_path, "study", 0, damaged) as port,
        pytest.raises(HTTPError, match=r"500: history\.jsonl is damaged"),
    ):
        urlopen(f"http://127.0.0.1:{port}/metrics")


def test_the_address_of_another_who_serves_by_now_is_left_in_its_place(tmp_path: Path) -> None:
    with exporting(tmp_path, "study", 0, list), exporting(tmp_path, "study", 0, list) as port:
        assert str(port) in (tmp_path / "targets.json").read_text()
    with exporting(tmp_path, "study", 0, list) as first:
        later = exporting(tmp_path, "study", 0, list)
        port = later.__enter__()
        assert first != port
    assert str(port) in (tmp_path / "targets.json").read_text()
    later.__exit__(None, None, None)
    assert not (tmp_path / "targets.json").exists()


def test_a_snapshot_that_stayed_as_it_was_is_not_read_again(recorded: Path) -> None:
    collector = RunCollector(recorded, "study", lambda: [])
    first = list(collector.collect())
    path = next(recorded.glob("*.prom"))
    kept = path.stat()
    path.write_text("nothing that could be parsed {")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert list(collector.collect()) == first
    path.unlink()
    assert list(collector.collect()) != first


def test_a_finished_run_is_served_until_it_is_interrupted(tmp_path: Path, recorded: Path) -> None:
    command = [sys.executable, "-m", "ukd_dist.cli", "metrics", "serve", str(tmp_path)]
    experiment = small_experiment(tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1].split("/")[0])
        families = list(text_string_to_metric_families(get(port, "/metrics")))
        assert (recorded / "targets.json").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert value(families, "ukd_clips_total", rank="0") == 200
    assert value(families, "ukd_teachers", state="pending") == len(experiment.teachers)
    assert value(families, "ukd_disk_free_bytes") > 0
    assert not (recorded / "targets.json").exists()


def small_experiment(root: Path) -> Experiment:
    """A run directory of an experiment of which nothing is done."""
    text = f"""
name: study
root: {root}
data: {{source: synthetic}}
teachers: {{fleet: [{{arch: x3d_tiny, modality: rgb, grid: {{seed: [0, 1]}}}}]}}
students: {{runs: [{{name: a, arch: x3d_tiny, modality: rgb, targets: none}}]}}
"""
    experiment = parse(text, "study.yaml", [])
    write_atomically(RunDirectory(root).experiment, experiment.to_yaml().encode())
    return experiment


def test_promtool_finds_nothing_to_say(recorded: Path) -> None:
    with serving(recorded) as port:
        text = get(port, "/metrics")
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        with pytest.raises(ResourceError) as caught, exporting(tmp_path, "study", port, lambda: []):
            pass
        assert (tmp_path / "targets.json").exists()
    expected = (
        f"metrics port {port}: Address already in use; expected a port that is free; "
        "choose another, or 0 for any free one"
    )
    assert str(caught.value) == expected


def test_without_a_port_nothing_is_served_or_written(tmp_path: Path) -> None:
    with exporting(tmp_path, "study", None, lambda: []) as port:
        assert port is None
    assert list(tmp_path.iterdir()) == []


def test_the_address_is_there_for_prometheus_as_long_as_it_is_served(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        targets = json.loads((tmp_path / "targets.json").read_text())
        assert targets == [{"targets": [f"{socket.gethostname()}:{port}"], "labels": {"run": "study"}}]
    assert not (tmp_path / "targets.json").exists()


def test_nodes_are_named_as_they_come_and_go_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ukd_dist.discovery.REFRESH_SECONDS", 0.05)
    file, nodes = tmp_path / "nodes.json", list[str]()

    def named() -> list[str]:
        (group,) = json.loads(file.read_text())
        assert group["labels"] == {"run": "study"}
        return list(group["targets"])

    with following(file, "study", lambda: list(nodes)):
        time.sleep(0.2)
        assert not file.exists(), "nothing is named before there is a node"
        for now in (["h:1"], ["h:1", "h:2"], ["h:2"], list[str]()):
            nodes[:] = now
            wait_for(lambda now=now: file.exists() and named() == now, f"{now} in the file")
    assert not file.exists()


def test_the_port_is_free_again_afterwards(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        pass
    with exporting(tmp_path, "study", port, lambda: []) as again:
        assert again == port


# --- A real Prometheus -------------------------------------------------------------------------------------

CONFIGURATION = """
scrape_configs:
  - job_name: ukd
    scrape_interval: 250ms
    file_sd_configs: [{files: [TARGETS]}]
"""


def test_a_real_prometheus_finds_the_run_and_its_counts(recorded: Path, tmp_path: Path) -> None:
    configuration = CONFIGURATION.replace("TARGETS", json.dumps(str(recorded / "targets.json")))
    with serving(recorded) as served, prometheus(tmp_path, configuration) as port:
        found = wait_for(lambda: query(port, "ukd_clips_total"), "answer of Prometheus")
        (teachers,) = query(port, 'ukd_teachers{state="done"}')
    counts = {result["metric"]["rank"]: float(result["value"][1]) for result in found}
    assert counts == {"0": 200, "1": 100}
    labels = {"run": "study", "stage": "teach", "job": "ukd", "instance": f"{socket.gethostname()}:{served}"}
    assert all(labels.items() <= result["metric"].items() for result in found)
    assert float(teachers["value"][1]) == 3
