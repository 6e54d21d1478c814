"""Members grouped over seeds, and students beside the undistilled ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.stages import fake_run
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.findings import compare, read_fusions, read_groups
from ukd_dist.stages.report import report, results_rows
from ukd_dist.stages.results import read_fusions as read_fusion_results

T_975_OF_2, T_975_OF_4 = 4.303, 2.776  # quantiles of Student's t by degrees of freedom


def test_seeds_give_a_mean_with_its_t_interval(root: Path) -> None:
    (ukd,) = [g for g in read_groups(RunDirectory(root), fake_run.experiment(root)) if g.name == "ukd"]
    values = np.array([m.result.top1 for m in ukd.members if m.result])
    assert ukd.top1 is not None
    assert ukd.top1.mean == pytest.approx(values.mean())
    assert ukd.top1.margin == pytest.approx(T_975_OF_4 * values.std(ddof=1) / math.sqrt(5), rel=1e-3)


def test_a_distilled_student_is_compared_seed_by_seed(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    top1 = {(r.name, r.seed): r.top1 for r in results_rows(run, experiment)}
    differences = np.array([top1["avg2", seed] - top1["baseline", seed] for seed in (0, 1, 2)])
    (found,) = [c for c in compare(read_groups(run, experiment)) if c.group.name == "avg2"]
    assert found.top1 is not None
    assert found.baseline.name == "baseline"
    assert list(found.pairs) == [0, 1, 2]
    assert found.top1.mean == pytest.approx(differences.mean())
    assert found.top1.margin == pytest.approx(T_975_OF_2 * differences.std(ddof=1) / math.sqrt(3), rel=1e-3)


def test_one_seed_is_compared_with_a_binomial_error(root: Path) -> None:
    run, experiment = RunDirectory(root), fake_run.experiment(root)
    by_name = {r.name: r for r in results_rows(run, experiment)}
    (found,) = [c for c in compare(read_groups(run, experiment)) if c.group.name == "flow"]
    p, q = by_name["flow"].top1, by_name["flow-baseline"].top1
    assert found.top1 is not None
    assert found.baseline.modality == "flow"
    assert found.top1.mean == pytest.approx(p - q)
    assert found.top1.margin == pytest.approx(math.sqrt((p * (1 - p) + q * (1 - q)) / 220))


def test_the_baseline_is_the_one_that_differs_least(tmp_path: Path) -> None:
    longer = "    - {{name: long-baseline, targets: none, epochs: 20}}\n    - {{name: ukd, targets: ukd,"
    text = fake_run.EXPERIMENT.replace("    - {{name: ukd, targets: ukd,", longer, 1)
    groups = read_groups(RunDirectory(tmp_path), fake_run.experiment(tmp_path, text))
    assert {c.baseline.name for c in compare(groups) if c.group.modality == "rgb"} == {"baseline"}
    without = [g for g in groups if g.name != "baseline"]
    assert {c.also for c in compare(without) if c.group.modality == "rgb"} == {("epochs",)}


def test_students_that_differ_by_more_than_the_seed_are_not_averaged(tmp_path: Path) -> None:
    text = fake_run.EXPERIMENT.partition("evaluate:")[0]  # two students of a name and seed are no pair
    text = text.replace("temperature: 20, grid: {{", "grid: {{temperature: [5, 20], ")
    groups = read_groups(RunDirectory(tmp_path), fake_run.experiment(tmp_path, text))
    assert [(g.label, len(g.members)) for g in groups if g.name == "ukd"] == [
        ("ukd rgb (temperature 5.0)", 5),
        ("ukd rgb (temperature 20.0)", 5),
    ]


def test_teachers_of_one_network_are_grouped_over_seeds_and_folds_apart_from_those_of_all_rows(
    tmp_path: Path,
) -> None:
    text = fake_run.EXPERIMENT.replace("  modalities:", "  folds: {{count: 3}}\n  modalities:")
    text = text.replace(
        "grid: {{modality: [rgb, flow]}}", "modality: rgb, grid: {{fold: [null, 0, 2], seed: [0, 1]}}", 1
    )
    run = fake_run.build(tmp_path, text)
    whole, folded, *_ = read_groups(run, fake_run.experiment(tmp_path, text))
    assert (whole.label, folded.label) == ("slowfast_tiny rgb", "slowfast_tiny rgb (folds 3)")
    assert [m.number for m in whole.members] == ["0", "1"]
    assert [m.number for m in folded.members] == ["0 f0", "1 f0", "0 f2", "1 f2"]
    assert "fold 2 left out" in report(run, fake_run.experiment(tmp_path, text)).read_text()


def test_a_fusion_has_one_member_a_seed_and_its_whole_result(root: Path) -> None:
    (group,) = read_fusions(RunDirectory(root), fake_run.experiment(root))
    (member,) = group.members
    assert (group.label, member.id, member.seed) == ("two-stream rgb+flow", "two-stream-s0", 0)
    assert member.result is not None
    assert list(member.result.per_class) == list(fake_run.CLASSES)


def test_a_fusion_of_other_students_than_the_experiments_is_missing(tmp_path: Path) -> None:
    run = fake_run.build(tmp_path)
    text = fake_run.EXPERIMENT.replace("[ukd, flow]", "[avg2, flow]")
    (group,) = read_fusions(run, fake_run.experiment(tmp_path, text))
    assert len(read_fusion_results(run)) == 1
    assert [m.result for m in group.members] == [None]
