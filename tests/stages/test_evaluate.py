"""Test accuracy from stored logits, and results that are dropped once what they were made of has changed."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import small_study
from tests.finished_shards import finish
from tests.stages import fake_run
from ukd_dist import manifest
from ukd_dist.clip_config import Views
from ukd_dist.cluster import RayCluster
from ukd_dist.data.knowledge import logits_path, write_logits
from ukd_dist.data.shards import SPLITS, Sample, ShardSet
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.experiment import Experiment, resolved
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import student_inputs
from ukd_dist.stages.evaluate import describe, evaluate, logits_settings
from ukd_dist.stages.pairing import pairs
from ukd_dist.stages.results import FUSIONS, RESULT, RESULTS_CSV, read_fusions, read_result, write_results

STUDY = """
name: study
root: {root}
data: {{source: synthetic, modalities: [rgb, flow]}}
teachers: {{fleet: [{{arch: x3d_tiny, modality: rgb, epochs: 1}}]}}
students:
  defaults: {{arch: x3d_tiny, epochs: 1, targets: none}}
  runs:
    - {{name: near, modality: rgb, grid: {{seed: [0, 1]}}}}
    - {{name: far, modality: flow, grid: {{seed: [0, 1]}}}}
evaluate:
  fusion: {{both: [near, far]}}
"""
CLASSES = ("Drink", "Jump", "Pick")
LABELS = (2, 0, 1, 1, 0, 2, 2)


def shard(run: RunDirectory) -> ShardSet:
    """Shards of seven samples a split, without frames."""
    content: list[tuple[Sample, dict[str, bytes]]] = [
        (Sample(split, row, f"{split}{row}", label, CLASSES[label], "", 1, 30.0, 8, 8), {})
        for split in SPLITS
        for row, label in enumerate(LABELS)
    ]
    counts = {"samples": dict.fromkeys(SPLITS, len(LABELS)), "rejected": {}}
    return finish(run.shards, content, CLASSES, summary=counts)


def infer(directory: Path, shards: ShardSet, seed: int) -> np.ndarray:
    """Made-up test logits, as a file and as they are."""
    rows = shards.rows["test"]
    logits_nc = torch.randn(len(rows), len(CLASSES), generator=torch.Generator().manual_seed(seed)) * 2
    none = torch.zeros(len(rows), dtype=torch.bool)
    write_logits(logits_path(directory, "test"), logits_nc, rows, "test", view="centre", trained_on=none)
    return logits_nc.double().numpy()


def train(run: RunDirectory, study: Experiment, shards: ShardSet) -> dict[str, np.ndarray]:
    """Members as teaching, distilling and inference leave them; each one's test logits."""
    logits = {}
    for number, teacher in enumerate(study.teachers):
        directory = run.teacher(teacher.id)
        logits[teacher.id] = infer(directory, shards, number)
        files = [str(logits_path(directory, "test").relative_to(directory))]
        manifest.commit(directory, "teacher", resolved(teacher.settings), {"shards": shards.digest}, files)
    for number, student in enumerate(study.students):
        directory = run.student(student.id)
        logits[student.id] = infer(directory, shards, 10 + number)
        inputs = student_inputs(run, student)
        found = manifest.commit(directory, "student", resolved(student.settings), inputs, [])
        files = [logits_path(directory, "test").name]
        manifest.commit(directory / "logits", "logits", {}, {"student": found.digest()}, files)
    return logits


def context(run: RunDirectory, study: Experiment) -> Context:
    return Context(run, study, RayCluster(study.cluster, run.logs), Progress())


def test_a_teacher_of_a_fold_is_named_with_it_in_tables(tmp_path: Path) -> None:
    text = STUDY.replace("{{source:", "{{folds: {{count: 2}}, source:").replace("epochs: 1}}]", "fold: 1}}]")
    (teacher,) = fake_run.experiment(tmp_path, text).teachers
    assert describe(RunDirectory(tmp_path), teacher)[:2] == ("teacher", "x3d_tiny-f1")


def probabilities(logits_nc: np.ndarray) -> np.ndarray:
    powers = np.exp(logits_nc)
    return powers / powers.sum(axis=1, keepdims=True)


