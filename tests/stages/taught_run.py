"""A run directory with real shards and teachers that were really trained, though not for long."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from tests.finished_shards import finish
from tests.stages import attempted
from ukd_dist import manifest
from ukd_dist.data.knowledge import LOGITS, logits_path
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.evaluate import score
from ukd_dist.stages.results import RESULT, Subject

EPOCHS = 3
SPLITS: tuple[SplitName, ...] = ("train", "test")
EXPERIMENT = """
name: taught
root: {root}
data:
  source: synthetic
  clip: {{frames: 8, stride: 2, size: 32, short_side: [32, 40]}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb, epochs: {epochs}, batch_size: 4}}
  fleet:
    - {{grid: {{seed: [0, 1]}}}}
    - {{views: {{kind: mean, clips: 2}}}}
    - {{views: {{kind: random, clips: 3}}}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none, epochs: 1}}]}}
cluster: {{metrics_port: null}}
"""


def experiment(root: Path, *overrides: str) -> Experiment:
    return parse(EXPERIMENT.format(root=root, epochs=EPOCHS), "taught", list(overrides))


def build(root: Path, shards: ShardSet) -> Experiment:
    """The eight training and four test videos of other shards, and four teachers of them."""
    run, wanted = RunDirectory(root), experiment(root)
    content = []
    for split in SPLITS:
        for row, frames in enumerate(shards.rows[split].frames.tolist()):
            sample = Sample(
                split, row, f"{split}{row}", row % 2, ("Run", "Sit")[row % 2], "", frames, 30.0, 84, 64
            )
            content.append((sample, {"rgb.mp4": shards.read(split, row, "rgb.mp4").tobytes()}))
    finish(run.shards, content, ("Run", "Sit"), encoding=shards.encoding)
    manifest.write_atomically(run.experiment, wanted.to_yaml().encode())
    for member in wanted.teachers:
        attempted.train(wanted, member)
        _evaluate(run, member)
    return wanted


def _evaluate(run: RunDirectory, member: TeacherMember) -> None:
    directory, settings = run.teacher(member.id), member.settings
    found = manifest.read(directory)
    assert found is not None
    subject = Subject(
        kind="teacher",
        id=member.id,
        name=settings.arch,
        modality=settings.modality,
        seed=settings.seed,
        of=found.digest(),
    )
    result = score(load_file(logits_path(directory, "test"))[LOGITS], ShardSet(run.shards), subject)
    manifest.write_atomically(directory / RESULT, json.dumps(asdict(result), indent=1).encode())
