"""Test accuracy of teachers, students and two-stream fusions; the only stage that reads test labels."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.data.knowledge import LOGITS, logits_path, open_rows, write_logits
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.views import CENTRE
from ukd_dist.errors import DataError
from ukd_dist.experiment import StudentMember, TeacherMember, content
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import student_inputs
from ukd_dist.training.inference import WEIGHTS, infer, load_weights
from ukd_dist.training.setup import build_network, prepare_device

RESULT = "result.json"
RESULTS_CSV = "results.csv"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated.

    Attributes:
        kind: teacher, student or fusion.
        id: Member id, or the fusion's name and seed.
        name: Name in tables.
        modality: Modality; of a fusion both.
        seed: Seed of the training.
        target: Name of a student's target, or empty.
        of: Digest of what was evaluated.
    """

    kind: str
    id: str
    name: str
    modality: str
    seed: int
    target: str = ""
    of: str


@dataclass(frozen=True, kw_only=True)
class Result(Subject):
    """Accuracy on the test rows.

    Attributes:
        top1: Share of test clips whose largest score is the label's.
        correct: Their number.
        clips: Test clips.
        per_class: Class name -> top-1 of its clips, or None where it has none.
        confusion: Rows are labels, columns predictions.
    """

    top1: float
    correct: int
    clips: int
    per_class: dict[str, float | None]
    confusion: list[list[int]]


def evaluate(context: Context) -> None:
    """Write result.json of every member, and report/results.csv.

    Raises:
        DataError: A member is not trained.
    """
    run, experiment = context.run, context.experiment
    shards = ShardSet(run.shards, check=False)
    _infer_students(context)
    results = [
        *(_evaluate_member(run.teacher(t.id), shards, _teacher(run, t)) for t in experiment.teachers),
        *(_evaluate_member(run.student(s.id), shards, _student(run, s)) for s in experiment.students),
        *_fusions(context, shards),
    ]
    with Recorder(run.metrics, run=experiment.name, stage="evaluate") as recorder:
        for result in results:
            recorder.set("ukd_accuracy_ratio", result.top1, member=result.id, split="test")
    manifest.write_atomically(run.report / RESULTS_CSV, _csv(results))


def read_result(directory: Path) -> Result | None:
    """A member's result, or None where it has not been evaluated since it was made."""
    path = directory / RESULT
    found = manifest.read(directory)
    if found is None or not path.is_file():
        return None
    result = Result(**json.loads(path.read_text()))
    return result if result.of == found.digest() else None


def infer_student(root: Path, member: StudentMember) -> None:
    """Write a student's test logits (a Ray task)."""
    run = RunDirectory(root)
    directory = run.student(member.id)
    found = manifest.read(directory)
    assert found is not None
    manifest.verify(directory, found, [WEIGHTS])
    device = prepare_device(member.settings)
    shards = ShardSet(run.shards)
    model = build_network(member.settings, len(shards.classes))
    load_weights(model, directory / WEIGHTS)
    logits_nc = infer(model.to(device), shards, "test", member.settings, device)
    rows = shards.rows["test"]
    none = torch.zeros(len(rows), dtype=torch.bool)
    path = logits_path(directory, "test")
    write_logits(path, logits_nc, rows, "test", view=CENTRE, trained_on=none)
    manifest.commit(path.parent, "logits", {}, {"student": found.digest()}, [path.name])


def _infer_students(context: Context) -> None:
    run = context.run
    jobs = []
    for member in context.experiment.students:
        directory = run.student(member.id)
        if not context.finished(directory, "student", content(member.settings), student_inputs(run, member)):
            raise DataError(f"student {member.id} is not trained", action="train it with `ukd distill`")
        inputs = {"student": _digest(directory, "student", "ukd distill")}
        if not context.finished(directory / "logits", "logits", {}, inputs):
            jobs.append(Job(member.id, infer_student, (run.root, member), member.settings.resources))
    if not jobs:
        return
    with context.progress.bar("evaluation", len(jobs), "students") as bar:
        for outcome in context.cluster.run(jobs):
            if outcome.error is not None:
                raise outcome.error
            bar.advance()


