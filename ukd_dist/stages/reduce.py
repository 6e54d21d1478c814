"""Logits to targets: a Ray job in which each task assembles a block of rows over all teachers.

A task reads its rows of one teacher after another and keeps running sums only, so its memory does not grow
with the number of teachers, and no task reads another's rows. Blocks are written as they are done: a lost
worker, node or coordinator costs the blocks in hand. The sums stay beside the target, so that a target of a
teacher more or less reads that teacher alone.
"""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from typing import Any

import torch

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.data.knowledge import (
    CHECKS,
    MEAN_ENTROPY,
    TARGET,
    common_view,
    logits_name,
    write_target,
)
from ukd_dist.data.rowarray import ROWS_PER_CHECK, Checks
from ukd_dist.data.shards import Rows, ShardSet
from ukd_dist.data.sums import SUMS, drop_unnamed, find_sums, read_sums
from ukd_dist.errors import DataError
from ukd_dist.experiment import TargetMember, digest
from ukd_dist.method.weighting import Weighting
from ukd_dist.metrics import Recorder
from ukd_dist.stages.bases import nearest_base
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble_block, divide
from ukd_dist.stages.context import Context
from ukd_dist.stages.fleet import finished_teachers, open_opinions
from ukd_dist.stages.opinions import Tally, chosen_blocks, describe, tally_block
from ukd_dist.target_config import Combination

TARGET_FILE = "train.safetensors"
OPINIONS = "opinions.json"
_BLOCK_ELEMENTS = 2**19


def reduce(context: Context) -> None:
    """Assemble every target that is not there.

    Raises:
        DataError: A teacher is not finished, or its logits are damaged or do not fit.
        MismatchError: Logits speak of other videos, or the teachers of a target of different views.
    """
    shards = ShardSet(context.run.shards, check=False)
    for target in context.experiment.targets:
        _reduce_one(context, target, shards)


def weighting_of(settings: Combination) -> Weighting:
    """The method's weighting that a target's settings name."""
    return Weighting(
        method=settings.method,
        h=settings.h,
        floor=settings.floor,
        space=settings.space,
        temperature=settings.temperature,
    )


def _reduce_one(context: Context, target: TargetMember, shards: ShardSet) -> None:
    directory = context.run.target(target.id)
    whose = f"target '{target.name}'"
    found = finished_teachers(context, target.teachers, whose, shards.digest, some=True)
    teachers = tuple(found)  # those that are there
    digests = {teacher: taught.files[logits_name("train")].sha256 for teacher, taught in found.items()}
    inputs = {"shards": shards.digest, **digests}
    # Not the selection: two that choose the same teachers are one target.
    settings = target.settings.model_dump(mode="json", exclude={"teachers"})
    if context.finished(directory, "target", settings, inputs):
        drop_unnamed(directory)  # where a kill came between the commit and this
        return
    opened = functools.partial(
        open_opinions, context.run, shards=shards, out_of_fold=target.settings.rows == "out_of_fold"
    )
    everyone = opened(teachers)
    _check_taught(target, everyone, shards.rows["train"])
    view, num_views = common_view([opinion.logits for opinion in everyone]), everyone[0].num_views
    missing = [teacher for teacher in target.teachers if teacher not in found]
    if missing:
        context.progress.say(f"target {target.name} is made without {', '.join(missing)}")
    weighting = weighting_of(target.settings)
    # Of a weighting that compares, another target has no use for the sums.
    keep = context.experiment.cluster.keep_sums and not weighting.compares
    row_elements = len(shards.classes) * num_views
    rows_per_block = rows_of_a_block(context.experiment.cluster.reduce_rows, row_elements)
    begins = range(0, len(shards.rows["train"]), rows_per_block)
    base = None if weighting.compares else nearest_base(context.run, settings, inputs, begins)
    heard = dict(zip(teachers, everyone, strict=True))
    work = Work(
        weighting=weighting,
        num_classes=len(shards.classes),
        num_views=num_views,
        add=tuple(heard[teacher] for teacher in base.add) if base else everyone,
        remove=opened(tuple(base.remove) if base else ()),
        sums=directory / SUMS,
        digest=digest(settings, inputs, rows_per_block, keep),
        keep=keep,
    )
    labels_n = torch.from_numpy(shards.rows["train"].labels)
    blocks = divide(labels_n, begins, base.sums if base else {})
    sums, tally = _run(context, target, work, blocks, everyone)
    shape = everyone[0].logits.shape
    checks = _write(directory, shards, settings, [sums[begin] for begin in begins], view, shape)
    table = describe(tally, teachers, shards.classes)
    manifest.write_atomically(directory / OPINIONS, json.dumps(table, indent=1).encode())
    kept = [f"{SUMS}/{path.name}" for path in sums.values()] if keep else []
    summary = {
        "teachers": list(teachers),
        **({"missing": missing} if missing else {}),
        "base": base.target if base else None,
        CHECKS: {TARGET_FILE: checks},
    }
    manifest.commit(directory, "target", settings, inputs, [TARGET_FILE, OPINIONS, *kept], summary)
    drop_unnamed(directory)