def test_every_member_and_fusion_is_scored_and_written(tmp_path: Path) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    logits = train(run, study, shard(run))

    evaluate(context(run, study))

    scores = {f"both-s{seed}": np.zeros((len(LABELS), len(CLASSES))) for seed in (0, 1)}
    for student in study.students:
        scores[f"both-s{student.settings.seed}"] += probabilities(logits[student.id]) / 2
    found = {t.id: read_result(run.teacher(t.id)) for t in study.teachers}
    found |= {s.id: read_result(run.student(s.id)) for s in study.students}
    found |= {fusion.id: fusion for fusion in read_fusions(run)}
    assert list(found) == [*logits, *scores]
    for name, scores_nc in {**logits, **scores}.items():
        result, said = found[name], scores_nc.argmax(axis=1)
        assert result is not None
        assert (result.clips, result.correct) == (len(LABELS), (said == LABELS).sum())
        expected = [[sum((said == p) & (np.array(LABELS) == c)) for p in range(3)] for c in range(3)]
        assert result.confusion == expected
        assert list(result.per_class.values()) == [row[c] / sum(row) for c, row in enumerate(expected)]
    with (run.report / RESULTS_CSV).open() as file:
        assert [(row["id"], float(row["top1"])) for row in csv.DictReader(file)] == [
            (name, result.top1) for name, result in found.items() if result
        ]


def test_members_by_id_are_fused_with_each_other_and_with_every_run_of_a_student(tmp_path: Path) -> None:
    run, plain = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    teacher, far = plain.teachers[0].id, plain.students[-1].id
    fused = f"{{{{each: [near, {teacher}], lone: [{teacher}, {far}]}}}}"
    study = fake_run.experiment(tmp_path, STUDY.replace("{{both: [near, far]}}", fused))
    logits = train(run, study, shard(run))

    evaluate(context(run, study))

    near = [student.id for student in study.students if student.settings.name == "near"]
    pairs = {"each-s0": (near[0], teacher), "each-s1": (near[1], teacher), "lone-s0": (teacher, far)}
    found = {fusion.id: fusion for fusion in read_fusions(run)}
    assert list(found) == list(pairs)
    for name, (first, second) in pairs.items():
        scores_nc = probabilities(logits[first]) + probabilities(logits[second])
        assert found[name].correct == (scores_nc.argmax(axis=1) == LABELS).sum()
    assert [found[name].modality for name in pairs] == ["rgb+rgb", "rgb+rgb", "rgb+flow"]

    manifest.commit(run.teacher(teacher), "teacher", {}, {"shards": "other"}, [])
    assert read_fusions(run) == []


def test_students_are_scored_again_once_other_views_are_evaluated(tmp_path: Path) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    shards = shard(run)
    train(run, study, shards)
    evaluate(context(run, study))
    before = read_result(run.student(study.students[0].id))
    mean = study.evaluate.model_copy(update={"views": Views(kind="mean", clips=10, crops=3)})
    several = replace(study, evaluate=mean)
    with pytest.raises(MismatchError, match=r"was made with settings.views = nothing; expected mean-10x3"):
        evaluate(context(run, several))

    logits = {}
    for number, student in enumerate(study.students):
        directory = run.student(student.id)
        made = manifest.read(directory)
        assert made is not None
        logits[student.id] = infer(directory, shards, 20 + number)
        files = [logits_path(directory, "test").name]
        inputs = {"student": made.digest()}
        manifest.commit(directory / "logits", "logits", logits_settings(mean.views), inputs, files)
    evaluate(context(run, several))

    for student in study.students:
        result = read_result(run.student(student.id))
        assert result is not None
        assert result.views == "mean-10x3"
        assert result.correct == (logits[student.id].argmax(axis=1) == LABELS).sum()
    assert [fusion.views for fusion in read_fusions(run)] == ["mean-10x3"] * 2
    teacher = read_result(run.teacher(study.teachers[0].id))
    assert (before is not None and before.views, teacher is not None and teacher.views) == (
        "centre",
        "centre",
    )


def test_what_was_evaluated_gives_the_same_files_when_evaluated_again(tmp_path: Path) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    train(run, study, shard(run))
    evaluate(context(run, study))
    before = {path: path.read_bytes() for path in (*run.report.iterdir(), *run.root.glob("*/*/result.json"))}

    evaluate(context(run, study))

    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in before} == {"results.csv", "fusions.json", "result.json"}


