"""A run directory with real shards, networks of random weights as teachers, and students of all kinds."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.stages.trained_member import telling
from ukd_dist import manifest
from ukd_dist.data.knowledge import write_target
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, resolved
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.setup import build_network

EXPERIMENT = """
name: online
root: {root}
data:
  source: synthetic
  modalities: [rgb, flow]
  clip: {{frames: 8, stride: 2, size: 32, short_side: [32, 40]}}
teachers:
  defaults: {{batch_size: 4}}
  fleet:
    - {{arch: x3d_tiny, modality: rgb, grid: {{seed: [0, 1]}}}}
    - {{arch: slowfast_tiny, modality: rgb}}
targets: {{ukd: {{method: pkd}}}}
students:
  defaults: {{arch: x3d_tiny, modality: rgb, epochs: 2, batch_size: 4, lr: 0.05, alpha: 0.25}}
  runs:
    - {{name: baseline, targets: none}}
    - {{name: ukd, targets: ukd, temperature: 20}}
    - {{name: online, targets: online, teachers: 3, temperature: 20}}
cluster: {{metrics_port: null}}
"""


def experiment(root: Path, *overrides: str) -> Experiment:
    return parse(EXPERIMENT.format(root=root), "online", list(overrides))


def student(root: Path, *overrides: str) -> StudentMember:
    """The student that keeps teachers in memory."""
    return experiment(root, *overrides).students[2]


def build(root: Path, shards: ShardSet) -> RunDirectory:
    """Shards, finished teachers, and a target of random logits."""
    run, wanted = RunDirectory(root), experiment(root)
    root.mkdir(exist_ok=True)
    run.shards.symlink_to(shards.directory)
    manifest.write_atomically(run.experiment, wanted.to_yaml().encode())
    for member in wanted.teachers:
        finish_teacher(run, member, shards)
    (target,) = wanted.targets
    directory, rows = run.target(target.id), shards.rows["train"]
    logits_nc = torch.randn((len(rows), len(shards.classes)), generator=torch.Generator().manual_seed(0))
    write_target(directory / TARGET_FILE, logits_nc, rows, {}, view="centre")
    manifest.commit(directory, "target", {}, {}, [TARGET_FILE])
    return run


def finish_teacher(run: RunDirectory, member: TeacherMember, shards: ShardSet, factor: float = 1.0) -> None:
    """A teacher's weights, its last ones times `factor`, under a manifest."""
    directory = run.teacher(member.id)
    save_weights(telling(build_network(member.settings, len(shards.classes)), factor), directory / WEIGHTS)
    manifest.commit(directory, "teacher", resolved(member.settings), {"shards": shards.digest}, [WEIGHTS])
