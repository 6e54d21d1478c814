"""What a task of the offline study does: score many ways of mixing the teachers on one block of rows.

Every teacher's block is read once for all of them, and once more for a weighting's reference or mean weights;
memory grows with the ways, not with the teachers. Left out: which ways, and what becomes of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ukd_dist.method.assembly import Assembly
from ukd_dist.method.scores import Scores, score, target_probs
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.blocks import Block, Opinion, naming_source, observe_all


@dataclass(frozen=True)
class Mixture:
    """One weighted sum of the teachers' opinions, and at which temperatures it is scored.

    Attributes:
        weighting: How opinions are weighed, and in which space they are summed.
        temperatures: Of a sum of logits: any; of probabilities: the weighting's own.
        shares: Each teacher's weight on every row, in place of the method's, for rows without a label.
    """

    weighting: Weighting
    temperatures: tuple[float, ...]
    shares: tuple[float, ...] | None = None

    @property
    def summed_by(self) -> Weighting:
        """What the sums are told: given shares are a scaled average."""
        return self.weighting if self.shares is None else replace(self.weighting, method="avg")


@dataclass(frozen=True)
class MeanWeights:
    """Sums of the teachers' normalised weights over the rows that each is heard on.

    Attributes:
        weight: float64 [weightings, K].
        heard: Rows, float64 [K].
    """

    weight: Tensor
    heard: Tensor

    def __add__(self, other: MeanWeights) -> MeanWeights:
        return MeanWeights(self.weight + other.weight, self.heard + other.heard)

    def shares(self, number: int) -> tuple[float, ...]:
        """Mean weight of each teacher under one of the weightings; 0 where it was never heard."""
        return tuple((self.weight[number] / self.heard.clamp(min=1)).tolist())


@dataclass(frozen=True)
class Swept:
    """What was found on some rows; that of other rows can be added.

    Attributes:
        scores: Of each mixture, at each of its temperatures.
        weights: Under each of `labelled(mixtures)`.
    """

    scores: tuple[tuple[Scores, ...], ...]
    weights: MeanWeights

    def __add__(self, other: Swept) -> Swept:
        scores = tuple(
            tuple(a + b for a, b in zip(*pair, strict=True))
            for pair in zip(self.scores, other.scores, strict=True)
        )
        return Swept(scores, self.weights + other.weights)


def score_block(
    opinions: Sequence[Opinion], mixtures: Sequence[Mixture], num_classes: int, block: Block
) -> tuple[int, Swept]:
    """Mix all teachers in every way on one block, and compare with the labels (a Ray task).

    Returns:
        The block's first row, and what was found.

    Raises:
        DataError: A teacher's logits are damaged or not finite, or nobody speaks of some rows.
    """
    torch.set_num_threads(1)
    num_views = opinions[0].num_views
    labels_n, first_row, buffer = block.labels(num_views), block.begin * num_views, bytearray()
    references = _references(opinions, mixtures, block)
    assemblies = [
        Assembly(
            mixture.summed_by,
            len(labels_n),
            num_classes,
            first_row=first_row,
            reference_n=references.get(mixture.summed_by.method),
        )
        for mixture in mixtures
    ]
    for k, opinion in enumerate(opinions):
        logits_nc, heard_n = opinion.read(block.begin, block.end, buffer)
        with naming_source(opinion):
            for mixture, assembly in zip(mixtures, assemblies, strict=True):
                scale = 1.0 if mixture.shares is None else mixture.shares[k]
                if scale > 0.0:
                    assembly.add(logits_nc, labels_n, heard_n, scale=scale)
    scores = tuple(
        _scores(mixture, assembly, labels_n) for mixture, assembly in zip(mixtures, assemblies, strict=True)
    )
    weighed = [mixtures.index(mixture) for mixture in labelled(mixtures)]
    totals = [(mixtures[i].weighting, assemblies[i].totals()) for i in weighed]
    return block.begin, Swept(scores, _mean_weights(opinions, totals, references, block))


def labelled(mixtures: Sequence[Mixture]) -> list[Mixture]:
    """Of the mixtures whose weights are made of labels, the first of each method and h."""
    first: dict[tuple[str, float], Mixture] = {}
    for mixture in mixtures:
        if mixture.weighting.needs_labels and mixture.shares is None:
            first.setdefault((mixture.weighting.method, mixture.weighting.h), mixture)
    return list(first.values())


def _references(opinions: Sequence[Opinion], mixtures: Sequence[Mixture], block: Block) -> dict[str, Tensor]:
    comparing = {m.summed_by.method: m.summed_by for m in mixtures if m.summed_by.compares}
    found = observe_all(opinions, list(comparing.values()), block)
    return dict(zip(comparing, found, strict=True))


def _scores(mixture: Mixture, assembly: Assembly, labels_n: Tensor) -> tuple[Scores, ...]:
    target_nc, space = assembly.finish(), mixture.weighting.space
    return tuple(score(target_probs(target_nc, space, tau), labels_n) for tau in mixture.temperatures)


def _mean_weights(
    opinions: Sequence[Opinion],
    totals: Sequence[tuple[Weighting, tuple[Tensor, ...]]],
    references: dict[str, Tensor],
    block: Block,
) -> MeanWeights:
    weight, heard = torch.zeros(len(totals), len(opinions), dtype=torch.float64), []
    labels_n, buffer = block.labels(opinions[0].num_views), bytearray()
    for k, opinion in enumerate(opinions if totals else ()):
        logits_nc, heard_n = opinion.read(block.begin, block.end, buffer)
        if heard_n is None:
            heard_n = torch.ones(len(labels_n), dtype=torch.bool)
        logits_nc, labels_m = logits_nc[heard_n], labels_n[heard_n]
        for i, (weighting, sums) in enumerate(totals):
            reference_n = references.get(weighting.method)
            reference_m = None if reference_n is None else reference_n[heard_n]
            shares_m = weighting.weights(logits_nc, labels_m, tuple(s[heard_n] for s in sums), reference_m)
            weight[i, k] = shares_m.sum()
        heard.append(float(heard_n.sum()))
    return MeanWeights(weight, torch.tensor(heard, dtype=torch.float64))
