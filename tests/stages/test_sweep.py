"""One block of the offline study against a plain reading of the method, without a cluster."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.method import oracle
from tests.method.oracle import Array
from tests.stages import fake_store
from tests.stages.fake_store import Store
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.errors import DataError
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.blocks import Block, Opinion
from ukd_dist.stages.fleet import open_opinions
from ukd_dist.stages.studied import Scope
from ukd_dist.stages.study import mixtures_of, without_labels
from ukd_dist.stages.sweep import Mixture, Swept, labelled, score_block

TEACHERS, ROWS, CLASSES, VALIDATION = 4, 40, 5, 12
METHODS = "avg,pkd,gtd,entropy,confidence,best,avg1"
SCOPE = Scope(methods=METHODS, h="0.6,0.99", tau="1,10", spaces="logits,probs")  # type: ignore[arg-type]
LABELLED = [("pkd", 0.6), ("pkd", 0.99), ("gtd", 0.99), ("confidence", 0.99), ("best", 0.99)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Each teacher was trained on all rows but every fourth."""
    trained_on = torch.arange(ROWS)[None] % TEACHERS != torch.arange(TEACHERS)[:, None]
    trained_on[0, 1::4] = False  # these rows have two teachers that were not
    root = tmp_path_factory.mktemp("sweep") / "run"
    return fake_store.build(root, TEACHERS, ROWS, CLASSES, trained_on, VALIDATION)


def opinions(store: Store, split: SplitName = "train", out_of_fold: bool = False) -> tuple[Opinion, ...]:
    run = RunDirectory(store.root)
    ids = [member.id for member in store.experiment("{avg: {method: avg}}").teachers]
    return open_opinions(run, ids, ShardSet(run.shards), split, out_of_fold=out_of_fold)


def sweep(
    teachers: tuple[Opinion, ...], labels_n: Tensor, mixtures: list[Mixture], step: int = 1000
) -> Swept:
    blocks = [Block(begin, labels_n[begin : begin + step]) for begin in range(0, len(labels_n), step)]
    return functools.reduce(operator.add, (score_block(teachers, mixtures, CLASSES, b)[1] for b in blocks))


def expected_probs(mixture: Mixture, tau: float, logits_knc: Array, labels: Array, covers: Array) -> Array:
    weighting = mixture.weighting
    temperature = weighting.temperature
    if mixture.shares is None:
        method, h = weighting.method, weighting.h
        target = oracle.target(logits_knc, labels, covers, method=method, h=h, temperature=temperature)
    else:
        opinion = logits_knc if temperature is None else oracle.softmax(logits_knc, temperature)
        weights_kn = np.array(mixture.shares)[:, None] * covers
        target = np.einsum("kn,knc->nc", weights_kn / weights_kn.sum(axis=0), opinion)
    return oracle.softmax(target, tau) if temperature is None else target


def check(swept: Swept, mixtures: list[Mixture], logits_knc: Tensor, labels_n: Tensor, covers: Array) -> None:
    logits, labels = logits_knc.double().numpy(), labels_n.numpy()
    for mixture, scores in zip(mixtures, swept.scores, strict=True):
        for tau, found in zip(mixture.temperatures, scores, strict=True):
            probs = expected_probs(mixture, tau, logits, labels, covers)
            assert found.num_rows == len(labels)
            assert found.top1 == pytest.approx((probs.argmax(axis=1) == labels).mean())
            assert found.nll == pytest.approx(-np.log(probs[np.arange(len(labels)), labels]).mean(), abs=1e-4)
            assert found.entropy == pytest.approx(np.mean([oracle.entropy(p) for p in probs]), abs=1e-4)


def mean_weights(store: Store, covers: Array) -> Array:
    """Mean over the rows that each teacher is heard on, `[weightings, K]`."""
    logits, labels = store.logits_knc.double().numpy(), store.labels_n.numpy()
    means = np.zeros((len(LABELLED), TEACHERS))
    for i, (method, h) in enumerate(LABELLED):
        weights_kn = np.zeros((TEACHERS, ROWS))
        for n in range(ROWS):
            heard = covers[:, n]
            weights_kn[heard, n] = oracle.weights(method, logits[heard, n], labels[n], h=h)
        means[i] = weights_kn.sum(axis=1) / covers.sum(axis=1)
    return means


