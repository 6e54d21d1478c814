"""What a student minimises: by its labels and each clip's target, stored or made by teachers in memory."""

from __future__ import annotations

import torch

from ukd_dist.data.clips import Clips
from ukd_dist.data.knowledge import MEAN_ENTROPY, TARGET, open_finished
from ukd_dist.data.rowmemory import RowMemory
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import StudentMember, TargetMember
from ukd_dist.method.losses import distillation_loss
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.online import TargetsOf, online_targets
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.training.loop import Objective
from ukd_dist.training.setup import supervised


def objective_of(
    run: RunDirectory, member: StudentMember, shards: ShardSet, device: torch.device
) -> Objective:
    """What a student minimises, by its labels and the target of each clip.

    Raises:
        DataError: The target is damaged, or a teacher that it keeps in memory.
    """
    settings, combination = member.settings, member.combination
    if combination is None:
        return supervised(settings)
    assert settings.temperature is not None
    temperature, space = settings.temperature, combination.space
    target_of = (
        online_targets(run, member, len(shards.classes), device)
        if member.target is None
        else stored_targets(run, member.target, shards, device)
    )

    def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        target_nc, mean_entropies_n = target_of(batch)
        losses = distillation_loss(
            logits_nc,
            batch.labels_b,
            target_nc,
            alpha=settings.alpha,
            temperature=temperature,
            space=space,
            mean_entropies_n=mean_entropies_n,
            label_smoothing=settings.label_smoothing,
        )
        return losses._asdict()

    return objective


def stored_targets(
    run: RunDirectory, target: TargetMember, shards: ShardSet, device: torch.device
) -> TargetsOf:
    """The stored target of each clip's row, or of several stored views that of the one that it shows.

    Raises:
        DataError: The target is damaged.
    """
    each_view, directory = target.views.kind == "random", run.target(target.id)
    rows, num_classes = shards.rows["train"], len(shards.classes)
    targets = RowMemory(open_finished(directory, TARGET_FILE, TARGET, rows, "train", num_classes), device)
    entropies = None
    if target.settings.method == "avg1":
        mean_entropies = open_finished(directory, TARGET_FILE, MEAN_ENTROPY, rows, "train", None)
        entropies = RowMemory(mean_entropies, device)

    def targets_of(batch: Clips) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen = (batch.rows_b, batch.views_b) if each_view else (batch.rows_b,)
        return targets[seen], None if entropies is None else entropies[seen]

    return targets_of
