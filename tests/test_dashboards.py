"""Dashboards and alerts: what is committed is what the code makes, and all of it finds something in a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dashboards.grafana import to_json
from dashboards.make import DASHBOARDS, FOLDER, alerts_rule
from dashboards.panels import GPU_PANELS, RAY_METRICS, Dashboard
from tests.prometheus_server import (
    ask,
    free_port,
    is_ready,
    program,
    prometheus,
    query,
    query_range,
    wait_for,
)
from tests.tiny_run import load, running, said, wait_until
from ukd_dist.attempts import attempt_directory, reached
from ukd_dist.heartbeat import read_beat
from ukd_dist.metrics import CATALOGUE
from ukd_dist.rundir import RunDirectory, read_history

MONITORING = FOLDER.parent / "launch" / "monitoring"
HISTOGRAMS = [name for name, definition in CATALOGUE.items() if definition.kind == "histogram"]
KNOWN = {
    *CATALOGUE,
    *RAY_METRICS,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
SECONDS = 110.0
each_dashboard = pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.name)


def panels_of(page: Dashboard) -> list[dict[str, Any]]:
    """The panels as they are committed."""
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{page.name}.json").read_text())["panels"]
    return found


@cache
def rules() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def queries_of(page: Dashboard) -> list[tuple[str, str]]:
    """Title and expression of each query, those behind the selectors included."""
    document = json.loads((FOLDER / f"{page.name}.json").read_text())
    selectors = [
        (variable["name"], variable["query"].removeprefix("label_values(").rpartition(",")[0])
        for variable in document["templating"]["list"]
        if variable["type"] == "query"
    ]
    targets = [
        (panel["title"], target["expr"]) for panel in document["panels"] for target in panel["targets"]
    ]
    return [*selectors, *targets]


# --- What is written ---------------------------------------------------------------------------------------


@each_dashboard
def test_what_is_committed_is_what_the_code_makes(page: Dashboard) -> None:
    assert (FOLDER / f"{page.name}.json").read_text() == to_json(page), "python -m dashboards.make"


def test_every_file_of_a_dashboard_is_made_by_the_code() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {page.name for page in DASHBOARDS}


def test_the_alerts_of_kubernetes_are_made_of_the_alerts() -> None:
    assert (FOLDER / "prometheus_rule.yaml").read_text() == alerts_rule(), "python -m dashboards.make"


@each_dashboard
def test_every_panel_asks_a_question_and_says_its_unit_and_what_is_counted(page: Dashboard) -> None:
    for panel in panels_of(page):
        assert panel["title"].endswith("?")
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    titles = [panel["title"] for panel in panels_of(page)]
    assert len(set(titles)) == len(titles)


@each_dashboard
def test_every_query_is_of_the_chosen_run(page: Dashboard) -> None:
    for title, expression in queries_of(page):
        selectors = re.findall(r"\b(?:ukd|ray)_\w+({[^}]*})?", expression)
        assert selectors, title
        assert title == "run" or all('run="$run"' in selector for selector in selectors), title


@each_dashboard
def test_every_metric_that_a_dashboard_asks_for_is_known(page: Dashboard) -> None:
    assert {name for _, expression in queries_of(page) for name in metrics_in(expression)} <= KNOWN


@pytest.mark.parametrize("alert", rules())
def test_every_metric_that_an_alert_asks_for_is_known(alert: str) -> None:
    assert metrics_in(rules()[alert]["expr"]) <= KNOWN


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:ukd|ray)_\w+", re.sub(r"{[^}]*}", "", expression)))


def test_all_rays_metrics_that_are_asked_for_are_kept_and_no_others() -> None:
    expressions = [expression for page in DASHBOARDS for _, expression in queries_of(page)]
    expressions += [rule["expr"] for rule in rules().values()]
    asked = {name for text in expressions for name in metrics_in(text) if name.startswith("ray_")}
    (_, ray) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    (keep,) = ray["metric_relabel_configs"]
    assert asked == set(RAY_METRICS)
    assert all(re.fullmatch(keep["regex"], name) for name in RAY_METRICS)
    assert keep["regex"].count("|") == len(RAY_METRICS) - 1


def test_the_panels_that_need_a_gpu_are_listed() -> None:
    of_gpus = {
        title
        for page in DASHBOARDS
        for title, expression in queries_of(page)
        if re.search("ray_node_(gpus|gram)", expression)
    }
    assert of_gpus == set(GPU_PANELS)


@pytest.mark.parametrize("alert", rules())
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(alert: str) -> None:
    rule = rules()[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["for"]
    annotations = rule["annotations"]
    assert "{{ $labels.run }}" in annotations["summary"]
    assert "docs/operating.md" in annotations["description"]
    assert f"`{alert}`" in (FOLDER.parent / "docs" / "operating.md").read_text()
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(annotations.values())))
    grouped = {name for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for name in by.split(", ")}
    assert labels <= grouped or rule["expr"].startswith("up{")


@pytest.mark.parametrize("case", ["fires", "is silent"])
@pytest.mark.parametrize("alert", rules())
def test_each_alert_is_tried_where_it_fires_and_where_it_does_not(alert: str, case: str) -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    (test,) = (test for test in tests if test["name"] == f"{alert} {case}")
    for asked in test["promql_expr_test"]:
        expected = {
            re.sub(r'.*alertname="(\w+)".*', r"\1", found["labels"]) for found in asked["exp_samples"]
        }
        assert expected == ({alert} if case == "fires" else set())


@pytest.mark.parametrize(
    "command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_promtool_is_content_with_the_alerts(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *command], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_script_starts_prometheus_with_the_alerts_and_its_data_in_the_root(tmp_path: Path) -> None:
    program("prometheus")
    port = free_port()
    command = ["sh", str(MONITORING / "start.sh"), str(tmp_path), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_ready(port), "Prometheus")
            (group,) = ask(port, "rules")["groups"]
        finally:
            process.terminate()
    assert {rule["name"] for rule in group["rules"]} == set(rules())
    configuration = tmp_path / "metrics/prometheus/prometheus.yml"
    assert f'"{tmp_path}/metrics/nodes.json"' in configuration.read_text()
    assert (tmp_path / "metrics/prometheus/data").is_dir()


# --- A run that is watched ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A run of the tiny experiment, one of whose teachers was killed, and the Prometheus that watched it."""

    root: Path
    port: int
    begin: float
    end: float
    addresses_left: list[Path]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    root = folder / "run"
    with prometheus(folder, configuration(root)) as port:
        begin = time.time()
        with running(root) as process:
            kill_a_teacher(root)
            process.wait(SECONDS)
        assert process.returncode == 0, said(root).read_text()
        yield Watched(root, port, begin, time.time(), list((root / "metrics").glob("*.json")))


