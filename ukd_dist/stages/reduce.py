"""Logits to targets: a Ray job in which each task assembles a block of rows over all teachers.

A task reads its rows of one teacher after another and keeps running sums only, so its memory does not grow
with the number of teachers. No task reads another's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.config import Target
from ukd_dist.data.knowledge import CHECKS, LOGITS, logits_name, open_finished, write_target
from ukd_dist.data.rowarray import ROWS_PER_CHECK, RowArray
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, UkdError
from ukd_dist.experiment import TargetMember, resolved
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.weighting import Weighting
from ukd_dist.metrics import Recorder
from ukd_dist.stages.context import Context
from ukd_dist.stages.imports import read_imported

TARGET_FILE = "train.safetensors"


def reduce(context: Context) -> None:
    """Assemble every target that is not there.

    Raises:
        DataError: A teacher is not finished, or its logits are damaged or do not fit.
        MismatchError: Logits speak of other videos.
    """
    for target in context.experiment.targets:
        _reduce_one(context, target)


def _reduce_one(context: Context, target: TargetMember) -> None:
    shards = ShardSet(context.run.shards, check=False)
    directory = context.run.target(target.id)
    inputs = {"shards": shards.digest, **_teacher_digests(context, target, shards.digest)}
    settings = target.settings.model_dump(mode="json")
    if context.finished(directory, "target", settings, inputs):
        return
    target_nc = _assemble(context, target, shards)
    checks = write_target(directory / TARGET_FILE, target_nc, shards.rows["train"], settings)
    summary = {"teachers": list(target.teachers), CHECKS: {TARGET_FILE: checks}}
    manifest.commit(directory, "target", settings, inputs, [TARGET_FILE], summary)


def _teacher_digests(context: Context, target: TargetMember, shards: str) -> dict[str, str]:
    digests = {}
    members = {member.id: member for member in context.experiment.teachers}
    for teacher in target.teachers:
        directory, way = context.run.teacher(teacher), "train it with `ukd teach`"
        if teacher in members:
            settings = resolved(members[teacher].settings)
            found = manifest.finished(directory, "teacher", settings, {"shards": shards})
        else:
            found, way = read_imported(directory, shards), "bring it in with `ukd logits import`"
        if found is None:
            raise DataError(
                f"target '{target.name}' needs teacher {teacher}, which is not finished",
                expected="every teacher of the experiment",
                action=f"{way}, or take it out of the experiment",
            )
        digests[teacher] = found.files[logits_name("train")].sha256
    return digests


def _assemble(context: Context, target: TargetMember, shards: ShardSet) -> torch.Tensor:
    rows = shards.rows["train"]
    name, num_classes = logits_name("train"), len(shards.classes)
    sources = [
        open_finished(context.run.teacher(teacher), name, LOGITS, rows, "train", num_classes)
        for teacher in target.teachers
    ]
    weighting = weighting_of(target.settings)
    step = whole_checks(context.experiment.cluster.reduce_rows)
    labels_n = torch.from_numpy(rows.labels)
    blocks = {
        f"reduce-{target.id}-{begin}": Job(
            f"reduce-{target.id}-{begin}",
            assemble_block,
            (sources, labels_n[begin : begin + step], begin, weighting),
        )
        for begin in range(0, len(rows), step)
    }
    recorder = Recorder(context.run.metrics, run=context.experiment.name, stage="reduce")
    with recorder, context.progress.bar(f"target {target.name}", len(blocks), "tasks") as bar:
        done: dict[str, torch.Tensor] = {}
        for outcome in context.cluster.run(list(blocks.values())):
            if outcome.error is not None:
                raise outcome.error
            done[outcome.job.name], read_bytes = outcome.value
            recorder.count("ukd_reduce_logits_bytes_total", read_bytes)
            bar.advance()
    return torch.cat([done[name] for name in blocks])


def weighting_of(settings: Target) -> Weighting:
    """The method's weighting that a target's settings name."""
    return Weighting(
        method=settings.method, h=settings.h, space=settings.space, temperature=settings.temperature
    )


def whole_checks(num_rows: int) -> int:
    """Rows a task in whole checked blocks, so that no byte is read twice; less than one block stays."""
    return num_rows - num_rows % ROWS_PER_CHECK or num_rows


def assemble_block(
    sources: Sequence[RowArray], labels_n: torch.Tensor, begin: int, weighting: Weighting
) -> tuple[torch.Tensor, int]:
    """Assemble rows `begin` to `begin + len(labels_n)` over all teachers (a Ray task).

    Returns:
        The target, float32 `[rows, classes]`, and the bytes of logits that were read.

    Raises:
        DataError: A teacher's logits are not finite, or were altered; names its file.
    """
    torch.set_num_threads(1)
    assembly = Assembly(weighting, len(labels_n), sources[0].shape[1], first_row=begin)
    read_bytes = 0
    for source in sources:
        end = begin + len(labels_n)
        logits_nc = source.read(begin, end)
        covers_n = source.covers.read(begin, end) if source.covers else None
        try:
            assembly.add(logits_nc, labels_n, covers_n)
        except UkdError as error:
            raise DataError(
                f"{source.path}: {error.problem}", expected=error.expected, action=error.action
            ) from error
        read_bytes += logits_nc.numel() * logits_nc.element_size()
    return assembly.finish(), read_bytes
