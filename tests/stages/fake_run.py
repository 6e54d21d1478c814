"""A run directory as the stages would leave it, with made-up figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ukd_dist import manifest
from ukd_dist.experiment import Experiment, StudentMember, TargetMember, TeacherMember, content
from ukd_dist.manifest import write_atomically
from ukd_dist.resolution import parse
from ukd_dist.rundir import HISTORY, RunDirectory, leave_error
from ukd_dist.stages.evaluate import fusions
from ukd_dist.stages.opinions import Tally, describe
from ukd_dist.stages.reduce import OPINIONS
from ukd_dist.stages.results import RESULT, Result, write_results
from ukd_dist.training.history import Epoch, write_history

CLASSES = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")

EXPERIMENT = """
name: miniature
root: {root}
data:
  source: synthetic
  modalities: [rgb, flow]
  clip: {{frames: 16, stride: 2, size: 64, short_side: [64, 80]}}
teachers:
  defaults: {{epochs: 10, lr: 0.05, dropout: 0.2}}
  fleet:
    - {{arch: slowfast_tiny, grid: {{modality: [rgb, flow]}}}}
    - {{arch: x3d_tiny, grid: {{modality: [rgb, flow]}}}}
targets:
  ukd: {{method: pkd}}
  avg2: {{method: avg, space: probs, temperature: 60}}
students:
  defaults: {{arch: slowfast_tiny, modality: rgb, epochs: 10, lr: 0.05, workers: 2}}
  runs:
    - {{name: baseline, targets: none, grid: {{seed: [0, 1, 2, 3, 4]}}}}
    - {{name: ukd, targets: ukd, temperature: 20, grid: {{seed: [0, 1, 2, 3, 4]}}}}
    - {{name: avg2, targets: avg2, grid: {{seed: [0, 1, 2]}}}}
    - {{name: flow, targets: ukd, temperature: 10, modality: flow}}
    - {{name: flow-baseline, targets: none, modality: flow}}
evaluate:
  fusion: {{two-stream: [ukd, flow]}}
"""
SKILL = {"slowfast_tiny": 0.62, "x3d_tiny": 0.5, "baseline": 0.52, "ukd": 0.6, "avg2": 0.56, "flow": 0.7}


def experiment(root: Path, text: str = EXPERIMENT) -> Experiment:
    return parse(text.format(root=root), "test", [])


def build(root: Path, text: str = EXPERIMENT, classes: Sequence[str] = CLASSES) -> RunDirectory:
    """A finished run."""
    wanted = experiment(root, text)
    run = RunDirectory(root)
    write_atomically(run.experiment, wanted.to_yaml().encode())
    shard(run, classes)
    for teacher in wanted.teachers:
        train(run.teacher(teacher.id), teacher)
    for target in wanted.targets:
        reduce(run.target(target.id), target, classes)
    for student in wanted.students:
        train(run.student(student.id), student)
    evaluate(run, wanted, classes)
    return run


def shard(run: RunDirectory, classes: Sequence[str] = CLASSES) -> None:
    run.shards.mkdir(parents=True)
    samples = {"train": 24 * len(classes), "test": 20 * len(classes)}
    counts = {"samples": samples, "rejected": {"no_frames": 2}}
    manifest.commit(run.shards, "shards", {"classes": list(classes)}, {}, [], counts)


def train(directory: Path, member: TeacherMember | StudentMember, *, epochs: int = 10) -> None:
    """Epochs of history, and the manifest once all are there."""
    directory.mkdir(parents=True)
    write_history(directory, _history(member, epochs))
    if epochs == member.settings.epochs:
        kind = "teacher" if isinstance(member, TeacherMember) else "student"
        manifest.commit(directory, kind, content(member.settings), {}, [HISTORY])


def reduce(directory: Path, target: TargetMember, classes: Sequence[str] = CLASSES) -> None:
    """A target's manifest and the opinions that it holds, but no target."""
    tally = _tally(target, len(classes))
    table = json.dumps(describe(tally, target.teachers, classes)).encode()
    write_atomically(directory / OPINIONS, table)
    settings = target.settings.model_dump(mode="json", exclude={"teachers"})
    manifest.commit(directory, "target", settings, {}, [OPINIONS])


def fail(directory: Path, message: str) -> None:
    leave_error(directory, RuntimeError(message))


def evaluate(run: RunDirectory, wanted: Experiment, classes: Sequence[str] = CLASSES) -> list[Result]:
    """result.json of every member, fusions.json and results.csv; fusions come last."""
    results = [evaluate_member(run.teacher(t.id), t, classes) for t in wanted.teachers]
    results += [evaluate_member(run.student(s.id), s, classes) for s in wanted.students]
    results += [_scored(0.75, 9, classes, **asdict(subject)) for subject, _ in fusions(run, wanted)]
    write_results(run, results)
    return results


