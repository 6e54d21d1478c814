"""Finished members that no training made: networks of random weights, over real shards."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ukd_dist import manifest
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import StudentMember, TeacherMember, resolved
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Teacher

EXPERIMENT = """
name: trained
root: {root}
data:
  source: synthetic
  modalities: [rgb, flow]
  clip: {{frames: 8, stride: 2, size: 32, short_side: [32, 40]}}
  views: {{kind: mean, clips: 2, crops: 3}}
teachers:
  defaults: {{arch: x3d_tiny, batch_size: 4}}
  fleet: [{{modality: rgb}}]
students:
  defaults: {{targets: none, batch_size: 3}}
  runs:
    - {{name: rgb, arch: slowfast_tiny, modality: rgb}}
    - {{name: flow, arch: x3d_tiny, modality: flow}}
"""


def build(root: Path, shards: ShardSet) -> tuple[RunDirectory, list[TeacherMember | StudentMember]]:
    """A run with the shards and three members: a teacher, a student of rgb and one of flow."""
    run = RunDirectory(root)
    root.mkdir(exist_ok=True)
    run.shards.symlink_to(shards.directory)
    experiment = parse(EXPERIMENT.format(root=root), "trained", [])
    manifest.write_atomically(run.experiment, experiment.to_yaml().encode())
    members = [*experiment.teachers, *experiment.students]
    for member in members:
        kind = "teacher" if isinstance(member.settings, Teacher) else "student"
        directory = root / f"{kind}s" / member.id
        save_weights(telling(build_network(member.settings, len(shards.classes))), directory / WEIGHTS)
        manifest.commit(directory, kind, resolved(member.settings), {"shards": shards.digest}, [WEIGHTS])
    return run, members


def telling(model: nn.Module, factor: float = 1.0) -> nn.Module:
    """With weights that are larger than initial ones, so that videos get logits that differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) / 10)
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(100 * factor)
    return model
