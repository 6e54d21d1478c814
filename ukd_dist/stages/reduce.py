"""Logits to targets: a Ray job in which each task assembles a block of rows over all teachers.

A task reads its rows of one teacher after another and keeps running sums only, so its memory does not grow
with the number of teachers. No task reads another's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.config import Target
from ukd_dist.data.knowledge import (
    LOGITS,
    RowArray,
    common_view,
    logits_name,
    logits_path,
    open_rows,
    write_target,
)
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, UkdError
from ukd_dist.experiment import TargetMember, resolved
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.weighting import Weighting
from ukd_dist.metrics import Recorder
from ukd_dist.stages.context import Context

TARGET_FILE = "train.safetensors"


def reduce(context: Context) -> None:
    """Assemble every target that is not there.

    Raises:
        DataError: A teacher is not finished, or its logits are damaged or do not fit.
        MismatchError: Logits speak of other videos, or the teachers of a target of different views.
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
    view, assembled = _assemble(context, target, shards)
    write_target(directory / TARGET_FILE, assembled, shards.rows["train"], settings, view=view)
    manifest.commit(directory, "target", settings, inputs, [TARGET_FILE], {"teachers": list(target.teachers)})


def _teacher_digests(context: Context, target: TargetMember, shards: str) -> dict[str, str]:
    digests = {}
    members = {member.id: member for member in context.experiment.teachers}
    for teacher in target.teachers:
        settings = resolved(members[teacher].settings)
        found = manifest.finished(context.run.teacher(teacher), "teacher", settings, {"shards": shards})
        if found is None:
            raise DataError(
                f"target '{target.name}' needs teacher {teacher}, which is not finished",
                expected="every teacher of the fleet",
                action="train it with `ukd teach`, or take it out of the experiment",
            )
        digests[teacher] = found.files[logits_name("train")].sha256
    return digests


def _assemble(context: Context, target: TargetMember, shards: ShardSet) -> tuple[str, torch.Tensor]:
    """What the teachers' logits saw of each video, and the target of it."""
    rows = shards.rows["train"]
    directories = [context.run.teacher(teacher) for teacher in target.teachers]
    sources = [
        open_rows(logits_path(directory, "train"), LOGITS, rows, "train", len(shards.classes))
        for directory in directories
    ]
    view = common_view(sources)
    weighting = weighting_of(target.settings)
    step = context.experiment.cluster.reduce_rows
    labels_n = torch.from_numpy(rows.labels)
    checks = [Job(f"check-{d.name}", check_logits, (d,)) for d in directories]
    blocks = {
        f"reduce-{target.id}-{begin}": Job(
            f"reduce-{target.id}-{begin}",
            assemble_block,
            (sources, labels_n[begin : begin + step], begin, weighting),
        )
        for begin in range(0, len(rows), step)
    }
    recorder = Recorder(context.run.metrics, run=context.experiment.name, stage="reduce")
    with recorder, context.progress.bar(f"target {target.name}", len(checks) + len(blocks), "tasks") as bar:
        done: dict[str, torch.Tensor] = {}
        for jobs in (checks, list(blocks.values())):
            for outcome in context.cluster.run(jobs):
                if outcome.error is not None:
                    raise outcome.error
                if outcome.job.name in blocks:
                    done[outcome.job.name], read_bytes = outcome.value
                    recorder.count("ukd_reduce_logits_bytes_total", read_bytes)
                bar.advance()
    return view, torch.cat([done[name] for name in blocks])


def weighting_of(settings: Target) -> Weighting:
    """The method's weighting that a target's settings name."""
    return Weighting(
        method=settings.method, h=settings.h, space=settings.space, temperature=settings.temperature
    )


def check_logits(directory: Path) -> None:
    """Check a teacher's training logits against its manifest (a Ray task).

    Raises:
        DataError: They were cut off or altered.
    """
    found = manifest.read(directory)
    assert found is not None
    manifest.verify(directory, found, [logits_name("train")])


def assemble_block(
    sources: Sequence[RowArray], labels_n: torch.Tensor, begin: int, weighting: Weighting
) -> tuple[torch.Tensor, int]:
    """Assemble rows `begin` to `begin + len(labels_n)` over all teachers (a Ray task).

    Returns:
        The target, float32 of the logits' shape, each view of a row by itself, and the bytes of logits that
        were read.

    Raises:
        DataError: A teacher's logits are not finite; names its file.
    """
    torch.set_num_threads(1)
    *views, num_classes = sources[0].shape[1:]
    num_views = views[0] if views else 1
    repeated_n = labels_n.repeat_interleave(num_views)
    assembly = Assembly(weighting, len(repeated_n), num_classes, first_row=begin * num_views)
    read_bytes = 0
    for source in sources:
        logits_nc = source.read(begin, begin + len(labels_n)).reshape(-1, num_classes)
        try:
            assembly.add(logits_nc, repeated_n)
        except UkdError as error:
            raise DataError(
                f"{source.path}: {error.problem}", expected=error.expected, action=error.action
            ) from error
        read_bytes += logits_nc.numel() * logits_nc.element_size()
    return assembly.finish().reshape(len(labels_n), *views, num_classes), read_bytes