def evaluate_member(
    directory: Path, member: TeacherMember | StudentMember, classes: Sequence[str] = CLASSES
) -> Result:
    """A finished member's result.json."""
    result = _result(directory, member, classes)
    write_atomically(directory / RESULT, json.dumps(asdict(result)).encode())
    return result


def _history(member: TeacherMember | StudentMember, epochs: int) -> list[Epoch]:
    rng = np.random.default_rng(list(member.id.encode()))
    skill, distilled = _skill(member), isinstance(member, StudentMember) and member.target is not None
    lines = []
    for epoch in range(1, epochs + 1):
        progress = 1 - math.exp(-epoch / 4)
        ce = 2.45 - 1.5 * progress * (0.6 + skill / 2) + rng.normal(0, 0.05)
        kl = 4.2 * math.exp(-epoch / 5) + 0.5 + rng.normal(0, 0.06)
        losses = {"ce": ce, "kl": kl, "total": (ce + kl) / 2} if distilled else {"ce": ce, "total": ce}
        accuracy = min(1.0, max(0.0, 0.09 + (0.2 + skill) * progress + rng.normal(0, 0.015)))
        seconds = 3.1 + rng.normal(0, 0.12) + (1.5 if epoch == 1 else 0)
        memory = int(733e6 + rng.normal(0, 3e6))
        lines.append(Epoch(epoch, losses, accuracy, 0.05, seconds, 0.4, 256, memory))
    return lines


def _tally(target: TargetMember, classes: int) -> Tally:
    """24 training clips a class; who is more often right is heard more, but where all are heard alike."""
    rng, size = np.random.default_rng(list(target.id.encode())), (len(target.teachers), classes)
    silent = rng.integers(0, 6, size) if target.settings.rows == "out_of_fold" else np.zeros(size, int)
    heard, skill = 24 - silent, rng.uniform(0.6, 0.98, size)
    spoken = heard * (skill**8 if target.settings.method == "pkd" else 1)
    parts = spoken / spoken.sum(axis=0)
    return Tally(
        rows=torch.full((classes,), 24.0, dtype=torch.float64),
        heard=torch.from_numpy(heard).double(),
        share=torch.from_numpy(24 * parts),
        correct=torch.from_numpy(rng.binomial(heard, skill)).double(),
        agree=torch.from_numpy(rng.binomial(heard, 0.5 + skill / 2)).double(),
        entropy=torch.from_numpy(heard * rng.uniform(0.2, 0.9, size)),
        weight_entropy=torch.from_numpy(-24 * (parts * np.log(parts)).sum(axis=0)),
    )


def _skill(member: TeacherMember | StudentMember) -> float:
    name = member.settings.arch if isinstance(member, TeacherMember) else member.settings.name
    return SKILL.get(name, 0.5) + (0.06 if member.settings.modality == "flow" else 0)


def _result(directory: Path, member: TeacherMember | StudentMember, classes: Sequence[str]) -> Result:
    found = manifest.read(directory)
    assert found is not None
    settings = member.settings
    student = member if isinstance(member, StudentMember) else None
    return _scored(
        _skill(member),
        int.from_bytes(member.id.encode()[-8:], "big"),
        classes,
        kind="student" if student else "teacher",
        id=member.id,
        name=student.settings.name if student else settings.arch,
        modality=settings.modality,
        seed=settings.seed,
        target=student.target.name if student and student.target else "",
        of=found.digest(),
    )


def _scored(skill: float, noise: int, classes: Sequence[str], **subject: object) -> Result:
    """20 test clips a class, of which about `skill` are right; errors go to neighbours first."""
    rng = np.random.default_rng(noise)
    confusion = []
    for i in range(len(classes)):
        away = np.abs(np.arange(len(classes)) - i)
        chances = np.where(away == 0, 0.0, 1.0 / (1 + away) ** 1.5)
        right = float(np.clip(rng.normal(skill, 0.16), 0.05, 0.98))
        chances = chances / chances.sum() * (1 - right)
        chances[i] = right
        confusion.append([int(n) for n in rng.multinomial(20, chances / chances.sum())])
    correct, clips = sum(row[i] for i, row in enumerate(confusion)), 20 * len(classes)
    per_class = {name: row[i] / 20 for i, (name, row) in enumerate(zip(classes, confusion, strict=True))}
    figures = {"top1": correct / clips, "correct": correct, "clips": clips}
    return Result(**{**subject, **figures, "per_class": per_class, "confusion": confusion})  # type: ignore[arg-type]
