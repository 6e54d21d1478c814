"""Recomputed logits: of a sound teacher they are the stored ones, and of no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.stages import taught_run
from ukd_dist import manifest, pipeline
from ukd_dist.cli import app
from ukd_dist.cluster_config import Resources
from ukd_dist.data.knowledge import CHECKS, LOGITS, TRAINED_ON, logits_name, logits_path, write_logits
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.keeping import keep_only
from ukd_dist.stages.recompute import CPU_TOLERANCE
from ukd_dist.stages.verify import Verdict
from ukd_dist.training.inference import WEIGHTS

EVERY_ROW = 12  # of both splits


@pytest.fixture
def copy(taught: Experiment, tmp_path: Path) -> Experiment:
    shutil.copytree(taught.root, tmp_path / "run")
    return taught_run.experiment(tmp_path / "run")


def teachers(experiment: Experiment, num_rows: int = EVERY_ROW, seed: int = 0) -> list[Verdict]:
    """Verdicts of the teachers, in the experiment's order."""
    found = {Path(v.directory).name: v for v in pipeline.verify(experiment, num_rows, seed)}
    return [found[member.id] for member in experiment.teachers]


def tamper(
    experiment: Experiment, number: int, split: SplitName, change: Callable[[torch.Tensor], None]
) -> Path:
    """Change stored logits, and all checksums with them."""
    run = RunDirectory(experiment.root)
    directory = run.teacher(experiment.teachers[number].id)
    path = logits_path(directory, split)
    tensors, found = load_file(path), manifest.read(directory)
    assert found is not None
    view = "centre" if split == "test" else experiment.teachers[number].settings.views.name
    change(tensors[LOGITS])
    rows = ShardSet(run.shards).rows[split]
    checks = write_logits(path, tensors[LOGITS], rows, split, view=view, trained_on=tensors[TRAINED_ON])
    summary = {**found.summary, CHECKS: {**found.summary[CHECKS], logits_name(split): asdict(checks)}}
    manifest.commit(directory, found.kind, found.settings, found.inputs, found.files, summary)
    return path


def test_the_logits_of_every_row_are_exactly_what_was_stored_on_the_same_kind_of_machine(
    taught: Experiment,
) -> None:
    verdicts = teachers(taught)
    assert [(v.problem, v.note, v.recomputed) for v in verdicts] == [("", "", EVERY_ROW)] * 4
    # A mean over views is rounded to float32 when it is stored.
    assert [v.difference for v in verdicts[:2]] == [0.0, 0.0]
    assert all(v.difference is not None and v.difference < 1e-6 for v in verdicts)


@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_some_rows_in_other_batches_are_far_nearer_than_what_is_tolerated(
    taught: Experiment, num_rows: int
) -> None:
    for seed in range(3):
        for verdict in teachers(taught, num_rows, seed):
            assert (verdict.problem, verdict.recomputed) == ("", num_rows)
            assert verdict.difference is not None
            assert verdict.difference < CPU_TOLERANCE / 20


@pytest.mark.parametrize(("number", "split"), [(0, "train"), (1, "test"), (2, "train"), (3, "train")])
def test_a_logit_that_was_changed_with_its_checksums_is_found_and_its_row_named(
    copy: Experiment, number: int, split: SplitName
) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[3].view(-1)[0] += 0.01

    path = tamper(copy, number, split, change)
    assert all(not verdict.problem for verdict in pipeline.verify(copy))
    (problem,) = (v.problem for v in teachers(copy) if v.problem)
    of = 8 if split == "train" else 4
    assert problem.startswith(f"{path}: 1 of {of} recomputed rows differ, first row 3 ('{split}3') by 0.0")


def test_rows_that_were_exchanged_are_found(copy: Experiment) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[[0, 5]] = logits[[5, 0]]

    path = tamper(copy, 0, "train", change)
    assert teachers(copy)[0].problem.startswith(
        f"{path}: 2 of 8 recomputed rows differ, first row 0 ('train0')"
    )


def test_weights_of_another_teacher_are_found(copy: Experiment) -> None:
    run = RunDirectory(copy.root)
    first, second = (run.teacher(member.id) for member in copy.teachers[:2])
    shutil.copyfile(second / WEIGHTS, first / WEIGHTS)
    found = manifest.read(first)
    assert found is not None
    manifest.commit(first, found.kind, found.settings, found.inputs, found.files, found.summary)
    assert "recomputed rows differ" in teachers(copy)[0].problem
    assert teachers(copy)[1].problem == ""


def test_logits_that_a_gpu_may_have_made_are_compared_less_closely(copy: Experiment) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[3, 0] += 0.01

    tamper(copy, 0, "train", change)
    gpus = copy.teachers[0].settings.model_copy(update={"resources": Resources(gpus=0.5, decode="cpu")})
    members = (type(copy.teachers[0])(copy.teachers[0].id, gpus), *copy.teachers[1:])
    lenient = Experiment(**{**vars(copy), "teachers": members})
    verdict = teachers(lenient)[0]
    assert (verdict.problem, verdict.recomputed) == ("", EVERY_ROW)
    assert verdict.difference is not None
    assert verdict.difference > CPU_TOLERANCE


def test_a_teacher_whose_weights_were_dropped_is_sound_and_not_recomputed(copy: Experiment) -> None:
    keep_only(RunDirectory(copy.root).teacher(copy.teachers[0].id), "logits")
    verdict, other, *_ = teachers(copy)
    assert (verdict.problem, verdict.recomputed) == ("", 0)
    assert verdict.note == "not recomputed: its weights were dropped"
    assert other.recomputed == EVERY_ROW


def test_a_damaged_file_is_named_as_such_and_its_teacher_not_recomputed(copy: Experiment) -> None:
    path = RunDirectory(copy.root).teacher(copy.teachers[0].id) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    verdict = teachers(copy)[0]
    assert (verdict.problem, verdict.recomputed) == (f"{path} was altered", 0)


def test_the_command_names_the_row_and_fails(copy: Experiment) -> None:
    def change(logits: torch.Tensor) -> None:
        logits[0, 1] -= 0.5

    path = tamper(copy, 1, "train", change)
    result = CliRunner().invoke(app, ["verify", str(copy.root), "--recompute", str(EVERY_ROW), "--json"])
    assert result.exit_code == 1
    assert "1 of 5 directories are damaged" in result.stderr
    problems = [verdict["problem"] for verdict in json.loads(result.stdout) if verdict["problem"]]
    assert [problem.partition(":")[0] for problem in problems] == [str(path)]