def _run(
    context: Context, target: TargetMember, work: Work, blocks: list[Block], everyone: tuple[Opinion, ...]
) -> tuple[dict[int, Path], Tally]:
    """Assemble the blocks that are not there, then compare the teachers with the result."""
    sums = {b.begin: path for b in blocks if (path := find_sums(work.sums, b.begin, work.digest))}
    chosen = chosen_blocks(blocks)
    recorder = Recorder(context.run.metrics, run=context.experiment.name, stage="reduce")
    with (
        recorder,
        context.progress.bar(f"target {target.name}", len(blocks) + len(chosen), "blocks") as bar,
    ):
        bar.update(len(sums))
        jobs = [
            Job(f"reduce-{target.id}-{b.begin}", assemble_block, (work, b))
            for b in blocks
            if b.begin not in sums
        ]
        for begin, path, read_bytes in context.values(jobs, bar):
            sums[begin] = path
            recorder.count("ukd_reduce_logits_bytes_total", read_bytes)
            recorder.write()
        jobs = [
            Job(f"compare-{target.id}-{b.begin}", tally_block, (everyone, work, sums[b.begin], b))
            for b in chosen
        ]
        tally = functools.reduce(operator.add, context.values(jobs, bar))
    return sums, tally


def _write(
    directory: Path,
    shards: ShardSet,
    settings: dict[str, Any],
    sums: list[Path],
    view: str,
    shape: tuple[int, ...],
) -> Checks:
    """Join the blocks to a target of the shape of the teachers' logits."""
    wholes = {TARGET: shape, MEAN_ENTROPY: shape[:-1]}
    # Not the sums, which are several times as large.
    blocks = [{n: tensor for n, tensor in read_sums(path).items() if n in wholes} for path in sums]
    named = {
        name: torch.cat([block[name] for block in blocks]).reshape(whole)
        for name, whole in wholes.items()
        if name in blocks[0]
    }
    return write_target(
        directory / TARGET_FILE,
        named[TARGET],
        shards.rows["train"],
        settings,
        view=view,
        mean_entropies=named.get(MEAN_ENTROPY),
    )


def _check_taught(target: TargetMember, everyone: tuple[Opinion, ...], rows: Rows) -> None:
    """Refuse rows on which nobody is heard, before anything is assembled."""
    heard_n = torch.zeros(len(rows), dtype=torch.bool)
    for opinion in everyone:
        heard_n |= opinion.heard(0, len(rows))
    untaught = [rows.keys[n] for n in (~heard_n).nonzero().squeeze(1).tolist()]
    if untaught:
        first = ", ".join(untaught[:5]) + (", ..." if len(untaught) > 5 else "")
        raise DataError(
            f"target '{target.name}' has no teacher for {len(untaught)} of {len(rows)} videos: {first}",
            expected="for each video a teacher that speaks of it"
            + (" and was not trained on it" if target.settings.rows == "out_of_fold" else ""),
            action="add teachers of the folds that are missing, or that speak of these videos",
        )


def rows_of_a_block(wanted: int | None, row_elements: int) -> int:
    """Rows a task: in whole checked blocks, so that no byte is read twice; less than one block stays.

    By default as many as keep a block's sums (16 bytes an element: a class of a view) within 8 MiB, which a
    core's caches hold, but a checked block at least.
    """
    if wanted is None:
        wanted = min(max(_BLOCK_ELEMENTS // row_elements, ROWS_PER_CHECK), 8 * ROWS_PER_CHECK)
    return wanted - wanted % ROWS_PER_CHECK or wanted
