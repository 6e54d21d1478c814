"""Properties of the formulas that weights are made of (Eq. 4-8, 11, 12; entropies, cross entropies)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.method import oracle
from tests.method.fleets import opinions, shares
from ukd_dist.method.similarity import (
    average_weights,
    entropies,
    gtd_weights,
    pkd_weights,
    truth_cross_entropies,
)
from ukd_dist.method.weighting import GTD_FLOOR


@given(opinions(), st.floats(0.5, 60))
@settings(deadline=None)
def test_entropies_are_those_of_the_softened_opinions(
    opinion: tuple[Tensor, Tensor], temperature: float
) -> None:
    entropy_n = entropies(opinion[0], temperature)
    probs_nc = oracle.softmax(opinion[0].double().numpy(), temperature)
    assert entropy_n.dtype == torch.float64
    assert (entropy_n >= 0).all()
    np.testing.assert_allclose(entropy_n.numpy(), [oracle.entropy(p) for p in probs_nc], rtol=0, atol=1e-13)


@pytest.mark.parametrize("num_classes", [2, 11, 400])
def test_the_entropy_of_equal_logits_is_the_logarithm_of_the_classes(num_classes: int) -> None:
    entropy = entropies(torch.full((1, num_classes), 7.0))
    assert entropy.item() == pytest.approx(np.log(num_classes), rel=1e-14)


@given(opinions(), st.data())
@settings(deadline=None)
def test_no_pkd_weight_exceeds_the_inverse_entropy_of_the_pkd(
    opinion: tuple[Tensor, Tensor], data: st.DataObject
) -> None:
    num_classes = opinion[0].shape[1]
    h = data.draw(shares(num_classes))
    bound = 1 / oracle.entropy(oracle.preferred_distribution(0, num_classes, h))
    assert (pkd_weights(*opinion, h) <= bound * (1 + 1e-9)).all()


@pytest.mark.parametrize("num_classes", [2, 11, 400])
def test_a_teacher_that_says_the_pkd_itself_reaches_the_bound(num_classes: int) -> None:
    pkd = oracle.preferred_distribution(1, num_classes, 0.99)
    weight = pkd_weights(torch.from_numpy(np.log(pkd)[None]), torch.tensor([1]), 0.99)
    assert weight.item() == pytest.approx(1 / oracle.entropy(pkd), rel=1e-12)


def test_the_bound_for_eleven_classes_is_the_documented_one() -> None:
    assert 1 / oracle.entropy(oracle.preferred_distribution(0, 11, 0.99)) == pytest.approx(12.7, abs=0.1)


def test_at_the_least_h_the_pkd_is_uniform_and_ignores_the_label() -> None:
    logits_nc = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    weights = [pkd_weights(logits_nc, torch.full((5,), label), 0.25) for label in range(4)]
    assert all(torch.equal(w, weights[0]) for w in weights)


def test_a_gtd_weight_stops_at_the_floor() -> None:
    sure = torch.tensor([[1000.0, 0.0, 0.0]])
    assert gtd_weights(sure, torch.tensor([0]), GTD_FLOOR).item() == pytest.approx(1 / GTD_FLOOR)
    assert gtd_weights(sure, torch.tensor([0]), floor=0.5).item() == 2.0
    assert gtd_weights(sure, torch.tensor([1]), GTD_FLOOR).item() == pytest.approx(1 / 1000)


def test_average_weights_are_ones() -> None:
    assert torch.equal(average_weights(torch.randn(3, 2)), torch.ones(3).double())


def test_weighing_leaves_the_logits_alone() -> None:
    logits_nc = torch.randn(4, 3, dtype=torch.float64)
    before, labels_n = logits_nc.clone(), torch.tensor([0, 1, 2, 0])
    pkd_weights(logits_nc, labels_n, 0.99)
    truth_cross_entropies(logits_nc, labels_n)
    entropies(logits_nc)
    assert torch.equal(logits_nc, before)


def test_a_block_without_rows_has_no_weights() -> None:
    nothing = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    assert pkd_weights(*nothing, 0.99).shape == entropies(nothing[0]).shape == (0,)
