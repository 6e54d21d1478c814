"""The teachers of a seed: two architectures on each modality, of all rows and of folds, and what they say."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from synthetic.networks import Networks, Recipe, scores, train
from synthetic.world import Rows
from torch import Tensor
from torch.nn.functional import cross_entropy

FOLDS = 5
TEACHERS = {
    "ordinary": (Recipe((128,), 12, 5e-3, 0.5), Recipe((64, 64), 12, 5e-3, 0.3)),
    "saturated": (Recipe((128,), 60, 0.0), Recipe((64, 64), 60, 0.0)),
}


class Opinions(NamedTuple):
    """Logits of teachers on the training rows [k, n, C], and the rows that each speaks to, bool [k, n]."""

    logits_knc: Tensor
    covers_kn: Tensor


def teach(
    condition: str, training: Rows, test: Rows, seed: int
) -> tuple[Opinions, Opinions, dict[str, dict[str, float]]]:
    """Returns opinions of teachers of all rows, those of folds on rows that they did not see, and figures."""
    generator, labels_n = torch.Generator().manual_seed(3 * seed + 1), training.labels_n
    torch.manual_seed(seed)  # dropout draws from it
    whole_1n = torch.ones(1, len(labels_n), dtype=torch.bool)
    folds_fn = stratified_folds(labels_n, generator) != torch.arange(FOLDS).unsqueeze(1)
    taught_kn = torch.cat([whole_1n, folds_fn]).repeat_interleave(2, dim=0)  # rgb, flow, rgb, flow, ...
    features_knf = training.features_mnf.repeat(1 + FOLDS, 1, 1)

    def loss(logits_kbc: Tensor, rows_kb: Tensor) -> Tensor:
        return cross_entropy(logits_kbc.flatten(0, 1), labels_n[rows_kb].flatten()) * len(rows_kb)

    fleets, tested = [], []
    for recipe in TEACHERS[condition]:
        networks = Networks(len(taught_kn), 1, recipe, generator)
        rows_k = [taught_n.nonzero().squeeze(1) for taught_n in taught_kn]
        train(networks, recipe, features_knf, rows_k, generator, loss)
        fleets.append(networks(features_knf))
        tested.append(networks(test.features_mnf))
    seen = Opinions(torch.cat([fleet[:2] for fleet in fleets]), whole_1n.expand(4, -1))
    unseen = Opinions(torch.cat([fleet[2:] for fleet in fleets]), ~taught_kn[2:].repeat(2, 1))
    return seen, unseen, teacher_figures(seen, unseen, torch.cat(tested), labels_n, test.labels_n)


def stratified_folds(labels_n: Tensor, generator: torch.Generator) -> Tensor:
    """Returns each row's fold, int64 [n]: every class spread evenly over the folds, at random."""
    order_n = torch.randperm(len(labels_n), generator=generator)
    order_n = order_n[labels_n[order_n].argsort(stable=True)]
    folds_n = torch.empty_like(labels_n)
    folds_n[order_n] = torch.arange(len(labels_n)) % FOLDS
    return folds_n


def teacher_figures(
    seen: Opinions, unseen: Opinions, tested_knc: Tensor, labels_n: Tensor, test_labels_n: Tensor
) -> dict[str, dict[str, float]]:
    """Returns means over the teachers of each modality."""
    figures = {}
    for m, modality in enumerate(("rgb", "flow")):
        trained = [scores(logits_nc, labels_n) for logits_nc in seen.logits_knc[m::2]]
        apart = zip(unseen.logits_knc[m::2], unseen.covers_kn[m::2], strict=True)
        figures[modality] = {
            "train_accuracy": statistics.fmean(score["accuracy"] for score in trained),
            "train_nll": statistics.fmean(score["nll"] for score in trained),
            "fold_accuracy": statistics.fmean(scores(z[c], labels_n[c])["accuracy"] for z, c in apart),
            "test_accuracy": statistics.fmean(scores(z, test_labels_n)["accuracy"] for z in tested_knc[m::2]),
        }
    return figures