def configuration(root: Path) -> str:
    """That of launch/monitoring, scraping once a second."""
    text = (MONITORING / "prometheus.yml").read_text()
    text = text.replace("ROOT", str(root)).replace("RULES", str(FOLDER / "alerts.yaml"))
    return re.sub(r"(_interval): \d+s", r"\1: 1s", text)


def kill_a_teacher(root: Path) -> None:
    """SIGKILL for the first teacher's process once it has a checkpoint."""
    attempt = attempt_directory(RunDirectory(root).teacher(load(root).teachers[0].id), 1)
    wait_until("a checkpoint", lambda: bool(reached(attempt)), SECONDS)
    beat = read_beat(attempt)
    assert beat is not None
    os.kill(beat.pid, signal.SIGKILL)


def finds(watched: Watched, expression: str) -> bool:
    """Whether a query has a number at some moment of the run."""
    found = query_range(watched.port, in_a_short_run(watched, expression), watched.begin, watched.end)
    return any(value != "NaN" for series in found for _, value in series["values"])


def in_a_short_run(watched: Watched, expression: str) -> str:
    """A query as Grafana sends it, with times of a run of a minute."""
    baseline, student = (member.id for member in load(watched.root).students)
    values = {
        "__rate_interval": "10s",
        "__range": f"{watched.end - watched.begin:.0f}s",
        "run": "tiny",
        "member": ".+",
        "student": student,
        "baseline": baseline,
    }
    expression = re.sub(r"\$(\w+)", lambda name: values[name[1]], expression)
    return re.sub(r"\[\d+[mh]\]", "[10s]", expression)