def test_a_sum_of_logits_serves_every_temperature_and_h_matters_to_pkd_alone() -> None:
    sums = [(m.weighting.method, m.weighting.space, m.temperatures) for m in mixtures_of(SCOPE)]
    assert len(sums) == (5 + 2) * 3 + 2  # avg1 has no sum of logits
    assert sums.count(("pkd", "logits", (1.0, 10.0))) == 2
    assert sums.count(("avg", "logits", (1.0, 10.0))) == 1
    assert sums.count(("avg", "probs", (10.0,))) == 1


@pytest.mark.parametrize("step", [1000, 16])
def test_training_rows_are_scored_with_the_weights_of_their_labels(store: Store, step: int) -> None:
    mixtures, everyone = mixtures_of(SCOPE), np.ones((TEACHERS, ROWS), bool)
    swept = sweep(opinions(store), store.labels_n, mixtures, step)
    check(swept, mixtures, store.logits_knc, store.labels_n, everyone)
    shares = [swept.weights.shares(i) for i in range(len(LABELLED))]
    np.testing.assert_allclose(shares, mean_weights(store, everyone), atol=1e-9)


def test_out_of_fold_a_teacher_is_heard_and_weighed_on_rows_it_was_not_trained_on(store: Store) -> None:
    mixtures, teachers = mixtures_of(SCOPE), opinions(store, out_of_fold=True)
    covers = torch.stack([teacher.heard(0, ROWS) for teacher in teachers]).numpy()
    assert set(covers.sum(axis=0)) == {1, 2}
    swept = sweep(teachers, store.labels_n, mixtures, 16)
    check(swept, mixtures, store.logits_knc, store.labels_n, covers)
    shares = [swept.weights.shares(i) for i in range(len(LABELLED))]
    np.testing.assert_allclose(shares, mean_weights(store, covers), atol=1e-9)


def test_validation_rows_are_scored_with_mean_training_weights(store: Store) -> None:
    mixtures = mixtures_of(SCOPE)
    taught = sweep(opinions(store), store.labels_n, mixtures)
    unlabelled = without_labels(mixtures, taught.weights)
    with_shares = {m.weighting.method for m in unlabelled if m.shares is not None}
    assert with_shares == {"pkd", "gtd", "confidence", "best"}
    swept = sweep(opinions(store, "validation"), store.validation_labels_m, unlabelled, 5)
    everyone = np.ones((TEACHERS, VALIDATION), bool)
    check(swept, unlabelled, store.validation_kmc, store.validation_labels_m, everyone)


def test_the_labels_of_validation_rows_make_no_weight(store: Store) -> None:
    """Targets of other labels are the same targets: entropies, which know no label, stay."""
    mixtures = mixtures_of(SCOPE)
    taught = sweep(opinions(store), store.labels_n, mixtures)
    unlabelled, judges = without_labels(mixtures, taught.weights), opinions(store, "validation")
    labels_m = store.validation_labels_m
    both = [sweep(judges, labels, unlabelled) for labels in (labels_m, (labels_m + 1) % CLASSES)]
    entropies, others = ([s.entropy for scores in swept.scores for s in scores] for swept in both)
    assert entropies == others
    assert both[0].scores[0][0].nll != both[1].scores[0][0].nll


def test_a_row_that_only_teachers_of_no_weight_speak_of_is_named(store: Store) -> None:
    mixtures = [Mixture(mixture.weighting, (1.0,), (0.0,) * TEACHERS) for mixture in mixtures_of(SCOPE)[:1]]
    with pytest.raises(DataError, match="no teacher covers 12 of 12 rows"):
        sweep(opinions(store, "validation"), store.validation_labels_m, mixtures)


def test_each_method_and_h_is_weighed_once() -> None:
    first = [(m.weighting.method, m.weighting.h) for m in labelled(mixtures_of(SCOPE))]
    assert {method for method, _ in first} == {"pkd", "gtd", "confidence", "best"}
    assert first.count(("pkd", 0.99)) == 1
    assert len(first) == len(LABELLED)
