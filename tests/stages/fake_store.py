"""Shards of no videos and teachers of random logits: all that the reduction reads, at any size."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tests.finished_shards import finish
from ukd_dist import manifest
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.experiment import Experiment, TeacherMember, resolved
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory

EXPERIMENT = """
name: store
root: {root}
data: {{source: synthetic, folds: {folds}}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb, clip: {{frames: 16, size: 64, short_side: [64, 80]}}}}
  fleet: {fleet}
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
        validation_kmc: As `logits_knc`, of the validation rows.
        validation_labels_m: int64 `[m]`.
        folds: Whether the k-th teacher leaves out the k-th fold; else they differ by their seed alone.
    """

    root: Path
    logits_knc: Tensor
    labels_n: Tensor
    validation_kmc: Tensor = field(default_factory=lambda: torch.empty(0))
    validation_labels_m: Tensor = field(default_factory=lambda: torch.empty(0))
    folds: bool = False

    def experiment(self, targets: str, teachers: int | None = None, reduce_rows: int = 16) -> Experiment:
        """An experiment over the first so many of the teachers."""
        every = len(self.logits_knc)
        numbers = range(every if teachers is None else teachers)
        text = EXPERIMENT.format(
            root=self.root,
            folds=f"{{count: {every}}}" if self.folds else "null",
            fleet=[{"seed": k, "fold": k} if self.folds else {"seed": k} for k in numbers],
            targets=targets,
            reduce_rows=reduce_rows,
        )
        return parse(text, "test", [])


def build(
    root: Path,
    teachers: int,
    rows: int,
    classes: int,
    trained_on: Tensor | None = None,
    validation: int = 0,
) -> Store:
    """Write shards and teachers; `trained_on`, bool `[K, n]`, makes them of folds; by default everywhere."""
    generator = torch.Generator().manual_seed(0)
    logits_knc = torch.randn(teachers, rows, classes, generator=generator) * 4
    labels_n = torch.randint(classes, (rows,), generator=generator)
    validation_kmc = torch.randn(teachers, validation, classes, generator=generator) * 4
    validation_labels_m = torch.randint(classes, (validation,), generator=generator)
    folds = trained_on is not None
    store = Store(root, logits_knc, labels_n, validation_kmc, validation_labels_m, folds)
    shards = _shard(
        RunDirectory(root).shards, {"train": labels_n, "validation": validation_labels_m}, classes
    )
    for k, member in enumerate(store.experiment("{avg: {method: avg}}").teachers):
        seen_n = torch.ones(rows, dtype=torch.bool) if trained_on is None else trained_on[k]
        said: dict[SplitName, tuple[Tensor, Tensor]] = {"train": (logits_knc[k], seen_n)}
        if validation:
            said["validation"] = validation_kmc[k], torch.zeros(validation, dtype=torch.bool)
        teach(RunDirectory(root).teacher(member.id), member, shards, said)
    return store


def teach(
    directory: Path, member: TeacherMember, shards: ShardSet, said: dict[SplitName, tuple[Tensor, Tensor]]
) -> None:
    """Write a finished teacher: of each split its logits, and which rows it was trained on."""
    checks = {
        logits_name(split): write_logits(
            logits_path(directory, split), logits, shards.rows[split], split, view="centre", trained_on=seen_n
        )
        for split, (logits, seen_n) in said.items()
    }
    inputs, settings = {"shards": shards.digest}, resolved(member.settings)
    manifest.commit(directory, "teacher", settings, inputs, checks, {CHECKS: checks})


def _shard(directory: Path, labels: dict[SplitName, Tensor], num_classes: int) -> ShardSet:
    names = [f"class{c}" for c in range(num_classes)]
    samples = [
        Sample(split, row, f"{split}-{row:06d}", label, names[label], "1", 30, 30.0, 64, 48)
        for split, labels_n in labels.items()
        for row, label in enumerate(labels_n.tolist())
    ]
    counts = {split: len(labels_n) for split, labels_n in labels.items() if len(labels_n)}
    summary = {"samples": counts | {"test": 0}, "rejected": {}}
    return finish(directory, [(s, {"rgb.webm": b"no video"}) for s in samples], names, summary=summary)