@pytest.mark.cluster
@each_dashboard
def test_every_query_of_a_dashboard_finds_something_in_a_live_run(page: Dashboard, watched: Watched) -> None:
    empty = {title for title, expression in queries_of(page) if not finds(watched, expression)}
    assert empty <= (set() if torch.cuda.is_available() else set(GPU_PANELS))


@pytest.mark.cluster
@pytest.mark.parametrize("alert", rules())
def test_every_alert_has_something_to_judge_in_a_live_run(alert: str, watched: Watched) -> None:
    """A comparison that says 0 or 1 is empty only where there is nothing to compare."""
    judged, comparisons = re.subn(r" ([<>]|==) ", r" \1 bool ", rules()[alert]["expr"])
    assert comparisons
    assert finds(watched, judged)


@pytest.mark.cluster
def test_prometheus_evaluates_every_alert_without_an_error(watched: Watched) -> None:
    (group,) = ask(watched.port, "rules")["groups"]
    assert {
        rule["name"]: (rule["health"], rule.get("lastError")) for rule in group["rules"]
    } == dict.fromkeys(rules(), ("ok", None))


@pytest.mark.cluster
def test_every_series_has_its_runs_name_once(watched: Watched) -> None:
    ours = '{__name__=~"ukd_.+|ray_.+", %s}'
    named, renamed = ('run="tiny"', 'exported_run!=""')
    assert query_range(watched.port, ours % named, watched.begin, watched.end)
    assert not query_range(watched.port, ours % renamed, watched.begin, watched.end)


@pytest.mark.cluster
def test_totals_are_exact_although_a_worker_was_killed(watched: Watched) -> None:
    """They are what the run directory states, whoever serves it."""
    command = [sys.executable, "-m", "ukd_dist.cli", "metrics", "serve", str(watched.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            served = process.stdout.readline().rsplit(":", 1)[1].split("/")[0]
            of_it = f'{{instance=~".+:{served}"}}'
            wait_for(lambda: query(watched.port, f"ukd_teachers{of_it}"), "metrics of the ended run")
            epochs = totals(watched.port, f"ukd_member_epochs_total{of_it}", "kind")
            attempts = totals(watched.port, f"ukd_attempts_total{of_it}", "outcome")
            clips = totals(watched.port, f"ukd_clips_total{of_it}", "stage")
        finally:
            process.kill()
    run, experiment = RunDirectory(watched.root), load(watched.root)
    assert epochs == {"teacher": 6, "student": 6}
    assert attempts == {"lost": 1, "done": 2}
    assert clips["distill"] == clips_of([run.student(member.id) for member in experiment.students])
    # What the killed process did after its checkpoint another did again: up to an epoch in six counts twice.
    taught = clips_of([run.teacher(member.id) for member in experiment.teachers])
    assert 0.99 * taught <= clips["teach"] <= 7 / 6 * taught


def totals(port: int, metric: str, label: str) -> dict[str, float]:
    found = query(port, f"sum by ({label}) ({metric})")
    return {series["metric"][label]: float(series["value"][1]) for series in found}


def clips_of(members: list[Path]) -> int:
    return sum(line["clips"] for member in members for line in read_history(member))


@pytest.mark.cluster
def test_a_run_that_ended_leaves_no_address_behind(watched: Watched) -> None:
    assert watched.addresses_left == []