@pytest.mark.parametrize(("kind", "command"), [("teacher", "ukd teach"), ("student", "ukd distill")])
def test_a_member_that_is_not_trained_is_named(tmp_path: Path, kind: str, command: str) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    train(run, study, shard(run))
    member, directory = study.teachers[0].id, run.teacher(study.teachers[0].id)
    if kind == "student":
        member, directory = study.students[1].id, run.student(study.students[1].id)
    (directory / manifest.FILENAME).unlink()

    with pytest.raises(
        DataError,
        match=f"^{kind} {member} is not trained; expected every {kind} of the experiment; run `{command}`$",
    ):
        evaluate(context(run, study))


def test_a_teacher_that_is_missing_is_not_evaluated_where_enough_are_there(tmp_path: Path) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path, STUDY)
    train(run, study, shard(run))
    missing, *others = study.teachers
    (run.teacher(missing.id) / manifest.FILENAME).unlink()

    evaluate(context(run, replace(study, quorum=len(others))))

    with (run.report / RESULTS_CSV).open() as file:
        found = [row["id"] for row in csv.DictReader(file) if row["kind"] == "teacher"]
    assert found == [teacher.id for teacher in others]


def test_a_fusion_joins_teachers_by_network_and_modality_seed_by_seed() -> None:
    found = small_study.study("evaluate.fusion={two-stream: [slowfast_tiny-rgb, slowfast_tiny-flow]}")
    rgb_0, rgb_1, flow_0, flow_1, _ = found.teachers
    assert list(pairs(found)) == [("two-stream", 0, (rgb_0, flow_0)), ("two-stream", 1, (rgb_1, flow_1))]


def test_a_run_without_fusions_has_none(tmp_path: Path) -> None:
    assert read_fusions(RunDirectory(tmp_path)) == []
    text = fake_run.EXPERIMENT.partition("evaluate:")[0]
    assert read_fusions(fake_run.build(tmp_path, text)) == []


@pytest.mark.parametrize("changed", ["ukd", "flow"])
def test_a_fusion_is_dropped_once_one_of_its_students_is_made_again(tmp_path: Path, changed: str) -> None:
    run, experiment = fake_run.build(tmp_path), fake_run.experiment(tmp_path)
    student = next(s for s in experiment.students if s.settings.name == changed)
    assert [fusion.id for fusion in read_fusions(run)] == ["two-stream-s0"]

    manifest.commit(run.student(student.id), "student", resolved(student.settings), {"shards": "other"}, [])

    assert read_fusions(run) == []


def test_a_result_is_dropped_once_its_member_is_made_again(tmp_path: Path) -> None:
    run, experiment = fake_run.build(tmp_path), fake_run.experiment(tmp_path)
    teacher = experiment.teachers[0]
    assert read_result(run.teacher(teacher.id)) is not None

    manifest.commit(run.teacher(teacher.id), "teacher", resolved(teacher.settings), {"shards": "other"}, [])

    assert read_result(run.teacher(teacher.id)) is None


def test_results_are_written_once(tmp_path: Path) -> None:
    run, study = RunDirectory(tmp_path), fake_run.experiment(tmp_path)
    results = fake_run.evaluate(fake_run.build(tmp_path), study)
    assert not write_results(run, results)
    assert write_results(run, results[:-1])
    assert not write_results(run, results[:-1])


DAMAGED = {
    "empty": b"",
    "cut off": b'[{"kind": "stu',
    "no text": b"\x80\x81",
    "a number": b"5",
    "of other things": b'[{"kind": "student", "top1": 0.5}]',
    "a list of words": b'["kind"]',
}


@pytest.mark.parametrize("content", [*DAMAGED.values(), b"{}", b"[]"], ids=[*DAMAGED, "{}", "[]"])
def test_a_damaged_result_is_named(tmp_path: Path, content: bytes) -> None:
    run, teacher = fake_run.build(tmp_path), fake_run.experiment(tmp_path).teachers[0]
    path = run.teacher(teacher.id) / RESULT
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_result(run.teacher(teacher.id))
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith(f"); expected what `ukd evaluate` wrote; remove {path}")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_of_fusions_is_named(tmp_path: Path, content: bytes) -> None:
    run = fake_run.build(tmp_path)
    path = run.report / FUSIONS
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_fusions(run)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith(f"); expected what `ukd evaluate` wrote; remove {path}")
