"""The offline study: how good a target each method, h, temperature and space would give, without a student.

Targets are scored as predictions on the validation rows, which no teacher was trained on. Weights that are
made of labels are not to be had there: each teacher's mean weight on the training rows takes their place,
which is ours. The same figures on the training rows are marked as in-sample, or out-of-fold. Left out: what
a student makes of a target, and what that costs as the number of teachers grows.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace

import torch

from ukd_dist.cluster import Job
from ukd_dist.data.knowledge import common_view, logits_name
from ukd_dist.data.rowarray import ROWS_PER_CHECK
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.blocks import Block, Opinion
from ukd_dist.stages.context import Context
from ukd_dist.stages.fleet import finished_teachers, open_opinions
from ukd_dist.stages.reduce import rows_of_a_block
from ukd_dist.stages.studied import Scope, Score, Study, arrange, binding, read_study, selection, write_study
from ukd_dist.stages.sweep import MeanWeights, Mixture, Swept, labelled, score_block

VALIDATION, IN_SAMPLE, OUT_OF_FOLD = "validation", "in-sample", "out-of-fold"
FROM_LABELS, FROM_TRAINING, LABEL_FREE = "labels", "mean training weights (ours)", "label-free"


def study(context: Context, scope: Scope) -> Study:
    """Score every method, h, temperature and space of the scope, unless that is done, and write the result.

    Raises:
        UsageError: The scope asks for what there is not, such as validation rows.
        DataError: A teacher is not finished, or its logits are damaged, do not fit, or are no honest ones.
        MismatchError: Logits speak of other videos, or teachers of different views.
    """
    run = context.run
    shards = ShardSet(run.shards, check=False)
    teachers, target = selection(context.experiment, scope)
    mixtures = mixtures_of(scope)
    _check_scope(scope, mixtures, teachers, shards)
    finished_teachers(context, teachers, "the study", shards.digest)
    known = read_study(run, context.experiment)
    if known is not None and known.scope == scope:
        return known
    # Opened first: what is wrong with these rows is said before minutes of work on the others.
    judged = () if scope.in_sample else _open_validation(context, teachers, shards)
    opinions = open_opinions(run, teachers, shards, out_of_fold=True)
    if not (target.settings.rows == "out_of_fold" if target else _all_out_of_fold(opinions, shards)):
        opinions = open_opinions(run, teachers, shards)
    common_view([opinion.logits for opinion in opinions])
    taught = _sweep(context, shards, "train", opinions, mixtures)
    rows = OUT_OF_FOLD if opinions[0].out_of_fold else IN_SAMPLE
    scores = _scores(mixtures, taught, rows, len(teachers))
    if not scope.in_sample:
        unlabelled = without_labels(mixtures, taught.weights)
        found = _sweep(context, shards, "validation", judged, unlabelled)
        scores = [*_scores(unlabelled, found, VALIDATION, len(teachers)), *scores]
    of = binding(run, context.experiment, scope)
    assert of is not None
    done = Study(scope, of, arrange(scope, scores))
    write_study(run, done)
    return done


def mixtures_of(scope: Scope) -> list[Mixture]:
    """The sums that have to be made: h matters to `pkd` alone, and a sum of logits serves every tau."""
    mixtures = []
    for method in scope.methods:
        for h in scope.h if method == "pkd" else scope.h[:1]:
            if "logits" in scope.spaces and method != "avg1":
                mixtures.append(Mixture(Weighting(method=method, h=h), scope.tau))
            mixtures += [
                Mixture(Weighting(method=method, h=h, space="probs", temperature=tau), (tau,))
                for tau in scope.tau
                if "probs" in scope.spaces
            ]
    return mixtures


def without_labels(mixtures: Sequence[Mixture], weights: MeanWeights) -> list[Mixture]:
    """The mixtures with each teacher's mean training weight where the method's would need labels."""
    numbers = {(m.weighting.method, m.weighting.h): i for i, m in enumerate(labelled(mixtures))}
    shares = {key: weights.shares(number) for key, number in numbers.items()}
    return [replace(m, shares=shares.get((m.weighting.method, m.weighting.h))) for m in mixtures]


def _sweep(
    context: Context,
    shards: ShardSet,
    split: SplitName,
    opinions: tuple[Opinion, ...],
    mixtures: Sequence[Mixture],
) -> Swept:
    """Score the mixtures on all rows of a split, a job a block; summed in the blocks' order."""
    num_classes, labels_n = len(shards.classes), torch.from_numpy(shards.rows[split].labels)
    # The sums of every mixture are in memory: few rows, but as many as are checked at once.
    step = rows_of_a_block(context.experiment.cluster.reduce_rows or ROWS_PER_CHECK, num_classes)
    blocks = [Block(begin, labels_n[begin : begin + step]) for begin in range(0, len(labels_n), step)]
    jobs = [
        Job(f"study-{split}-{block.begin}", score_block, (opinions, tuple(mixtures), num_classes, block))
        for block in blocks
    ]
    with context.progress.bar(f"study of {split} rows", len(jobs), "blocks") as bar:
        swept: dict[int, Swept] = dict(context.values(jobs, bar))
    return functools.reduce(operator.add, (swept[block.begin] for block in blocks))


