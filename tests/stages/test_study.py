"""The offline study: what it refuses, which rows it scores how, and what it leaves on disk and on stdout."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.stages import fake_store
from tests.stages.fake_store import Store
from tests.stages.page import Page
from tests.stages.test_sweep import SCOPE
from ukd_dist.cli import app
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, UkdError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.manifest import write_atomically
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.studied import STUDY, STUDY_CSV, Scope, Score, Study, arrange, read_study
from ukd_dist.stages.study import study

TEACHERS, ROWS, CLASSES, VALIDATION = 3, 40, 5, 12
TARGETS = (
    "{ukd: {method: pkd}, oof: {method: pkd, rows: out_of_fold}, one: {method: avg, teachers: {seed: 1}}}"
)


def build(root: Path) -> Store:
    """Teachers of which each left a third of the rows out."""
    trained_on = torch.arange(ROWS)[None] % TEACHERS != torch.arange(TEACHERS)[:, None]
    return fake_store.build(root, TEACHERS, ROWS, CLASSES, trained_on, VALIDATION)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build(tmp_path / "run")


def context(experiment: Experiment) -> Context:
    """Of a cluster that is not started: refusals come before any work."""
    run = RunDirectory(experiment.root)
    return Context(run, experiment, RayCluster(Cluster(), run.logs), Progress(Console(quiet=True)))


def refusal(experiment: Experiment, **scope: Any) -> UkdError:
    with pytest.raises(UkdError) as caught:
        study(context(experiment), SCOPE.model_copy(update=scope))
    assert not (experiment.root / "report").exists()
    return caught.value


def test_without_validation_rows_the_setting_and_the_way_out_are_named(tmp_path: Path) -> None:
    store = fake_store.build(tmp_path / "run", 2, ROWS, CLASSES)
    error = refusal(store.experiment("{ukd: {method: pkd}}"))
    assert isinstance(error, UsageError)
    assert str(error) == (
        f"{store.root}/shards holds no validation rows; expected data.validation, a share of the training "
        "videos that no teacher is trained on; add it with a root of its own, or give --in-sample to score "
        "training rows alone"
    )


def test_a_target_that_there_is_not_is_told_the_others(store: Store) -> None:
    assert str(refusal(store.experiment(TARGETS), target="udk")) == (
        "--target udk is no target of the experiment; expected one of ukd, oof, one; correct it, or leave "
        "--target out for all teachers"
    )


@pytest.mark.parametrize(
    ("scope", "problem"),
    [
        ({"methods": ("single",)}, "--methods single with 3 teachers; expected one teacher"),
        ({"methods": ("avg1",), "spaces": ("logits",)}, "--methods avg1 --spaces logits asks for nothing"),
        ({"h": (0.1,)}, "h is 0.1; expected 1/C <= h < 1, where 1/C is 0.2"),
    ],
)
def test_what_cannot_be_scored_is_refused(store: Store, scope: dict[str, Any], problem: str) -> None:
    error = refusal(store.experiment(TARGETS), **scope)
    assert isinstance(error, UsageError)
    assert str(error).startswith(problem)


def test_a_teacher_that_is_not_finished_is_named(store: Store) -> None:
    experiment = store.experiment(TARGETS)
    (store.root / "teachers" / experiment.teachers[1].id / "manifest.json").unlink()
    error = refusal(experiment)
    assert isinstance(error, DataError)
    assert error.problem == f"the study needs teacher {experiment.teachers[1].id}, which is not finished"


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ("nothing", "has no logits of the validation rows"),
        ("seen", "may have been trained on 12 of the"),
    ],
)
def test_a_teacher_that_cannot_judge_validation_rows_is_named(store: Store, says: str, problem: str) -> None:
    experiment = store.experiment(TARGETS)
    member, run = experiment.teachers[1], RunDirectory(store.root)
    none_n, all_m = torch.zeros(ROWS, dtype=torch.bool), torch.ones(VALIDATION, dtype=torch.bool)
    said: dict[Any, Any] = {"train": (store.logits_knc[1], none_n)}
    if says == "seen":
        said["validation"] = store.validation_kmc[1], all_m
    (run.teacher(member.id) / "logits/validation.safetensors").unlink()
    fake_store.teach(run.teacher(member.id), member, ShardSet(run.shards), said)
    error = refusal(experiment)
    assert isinstance(error, DataError)
    assert error.problem.startswith(f"teacher {member.id} {problem}")
    assert error.action.endswith("or give --in-sample")


def made(method: str, tau: float, nll: float, rows: str, h: float | None = None) -> Score:
    figures = {"num_rows": 5, "teachers": 2, "top1": 0.5, "ece": 0.1, "entropy": 1.0}
    return Score(method=method, h=h, tau=tau, space="logits", weights="", rows=rows, nll=nll, **figures)  # type: ignore[arg-type]


def test_scores_are_in_the_order_of_validation_likelihood_within_a_method() -> None:
    scope = Scope(methods="pkd,avg", h="0.9,0.99", tau="1,5", spaces="logits")  # type: ignore[arg-type]
    validation = [
        made("avg", 1, 0.1, "validation"),
        made("avg", 5, 0.9, "validation"),
        made("pkd", 1, 0.8, "validation", 0.9),
        made("pkd", 1, 0.7, "validation", 0.99),
        made("pkd", 5, 0.6, "validation", 0.9),
        made("pkd", 5, 0.9, "validation", 0.99),
    ]
    training = [replace(score, rows="in-sample", nll=1 - score.nll) for score in validation]
    done = Study(scope, "", arrange(scope, [*validation, *training]))
    order = [
        ("pkd", 0.9, 5),
        ("pkd", 0.99, 1),
        ("pkd", 0.9, 1),
        ("pkd", 0.99, 5),
        ("avg", None, 1),
        ("avg", None, 5),
    ]
    assert [(s.method, s.h, s.tau) for s in done.scores] == [*order, *order]
    assert [s.rows for s in done.scores] == ["validation"] * 6 + ["in-sample"] * 6
    assert [(a.nll, b and b.nll) for a, b in done.leaders] == [(0.6, 0.4), (0.1, 0.9)]
    assert [done.over_tau(leader) for leader, _ in done.leaders] == [[0.8, 0.6], [0.1, 0.9]]


# --- On a cluster -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A command that was run once; tests only read."""

    run: RunDirectory
    experiment: Experiment
    result: Result

    def again(self, *arguments: str) -> Result:
        chosen = ["--methods", "avg,pkd", "--h", "0.9,0.99", "--tau", "1,5"]
        command = ["study", str(self.run.experiment), "--offline", *chosen, *arguments]
        return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    store = build(tmp_path_factory.mktemp("told") / "run")
    experiment, run = store.experiment(TARGETS), RunDirectory(store.root)
    write_atomically(run.experiment, experiment.to_yaml().encode())
    first = Told(run, experiment, CliRunner().invoke(app, ["--help"]))
    result = first.again()
    assert result.exit_code == 0, result.stderr
    return replace(first, result=result)


