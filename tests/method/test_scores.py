"""Scores of probabilities against a plain numpy reading, and what they must be whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.method import oracle
from tests.method.oracle import Array
from ukd_dist.method.scores import BINS, LEAST_PROBABILITY, Scores, score, target_probs

Judged = tuple[Array, np.ndarray[tuple[int], np.dtype[np.int64]]]


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    """Distributions, some of them sure, and labels."""
    n, c = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    logits = draw(arrays(np.float64, (n, c), elements=st.floats(-50, 50)))
    probs = oracle.softmax(logits, draw(st.sampled_from([0.05, 1.0, 20.0])))
    return probs, draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))


def scored(probs: Array, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Scores:
    return score(torch.from_numpy(probs), torch.from_numpy(labels))


def calibration_error(probs: Array, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Guo et al., Eq. 3."""
    total = 0.0
    for b in range(15):
        low, high = b / 15, (b + 1) / 15
        members = [p_c.max() > low and (p_c.max() <= high or b == 14) for p_c in probs]
        if any(members):
            accuracy = (probs.argmax(axis=1) == labels)[members].mean()
            total += sum(members) / len(labels) * abs(accuracy - probs.max(axis=1)[members].mean())
    return total


@given(judged())
def test_every_figure_is_the_oracles(given: Judged) -> None:
    probs, labels = given
    found = scored(probs, labels)
    likelihoods = np.maximum(probs[np.arange(len(labels)), labels], LEAST_PROBABILITY)
    assert found.num_rows == len(labels)
    assert found.top1 == pytest.approx((probs.argmax(axis=1) == labels).mean())
    assert found.nll == pytest.approx(-np.log(likelihoods).mean())
    assert found.entropy == pytest.approx(np.mean([oracle.entropy(p_c) for p_c in probs]), abs=1e-12)
    assert found.ece == pytest.approx(calibration_error(probs, labels), abs=1e-12)


@given(judged(), st.integers(0, 40))
def test_blocks_add_up(given: Judged, cut: int) -> None:
    probs, labels = given
    whole, parts = (
        scored(probs, labels),
        scored(probs[:cut], labels[:cut]) + scored(probs[cut:], labels[cut:]),
    )
    for figure in ("num_rows", "top1", "nll", "ece", "entropy"):
        assert getattr(parts, figure) == pytest.approx(getattr(whole, figure), abs=1e-12)


@given(judged())
def test_figures_lie_within_their_bounds(given: Judged) -> None:
    probs, labels = given
    found = scored(probs, labels)
    assert 0 <= found.top1 <= 1
    assert 0 <= found.ece <= 1
    assert 0 <= found.entropy <= math.log(probs.shape[1]) + 1e-12
    assert 0 <= found.nll <= 57 * math.log(2) + 1e-12


@pytest.mark.parametrize("edge", range(1, BINS))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(edge: int) -> None:
    rest = (1 - edge / BINS) / 99
    probs = np.full((1, 100), rest)
    probs[0, 0] = edge / BINS
    assert scored(probs, np.zeros(1, np.int64)).rows_b.nonzero().item() == edge - 1


def test_what_is_always_right_and_sure_is_perfect() -> None:
    found = scored(np.eye(3), np.arange(3))
    assert (found.top1, found.nll, found.ece, found.entropy) == (1, 0, 0, 0)


def test_what_is_sure_and_wrong_has_a_likelihood_all_the_same() -> None:
    found = scored(np.eye(3), np.array([1, 2, 0]))
    assert (found.top1, found.ece) == (0, 1)
    assert found.nll == pytest.approx(57 * math.log(2))


def test_a_target_of_logits_is_softened_and_one_of_probabilities_is_normalised() -> None:
    logits = np.array([[3.0, -1.0, 0.5], [1e4, 0.0, -1e4]])
    softened = target_probs(torch.from_numpy(logits), "logits", 5.0)
    np.testing.assert_allclose(softened, oracle.softmax(logits, 5.0), atol=1e-15)
    stored = torch.tensor([[0.2, 0.3, 0.500001]])
    np.testing.assert_allclose(target_probs(stored, "probs", 5.0).sum(dim=1), 1, atol=1e-15)
    np.testing.assert_allclose(target_probs(stored, "probs", 5.0), stored, atol=1e-6)
