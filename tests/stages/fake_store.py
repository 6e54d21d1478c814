"""Shards of no videos and teachers of random logits: all that the reduction reads, at any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ukd_dist import manifest
from ukd_dist.config import Encoding
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shards import SAMPLES, Sample, ShardSet, samples_csv, shard_name, write_shard
from ukd_dist.experiment import Experiment, parse, resolved
from ukd_dist.rundir import RunDirectory

EXPERIMENT = """
name: store
root: {root}
data: {{source: synthetic}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb, clip: {{frames: 16, size: 64, short_side: [64, 80]}}}}
  fleet:
    - {{grid: {{seed: {seeds}}}}}
targets: {targets}
students:
  defaults: {{arch: slowfast_tiny, modality: rgb, clip: {{frames: 16, size: 64, short_side: [64, 80]}}}}
  runs:
    - {{name: baseline, targets: none}}
cluster: {{local_nodes: 2, cpus_per_node: 1, reduce_rows: {reduce_rows}, metrics_port: null}}
"""


@dataclass(frozen=True)
class Store:
    """A run directory that holds shards and teachers.

    Attributes:
        root: The run directory.
        logits_knc: The teachers' training logits by seed, float32 `[K, n, C]`.
        labels_n: int64 `[n]`.
    """

    root: Path
    logits_knc: Tensor
    labels_n: Tensor

    def experiment(self, targets: str, teachers: int | None = None, reduce_rows: int = 16) -> Experiment:
        """An experiment over the first so many of the teachers."""
        seeds = list(range(len(self.logits_knc) if teachers is None else teachers))
        text = EXPERIMENT.format(root=self.root, seeds=seeds, targets=targets, reduce_rows=reduce_rows)
        return parse(text, "test", [])


def build(root: Path, teachers: int, rows: int, classes: int, trained_on: Tensor | None = None) -> Store:
    """Write shards and teachers; `trained_on` bool `[K, n]`, by default everywhere."""
    generator = torch.Generator().manual_seed(0)
    logits_knc = torch.randn(teachers, rows, classes, generator=generator) * 4
    labels_n = torch.randint(classes, (rows,), generator=generator)
    store = Store(root, logits_knc, labels_n)
    shards = _shard(RunDirectory(root).shards, labels_n, classes)
    for k, member in enumerate(store.experiment("{avg: {method: avg}}").teachers):
        directory = RunDirectory(root).teacher(member.id)
        seen_n = torch.ones(rows, dtype=torch.bool) if trained_on is None else trained_on[k]
        checks = write_logits(
            logits_path(directory, "train"),
            logits_knc[k],
            shards.rows["train"],
            "train",
            view="centre",
            trained_on=seen_n,
        )
        inputs, name = {"shards": shards.digest}, logits_name("train")
        summary = {CHECKS: {name: checks}}
        manifest.commit(directory, "teacher", resolved(member.settings), inputs, [name], summary)
    return store


def _shard(directory: Path, labels_n: Tensor, num_classes: int) -> ShardSet:
    names = [f"class{c}" for c in range(num_classes)]
    samples = [
        Sample("train", row, f"video-{row:06d}", label, names[label], "1", 30, 30.0, 64, 48)
        for row, label in enumerate(labels_n.tolist())
    ]
    tar = shard_name("train", 0)
    write_shard(directory / tar, [(sample, {"rgb.webm": b"no video"}) for sample in samples])
    manifest.write_atomically(directory / SAMPLES, samples_csv(samples))
    settings = {"classes": names, "encoding": Encoding().model_dump(mode="json")}
    files = [SAMPLES, tar, Path(tar).with_suffix(".idx").name]
    counts = {"samples": {"train": len(samples), "test": 0}, "rejected": {}}
    manifest.commit(directory, "shards", settings, {}, files, counts)
    return ShardSet(directory)