@pytest.mark.cluster
def test_the_command_prints_a_line_of_each_score(told: Told) -> None:
    table, notes = told.result.stdout.rsplit("\n\n", 1)
    header, *lines = filter(None, table.splitlines())
    counted, last = notes.splitlines()
    assert " ".join(header.split()) == "method h tau space weights rows top-1 NLL ECE entropy"
    assert last == f"report: {told.run.report}/index.html"
    assert counted.startswith("teachers: 3; ")
    assert len(lines) == 2 * (2 + 4) * 2
    validation, training = lines[:12], lines[12:]
    assert all("12 validation" in line for line in validation)
    assert all("40 out-of-fold" in line for line in training)
    assert all("label-free" in line for line in lines if line.startswith("avg"))
    assert all("mean training weights (ours)" in line for line in validation if line.startswith("pkd"))
    assert all(" labels " in line for line in training if line.startswith("pkd"))


@pytest.mark.cluster
def test_csv_and_page_hold_what_the_command_told(told: Told) -> None:
    found = read_study(told.run, told.experiment)
    assert found is not None
    with (told.run.report / STUDY_CSV).open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nll"]) for row in rows] == [score.nll for score in found.scores]
    page = Page((told.run.report / "index.html").read_text())
    shown = [row for row in page.sections["study"] if row[0].startswith(("avg", "pkd"))]
    for (leader, _), row in zip(found.leaders, shown, strict=True):
        assert row[0] == f"{leader.method}{leader.weights}"
        assert row[1] == leader.space
        assert row[4:6] == [f"{100 * leader.top1:.1f}", f"{leader.nll:.3f}"]
    assert "negative log-likelihood, nats (logits)" in page.text


@pytest.mark.cluster
def test_the_same_study_again_does_nothing_and_tells_the_same(told: Told) -> None:
    before = (told.run.report / STUDY).stat().st_mtime_ns
    result = told.again("--json")
    assert result.exit_code == 0, result.stderr
    assert "Ray:" not in result.stderr
    found = read_study(told.run, told.experiment)
    assert found is not None
    assert [Score(**score) for score in json.loads(result.stdout)["scores"]] == list(found.scores)
    assert (told.run.report / STUDY).stat().st_mtime_ns == before


@pytest.mark.cluster
def test_a_study_is_forgotten_with_a_teacher_that_it_heard(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.run.root, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy")
    assert read_study(run, told.experiment) is not None
    fewer = replace(told.experiment, teachers=told.experiment.teachers[1:])
    assert read_study(run, fewer) is None
    write_atomically(run.report / STUDY, b"{}")
    with pytest.raises(DataError, match=r"study\.json is damaged"):
        read_study(run, told.experiment)


@pytest.mark.cluster
def test_a_target_lends_its_teachers_and_rows(tmp_path: Path) -> None:
    store = build(tmp_path / "run")
    work = context(store.experiment(TARGETS))
    scope = SCOPE.model_copy(update={"methods": ("pkd",), "spaces": ("logits",), "tau": (1.0,)})
    with work.cluster:
        ukd, oof, one = (study(work, scope.model_copy(update={"target": t})) for t in ("ukd", "oof", "one"))
        alone = study(work, scope.model_copy(update={"in_sample": True}))
    assert {(s.rows, s.teachers) for s in ukd.scores} == {("validation", 3), ("in-sample", 3)}
    assert {(s.rows, s.teachers) for s in oof.scores} == {("validation", 3), ("out-of-fold", 3)}
    assert {(s.rows, s.teachers) for s in one.scores} == {("validation", 1), ("in-sample", 1)}
    assert {(s.rows, s.weights) for s in alone.scores} == {("out-of-fold", "labels")}
