"""How many bytes teachers and targets will take, by their settings: nothing is allocated or trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ukd_dist.clip_config import Views
from ukd_dist.config import Keep
from ukd_dist.data.shards import SplitName
from ukd_dist.method.sums import RunningSums
from ukd_dist.stages.reduce import weighting_of
from ukd_dist.target_config import Target
from ukd_dist.training.checkpoints import KEPT
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Teacher

_FLOAT_BYTES, _DOUBLE_BYTES = 4, 8
# Names, shapes and places: as measured, of a tensor in safetensors and in torch's zip files; of a whole file.
_SAFETENSORS_ENTRY_BYTES, _ZIP_ENTRY_BYTES, _HEADER_BYTES = 125, 345, 350
# As measured, of an epoch's line of history.jsonl and of a manifest.
_EPOCH_BYTES, _MANIFEST_BYTES = 240, 1700
# Of result.json: itself, a class, and a pair of classes in the confusion matrix.
_RESULT_BYTES, _RESULT_CLASS_BYTES, _RESULT_PAIR_BYTES = 350, 25, 5
# Of a target: what its table of opinions and its manifest say of a teacher, and of a class of it.
_OPINION_BYTES, _OPINION_CLASS_BYTES = 450, 46


@dataclass(frozen=True)
class Extent:
    """How much data there is: rows of each split, and classes."""

    rows: dict[SplitName, int]
    classes: int


@dataclass(frozen=True)
class TeacherSizes:
    """Bytes of one finished teacher.

    Attributes:
        checkpoints: With the optimizer's state, as many as are kept.
        weights: model.safetensors.
        logits: Of all splits, with history, manifest and test result.
    """

    checkpoints: int
    weights: int
    logits: int

    def kept(self, keep: Keep) -> int:
        """What stays of it."""
        return {
            "all": self.checkpoints + self.weights + self.logits,
            "weights": self.weights + self.logits,
            "logits": self.logits,
        }[keep]


def teacher_sizes(settings: Teacher, extent: Extent) -> TeacherSizes:
    """Bytes of one teacher, its network counted on torch's meta device."""
    with torch.device("meta"):
        model = build_network(settings, extent.classes)
    entries = model.state_dict().values()
    parameters = list(model.parameters()) if settings.momentum else []
    tensors_bytes = sum(tensor.nbytes for tensor in entries)
    momentum_bytes = sum(tensor.nbytes for tensor in parameters)
    overhead = (len(entries) + len(parameters)) * _ZIP_ENTRY_BYTES
    checkpoint = tensors_bytes + momentum_bytes + overhead + settings.epochs * _EPOCH_BYTES
    logits = sum(
        _logits_bytes(rows, extent.classes, settings.views if split == "train" else settings.views.evaluated)
        for split, rows in extent.rows.items()
        if rows
    )
    return TeacherSizes(
        checkpoints=checkpoint * min(KEPT, settings.epochs),
        weights=tensors_bytes + len(entries) * _SAFETENSORS_ENTRY_BYTES,
        logits=logits + settings.epochs * _EPOCH_BYTES + _MANIFEST_BYTES + _result_bytes(extent.classes),
    )


def target_bytes(settings: Target, views: Views, teachers: int, extent: Extent, keep_sums: bool) -> int:
    """Bytes of one finished target of so many teachers, with its sums where they are kept."""
    rows, weighting = extent.rows["train"] * _each_view(views), weighting_of(settings)
    row_bytes = extent.classes * _FLOAT_BYTES + (_DOUBLE_BYTES if settings.method == "avg1" else 0)
    sums_bytes = 0
    if keep_sums and not weighting.compares:
        sums = RunningSums(weighting, 1, extent.classes)
        state_bytes = sum(tensor.nbytes for tensor in sums.state().values())
        sums_bytes = rows * (state_bytes + row_bytes + len(sums.denominators) * _DOUBLE_BYTES) + _HEADER_BYTES
    table_bytes = teachers * (_OPINION_BYTES + _OPINION_CLASS_BYTES * extent.classes)
    return rows * row_bytes + _HEADER_BYTES + sums_bytes + table_bytes + _MANIFEST_BYTES


def _logits_bytes(rows: int, classes: int, views: Views) -> int:
    """float32, and a byte a row that says whether it was trained on."""
    return rows * (_each_view(views) * classes * _FLOAT_BYTES + 1) + _HEADER_BYTES


def _result_bytes(classes: int) -> int:
    return _RESULT_BYTES + _RESULT_CLASS_BYTES * classes + _RESULT_PAIR_BYTES * classes**2


def _each_view(views: Views) -> int:
    """Views of a row that are stored by themselves."""
    return views.count if views.kind == "random" else 1
