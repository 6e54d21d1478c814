"""Test accuracy of teachers, students and two-stream fusions; the only stage that reads test labels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from ukd_dist import manifest
from ukd_dist.clip_config import Views
from ukd_dist.cluster import Job
from ukd_dist.data.knowledge import CHECKS, LOGITS, logits_path, open_finished, write_logits
from ukd_dist.data.rowarray import RowArray
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.views import CENTRE
from ukd_dist.errors import DataError
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, resolved
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import student_inputs
from ukd_dist.stages.fleet import is_quorum
from ukd_dist.stages.initial import teacher_inputs
from ukd_dist.stages.pairing import Member, Pair, pairs
from ukd_dist.stages.results import Result, Subject, member_digest, read_result, write_result, write_results
from ukd_dist.training.inference import WEIGHTS, infer, load_weights
from ukd_dist.training.setup import build_network, prepare_device


def evaluate_members(context: Context) -> list[Result]:
    """Write result.json of every member.

    Raises:
        DataError: A member is not trained.
    """
    run, views = context.run, context.experiment.evaluate.views
    shards = ShardSet(run.shards, check=False)
    members = _trained(context, shards)
    _infer_students(context)
    return [_evaluate_member(run, shards, member, views) for member in members]


def evaluate(context: Context) -> None:
    """Write result.json of every member, and what `write_results` writes of all.

    Raises:
        DataError: A member is not trained.
    """
    run, experiment = context.run, context.experiment
    results = evaluate_members(context)
    shards, there = ShardSet(run.shards, check=False), {result.id for result in results}
    results += [
        _fuse(run, shards, subject, pair)
        for subject, pair in fusions(run, experiment)
        if {member.id for member in pair} <= there
    ]
    if write_results(run, results):
        with Recorder(run.metrics, run=experiment.name, stage="evaluate") as recorder:
            for result in results:
                recorder.set("ukd_accuracy_ratio", result.top1, member=result.id, split="test")


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


def fusions(run: RunDirectory, experiment: Experiment) -> list[tuple[Subject, Pair]]:
    """Each fusion that the experiment asks for and the two members that it fuses."""
    found = []
    for name, seed, pair in pairs(experiment):
        views = dict.fromkeys(_views(member, experiment.evaluate.views).name for member in pair)
        fused = Subject(
            kind="fusion",
            id=f"{name}-s{seed}",
            name=name,
            modality="+".join(member.settings.modality for member in pair),
            seed=seed,
            of="+".join(member_digest(describe(run, member)[3]) for member in pair),
            views="+".join(views),
        )
        found.append((fused, pair))
    return found


def _views(member: Member, of_students: Views) -> Views:
    """What a member's test logits speak of."""
    return member.settings.views.evaluated if isinstance(member, TeacherMember) else of_students


def describe(run: RunDirectory, member: Member) -> tuple[str, str, str, Path]:
    """A member's kind, its name in tables, its target's name (or nothing) and its directory."""
    if isinstance(member, TeacherMember):
        fold = "" if member.settings.fold is None else f"-f{member.settings.fold}"
        return "teacher", f"{member.settings.arch}{fold}", "", run.teacher(member.id)
    return "student", member.settings.name, member.target_name, run.student(member.id)


def infer_student(root: Path, member: StudentMember, views: Views, shard_cache: Path | None = None) -> None:
    """Write a student's test logits of some views (a Ray task)."""
    run = RunDirectory(root)
    directory = run.student(member.id)
    found = manifest.read(directory)
    assert found is not None
    manifest.verify(directory, found, [WEIGHTS])
    device = prepare_device(member.settings)
    shards = open_to_decode(run.shards, shard_cache)
    model = build_network(member.settings, len(shards.classes))
    load_weights(model, directory / WEIGHTS)
    logits_nc = infer(model.to(device), shards, "test", member.settings, device, views)
    rows = shards.rows["test"]
    none = torch.zeros(len(rows), dtype=torch.bool)
    path = logits_path(directory, "test")
    checks = write_logits(path, logits_nc, rows, "test", view=views.name, trained_on=none)
    summary = {CHECKS: {path.name: checks}}
    manifest.commit(
        path.parent, "logits", logits_settings(views), {"student": found.digest()}, [path.name], summary
    )


def logits_settings(views: Views) -> dict[str, str]:
    """What the manifest of a student's test logits records: nothing of the centre, as at first."""
    return {} if views.name == CENTRE else {"views": views.name}


def _trained(context: Context, shards: ShardSet) -> list[Member]:
    """The members that are trained: all, or of teachers `teachers.quorum`.

    Raises:
        DataError: Another is not.
        MismatchError: One was trained on other shards or targets.
    """
    run, enough, found = context.run, is_quorum(context), list[Member]()
    members: list[Member] = [*context.experiment.teachers, *context.experiment.students]
    for member in members:
        kind, _, _, directory = describe(run, member)
        of = (
            student_inputs(run, member)
            if isinstance(member, StudentMember)
            else teacher_inputs(run, member, shards.digest)
        )
        if manifest.finished(directory, kind, resolved(member.settings), of):
            found.append(member)
        elif kind == "student" or not enough:
            raise DataError(
                f"{kind} {member.id} is not trained",
                expected=f"every {kind} of the experiment",
                action=f"run `ukd {'teach' if kind == 'teacher' else 'distill'}`",
            )
    return found


def _infer_students(context: Context) -> None:
    run = context.run
    jobs, views = [], context.experiment.evaluate.views
    for member in context.experiment.students:
        directory = run.student(member.id)
        inputs = {"student": member_digest(directory)}
        if not context.finished(directory / "logits", "logits", logits_settings(views), inputs):
            arguments = (run.root, member, views, context.experiment.cluster.shard_cache)
            jobs.append(Job(member.id, infer_student, arguments, member.settings.resources))
    if not jobs:
        return
    with context.progress.bar("evaluation", len(jobs), "students") as bar:
        for outcome in context.cluster.run(jobs):
            if outcome.error is not None:
                raise outcome.error
            bar.advance()


def _evaluate_member(run: RunDirectory, shards: ShardSet, member: Member, of_students: Views) -> Result:
    kind, name, target, directory = describe(run, member)
    views = _views(member, of_students).name
    known = read_result(directory)
    if known is not None and known.views == views:
        return known
    subject = Subject(
        kind=kind,
        id=member.id,
        name=name,
        modality=member.settings.modality,
        seed=member.settings.seed,
        target=target,
        of=member_digest(directory),
        views=views,
    )
    result = score(open_test_logits(directory, shards).read().float(), shards, subject)
    write_result(directory, result)
    return result


def _fuse(run: RunDirectory, shards: ShardSet, subject: Subject, pair: Pair) -> Result:
    """Late fusion: the mean of two members' probabilities."""
    logits = [open_test_logits(describe(run, member)[3], shards).read().float() for member in pair]
    probs = [logits_nc.softmax(dim=1) for logits_nc in logits]
    return score((probs[0] + probs[1]) / 2, shards, subject)


def open_test_logits(directory: Path, shards: ShardSet) -> RowArray:
    """`[rows, classes]`, checked as they are read; a student's have a manifest of their own."""
    path = logits_path(directory, "test")
    owner = path.parent if manifest.read(path.parent) else directory
    name, num_classes = str(path.relative_to(owner)), len(shards.classes)
    return open_finished(owner, name, LOGITS, shards.rows["test"], "test", num_classes)
