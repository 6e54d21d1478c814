"""Where a target came from: each teacher's share in it, accuracy, entropy and agreement, class by class.

Shares need the sums over all teachers, so the logits are read a second time here, of a bounded number of
rows. What comes out is a table for people; no later stage reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ukd_dist.data.knowledge import TARGET
from ukd_dist.data.sums import read_sums
from ukd_dist.method.similarity import entropies
from ukd_dist.stages.blocks import REFERENCE, TOTALS, Block, Opinion, Work

MOST_ROWS = 65_536


@dataclass(frozen=True)
class Tally:
    """Sums over rows, by teacher and true class.

    Attributes:
        rows: Rows of each class, one for each view, float64 [C].
        heard: Rows that the teacher spoke to, [K, C].
        share: Its normalised weights, [K, C]; of a class they sum to `rows` over teachers.
        correct: Rows where its largest logit is the label's, [K, C].
        agree: Rows where its largest logit is the target's largest, [K, C].
        entropy: Its entropies at temperature 1 in nats, [K, C].
        weight_entropy: Of the rows' weights over teachers, in nats, [C].
    """

    rows: Tensor
    heard: Tensor
    share: Tensor
    correct: Tensor
    agree: Tensor
    entropy: Tensor
    weight_entropy: Tensor

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def tally_block(opinions: Sequence[Opinion], work: Work, sums: Path, block: Block) -> Tally:
    """Compare every teacher with the finished target on one block of rows (a Ray task)."""
    torch.set_num_threads(1)
    tensors = read_sums(sums)
    reference_n = tensors.get(REFERENCE)
    totals = tensors[TOTALS].unbind(dim=1)
    labels_n, chosen_n = block.labels(work.num_views), tensors[TARGET].argmax(dim=1)

    def by_class(values_n: Tensor) -> Tensor:
        return torch.bincount(labels_n, values_n.double(), work.num_classes)

    columns: dict[str, list[Tensor]] = {n: [] for n in ("heard", "share", "correct", "agree", "entropy")}
    spread_n = torch.zeros(len(labels_n), dtype=torch.float64)
    buffer = bytearray()
    for opinion in opinions:
        logits_nc, heard_n = opinion.read(block.begin, block.end, buffer)
        heard_n = torch.ones(len(labels_n), dtype=torch.bool) if heard_n is None else heard_n
        logits_nc = logits_nc.masked_fill(~heard_n.unsqueeze(1), 0.0)
        share_n = work.weighting.weights(logits_nc, labels_n, totals, reference_n).masked_fill_(~heard_n, 0.0)
        spread_n -= torch.special.xlogy(share_n, share_n)
        best_n = logits_nc.argmax(dim=1)
        columns["heard"].append(by_class(heard_n))
        columns["share"].append(by_class(share_n))
        columns["correct"].append(by_class((best_n == labels_n) & heard_n))
        columns["agree"].append(by_class((best_n == chosen_n) & heard_n))
        columns["entropy"].append(by_class(entropies(logits_nc) * heard_n))
    stacked = {name: torch.stack(column) for name, column in columns.items()}
    return Tally(rows=by_class(torch.ones(len(labels_n))), weight_entropy=by_class(spread_n), **stacked)


def describe(tally: Tally, teachers: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The table as JSON values; ratios over the rows looked at, None where there are none."""
    rows = float(tally.rows.sum())
    return {
        "rows": int(rows),
        "weight_entropy": float(tally.weight_entropy.sum()) / rows,
        "classes": list(classes),
        "rows_per_class": tally.rows.long().tolist(),
        "teachers": [
            {
                "id": teacher,
                "heard": int(tally.heard[k].sum()),
                "share": float(tally.share[k].sum()) / rows,
                "top1": _ratio(tally.correct[k].sum(), tally.heard[k].sum()),
                "agreement": _ratio(tally.agree[k].sum(), tally.heard[k].sum()),
                "entropy": _ratio(tally.entropy[k].sum(), tally.heard[k].sum()),
                "share_per_class": [_ratio(s, n) for s, n in zip(tally.share[k], tally.rows, strict=True)],
                "top1_per_class": [
                    _ratio(s, n) for s, n in zip(tally.correct[k], tally.heard[k], strict=True)
                ],
            }
            for k, teacher in enumerate(teachers)
        ],
    }


def chosen_blocks(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of about `MOST_ROWS` rows in all, evenly spread; all where there are no more, always one."""
    rows = sum(len(block.labels_n) for block in blocks)
    every = max(1, -(-rows // MOST_ROWS))
    return list(blocks[::every])


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole > 0 else None
