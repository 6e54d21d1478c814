"""A run directory with real tables of samples and no videos: enough for whatever speaks of rows alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.finished_shards import finish
from ukd_dist import manifest
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import REJECTS, RunDirectory

CLASSES = ("Walk", "Wave", "Jump")
TRAIN = [f"{name}_1_{n}" for n in range(4) for name in CLASSES]
TEST = [f"{name}_2_{n}" for n in range(2) for name in CLASSES]
REJECTED = "Walk_3_0"

EXPERIMENT = """
name: small
root: {root}
data: {{source: synthetic}}
teachers:
  fleet: [{{arch: x3d_tiny, modality: rgb, epochs: 1}}]
  imported: [theirs]
targets: {{ukd: {{method: pkd}}}}
students:
  runs: [{{name: ukd, arch: x3d_tiny, modality: rgb, epochs: 1, targets: ukd, temperature: 20}}]
cluster: {{metrics_port: null}}
"""


KEYS: dict[SplitName, list[str]] = {"train": TRAIN, "test": TEST}


def experiment(root: Path, *overrides: str) -> Experiment:
    return parse(EXPERIMENT.format(root=root), "small", list(overrides))


def build(root: Path, *, prefix: str = "") -> RunDirectory:
    """Shards of 12 training and 6 test samples, and one rejected; `prefix` makes other videos."""
    run = RunDirectory(root)
    content: list[tuple[Sample, dict[str, bytes]]] = [
        (Sample(split, row, prefix + key, row % 3, CLASSES[row % 3], "1", 30, 30.0, 64, 48), {})
        for split, keys in KEYS.items()
        for row, key in enumerate(keys)
    ]
    manifest.write_atomically(run.experiment, experiment(root).to_yaml().encode())
    rejected = json.dumps({"key": REJECTED, "reason": "no_frames"}) + "\n"
    manifest.write_atomically(run.shards / REJECTS, rejected.encode())
    summary = {"samples": {"train": len(TRAIN), "test": len(TEST)}, "rejected": {"no_frames": 1}}
    finish(run.shards, content, CLASSES, files=[REJECTS], summary=summary)
    return run


def shards(run: RunDirectory) -> ShardSet:
    return ShardSet(run.shards)