def _scores(mixtures: Sequence[Mixture], swept: Swept, rows: str, teachers: int) -> list[Score]:
    return [
        Score(
            method=mixture.weighting.method,
            h=mixture.weighting.h if mixture.weighting.method == "pkd" else None,
            tau=tau,
            space=mixture.weighting.space,
            weights=_kind_of_weights(mixture),
            rows=rows,
            num_rows=found.num_rows,
            teachers=teachers,
            top1=found.top1,
            nll=found.nll,
            ece=found.ece,
            entropy=found.entropy,
        )
        for mixture, scores in zip(mixtures, swept.scores, strict=True)
        for tau, found in zip(mixture.temperatures, scores, strict=True)
    ]


def _kind_of_weights(mixture: Mixture) -> str:
    if mixture.shares is not None:
        return FROM_TRAINING
    return FROM_LABELS if mixture.weighting.needs_labels else LABEL_FREE


def _all_out_of_fold(opinions: Sequence[Opinion], shards: ShardSet) -> bool:
    """Whether each training row has a teacher that was not trained on it, and each teacher such rows."""
    someone_n = torch.zeros(len(shards.rows["train"]), dtype=torch.bool)
    for opinion in opinions:
        heard_n = opinion.heard(0, len(someone_n))
        if not heard_n.any():
            return False
        someone_n |= heard_n
    return bool(someone_n.all())


def _open_validation(context: Context, teachers: Sequence[str], shards: ShardSet) -> tuple[Opinion, ...]:
    """What the teachers say of the validation rows; refused where one lacks them or was trained on them."""
    for teacher in teachers:
        if not (context.run.teacher(teacher) / logits_name("validation")).is_file():
            raise DataError(
                f"teacher {teacher} has no logits of the validation rows",
                expected="an opinion on them from each teacher",
                action="import them too, take it out of the experiment, or give --in-sample",
            )
    opinions = open_opinions(context.run, teachers, shards, "validation")
    common_view([opinion.logits for opinion in opinions])
    for teacher, opinion in zip(teachers, opinions, strict=True):
        trained_on = opinion.logits.trained_on
        if trained_on is not None and (rows := int(trained_on.read().sum())):
            raise DataError(
                f"teacher {teacher} may have been trained on {rows} of the validation rows",
                expected="teachers that were not: targets are judged there",
                action="import it with the true --trained-on, take it out of the experiment, "
                "or give --in-sample",
            )
    return opinions


def _check_scope(
    scope: Scope, mixtures: Sequence[Mixture], teachers: Sequence[str], shards: ShardSet
) -> None:
    if not mixtures:
        raise UsageError(
            "--methods avg1 --spaces logits asks for nothing",
            expected="space probs: avg1 is a mean of divergences at one temperature",
            action="add probs to --spaces, or another method",
        )
    if "single" in scope.methods and len(teachers) > 1:
        raise UsageError(
            f"--methods single with {len(teachers)} teachers",
            expected="one teacher",
            action="give --target with a target of one teacher, or leave single out",
        )
    for mixture in mixtures:
        mixture.weighting.check_classes(len(shards.classes))
    if not scope.in_sample and "validation" not in shards.splits:
        raise UsageError(
            f"{shards.directory} holds no validation rows",
            expected="data.validation, a share of the training videos that no teacher is trained on",
            action="add it with a root of its own, or give --in-sample to score training rows alone",
        )