def _teacher(run: RunDirectory, member: TeacherMember) -> Subject:
    settings, of = member.settings, _digest(run.teacher(member.id), "teacher", "ukd teach")
    return Subject(
        kind="teacher",
        id=member.id,
        name=settings.arch,
        modality=settings.modality,
        seed=settings.seed,
        of=of,
    )


def _student(run: RunDirectory, member: StudentMember) -> Subject:
    settings, of = member.settings, _digest(run.student(member.id), "student", "ukd distill")
    return Subject(
        kind="student",
        id=member.id,
        name=settings.name,
        modality=settings.modality,
        seed=settings.seed,
        target=member.target.name if member.target else "",
        of=of,
    )


def _digest(directory: Path, kind: str, command: str) -> str:
    found = manifest.read(directory)
    if found is None:
        raise DataError(f"{kind} {directory.name} is not trained", action=f"train it with `{command}`")
    return found.digest()


def _evaluate_member(directory: Path, shards: ShardSet, subject: Subject) -> Result:
    known = read_result(directory)
    if known is not None:
        return known
    result = score(_test_logits(directory, shards), shards, subject)
    manifest.write_atomically(directory / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def score(scores_nc: torch.Tensor, shards: ShardSet, subject: Subject) -> Result:
    """Compare the largest of each row's scores `[rows, classes]` with the test labels."""
    labels_n = torch.from_numpy(shards.rows["test"].labels)
    num_classes = len(shards.classes)
    pairs = labels_n * num_classes + scores_nc.argmax(dim=1)
    confusion = torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    correct, clips = int(confusion.trace()), len(labels_n)
    per_class = {
        name: float(row[i]) / int(row.sum()) if row.sum() else None
        for i, (name, row) in enumerate(zip(shards.classes, confusion, strict=True))
    }
    return Result(
        **asdict(subject),
        top1=correct / clips,
        correct=correct,
        clips=clips,
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def _fusions(context: Context, shards: ShardSet) -> list[Result]:
    """Two-stream late fusion: the mean of two students' probabilities, paired by seed."""
    students = {(s.settings.name, s.settings.seed): s for s in context.experiment.students}
    results = []
    for name, (first, second) in context.experiment.evaluate.fusion.items():
        for seed in sorted(
            {seed for named, seed in students if named == first and (second, seed) in students}
        ):
            pair = students[first, seed], students[second, seed]
            probs = [_test_logits(context.run.student(s.id), shards).softmax(dim=1) for s in pair]
            subject = Subject(
                kind="fusion",
                id=f"{name}-s{seed}",
                name=name,
                modality="+".join(s.settings.modality for s in pair),
                seed=seed,
                of="+".join(s.id for s in pair),
            )
            results.append(score((probs[0] + probs[1]) / 2, shards, subject))
    return results


def _test_logits(directory: Path, shards: ShardSet) -> torch.Tensor:
    rows = shards.rows["test"]
    _check_logits(directory)
    return open_rows(logits_path(directory, "test"), LOGITS, rows, "test", len(shards.classes)).read().float()


def _check_logits(directory: Path) -> None:
    """Check test logits against their manifest: a student's have one of their own, written by evaluation."""
    logits = logits_path(directory, "test")
    for owner in (logits.parent, directory):
        found = manifest.read(owner)
        if found is not None:
            manifest.verify(owner, found, [str(logits.relative_to(owner))])
            return


def _csv(results: list[Result]) -> bytes:
    columns = ["kind", "id", "name", "modality", "seed", "target", "top1", "correct", "clips"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows: list[dict[str, Any]] = [asdict(result) for result in results]
    writer.writerows(rows)
    return text.getvalue().encode()
