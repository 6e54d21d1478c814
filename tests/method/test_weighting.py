"""Properties of what opinions are multiplied by (Eq. 4-8, 11, 12; entropies, cross entropies)."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tests.method import oracle
from tests.method.threads import with_threads
from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.assembly import Assembly, observe
from ukd_dist.method.weighting import (
    ENTROPY_FLOOR,
    GTD_FLOOR,
    Method,
    Weighting,
    average_weights,
    entropies,
    gtd_weights,
    pkd_weights,
    truth_cross_entropies,
)

METHODS: tuple[Method, ...] = ("pkd", "gtd", "avg", "avg1", "single")


@st.composite
def opinions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits up to +-1e4, float32 [n, C], and labels [n]."""
    n, c = draw(st.integers(1, 6)), draw(st.integers(2, 13))
    logits = draw(arrays(np.float32, (n, c), elements=st.floats(-1e4, 1e4, width=32)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def shares(num_classes: int) -> st.SearchStrategy[float]:
    return st.floats(1 / num_classes, 0.9999)


def weighting_of(method: Method, h: float = 0.99) -> Weighting:
    """In probabilities, where every method is at home."""
    return Weighting(method=method, h=h, space="probs", temperature=20.0)


def oracle_weights(method: Method, logits_nc: Tensor, labels_n: Tensor, h: float) -> list[float]:
    rows = zip(logits_nc.double().numpy(), labels_n.tolist(), strict=True)
    return [oracle.similarity(method, row, label, h, GTD_FLOOR) for row, label in rows]


@given(opinions(), st.sampled_from(METHODS), st.data())
@settings(deadline=None)
def test_weights_are_the_papers(opinion: tuple[Tensor, Tensor], method: Method, data: st.DataObject) -> None:
    h = data.draw(shares(opinion[0].shape[1]))
    (weights_n,) = weighting_of(method, h).coefficients(*opinion)
    assert weights_n.dtype == torch.float64
    np.testing.assert_allclose(weights_n.numpy(), oracle_weights(method, *opinion, h), rtol=1e-9)


@given(opinions(), st.floats(0.5, 60))
@settings(deadline=None)
def test_entropies_are_those_of_the_softened_opinions(
    opinion: tuple[Tensor, Tensor], temperature: float
) -> None:
    entropy_n = entropies(*opinion, temperature)
    probs_nc = oracle.softmax(opinion[0].double().numpy(), temperature)
    assert entropy_n.dtype == torch.float64
    assert (entropy_n >= 0).all()
    np.testing.assert_allclose(entropy_n.numpy(), [oracle.entropy(p) for p in probs_nc], rtol=0, atol=1e-13)


@pytest.mark.parametrize("num_classes", [2, 11, 400])
def test_the_entropy_of_equal_logits_is_the_logarithm_of_the_classes(num_classes: int) -> None:
    entropy = entropies(torch.full((1, num_classes), 7.0), torch.tensor([0]))
    assert entropy.item() == pytest.approx(np.log(num_classes), rel=1e-14)


@given(opinions())
@settings(deadline=None)
def test_scores_are_cross_entropies_with_the_truth(opinion: tuple[Tensor, Tensor]) -> None:
    logits_nc, labels_n = opinion
    log_q_nc = oracle.log_softmax(logits_nc.double().numpy())
    expected_n = -log_q_nc[np.arange(len(labels_n)), labels_n.numpy()]
    ce_n = truth_cross_entropies(*opinion)
    np.testing.assert_allclose(ce_n.numpy(), expected_n, rtol=1e-12, atol=1e-14)
    assert torch.equal(Weighting(method="confidence").scores(*opinion), ce_n)
    assert torch.equal(Weighting(method="best").scores(*opinion), -ce_n)


@given(opinions())
@settings(deadline=None)
def test_an_entropy_coefficient_stops_at_the_floor(opinion: tuple[Tensor, Tensor]) -> None:
    ones_n, doubts_n = Weighting(method="entropy").coefficients(*opinion)
    assert torch.equal(ones_n, torch.ones_like(ones_n))
    assert torch.equal(doubts_n, entropies(*opinion).clamp(min=ENTROPY_FLOOR))


@pytest.mark.parametrize("method", ["best", "confidence"])
def test_the_teacher_that_leads_has_a_coefficient_of_one_and_others_less(method: Method) -> None:
    lead_n = torch.tensor([0.0, -1e-12, -2.0, -1e4], dtype=torch.float64)
    logits_nc, labels_n = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    *first, last_n = Weighting(method=method).coefficients(logits_nc, labels_n, lead_n)
    expected = [1.0, 1.0, 0.0, 0.0] if method == "best" else [1.0, 1.0 - 1e-12, np.exp(-2.0), 0.0]
    assert last_n.tolist() == pytest.approx(expected, abs=1e-15)
    assert [len(ones_n) for ones_n in first] == ([] if method == "best" else [4])


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


@given(
    arrays(np.float32, (4, 3, 5), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from(METHODS),
)
@settings(deadline=None)
def test_weights_normalised_over_teachers_form_a_simplex(logits_knc: np.ndarray, method: Method) -> None:
    labels_n = torch.tensor([0, 4, 2])
    weighting = weighting_of(method)
    s_kn = torch.stack([weighting.coefficients(torch.from_numpy(z), labels_n)[0] for z in logits_knc])
    share_kn = s_kn / s_kn.sum(dim=0)
    assert (share_kn > 0).all()
    torch.testing.assert_close(share_kn.sum(dim=0), torch.ones(3, dtype=torch.float64))


@given(opinions(), st.integers(-4096, 4096), st.sampled_from((*METHODS, "entropy")))
@settings(deadline=None)
def test_a_constant_added_to_a_rows_logits_changes_no_weight(
    opinion: tuple[Tensor, Tensor], constant: int, method: Method
) -> None:
    logits_nc, labels_n = opinion[0].double().round(), opinion[1]
    coefficients = weighting_of(method).coefficients
    shifted, plain = coefficients(logits_nc + constant, labels_n), coefficients(logits_nc, labels_n)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(shifted, plain, strict=True))


@given(opinions(), st.integers(-4096, 4096), st.sampled_from(("best", "confidence")))
@settings(deadline=None)
def test_a_constant_added_to_a_rows_logits_changes_no_score(
    opinion: tuple[Tensor, Tensor], constant: int, method: Method
) -> None:
    logits_nc, labels_n = opinion[0].double().round(), opinion[1]
    scores = weighting_of(method).scores
    assert torch.equal(scores(logits_nc + constant, labels_n), scores(logits_nc, labels_n))


def test_at_the_least_h_the_pkd_is_uniform_and_ignores_the_label() -> None:
    logits_nc = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    weights = [pkd_weights(logits_nc, torch.full((5,), label), 0.25) for label in range(4)]
    assert all(torch.equal(w, weights[0]) for w in weights)


def test_a_gtd_weight_stops_at_the_floor() -> None:
    sure = torch.tensor([[1000.0, 0.0, 0.0]])
    assert gtd_weights(sure, torch.tensor([0])).item() == pytest.approx(1 / GTD_FLOOR)
    assert gtd_weights(sure, torch.tensor([0]), floor=0.5).item() == 2.0
    assert gtd_weights(sure, torch.tensor([1])).item() == pytest.approx(1 / 1000)


def test_average_weights_are_ones() -> None:
    assert torch.equal(average_weights(torch.randn(3, 2), torch.tensor([0, 1, 0])), torch.ones(3).double())


@pytest.mark.parametrize("num_classes", [2, 11, 400, 150_000])
@pytest.mark.parametrize("method", ["pkd", "gtd", "entropy", "best"])
def test_a_rows_weight_is_the_same_bytes_in_any_block_and_at_any_number_of_threads(
    num_classes: int, method: Method
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = 5 if num_classes > 1000 else 701
    logits_nc = torch.randn(rows, num_classes, generator=generator) * 30
    labels_n = torch.randint(num_classes, (rows,), generator=generator)
    weighting = weighting_of(method)

    def weights(logits_nc: Tensor, labels_n: Tensor) -> Tensor:
        if weighting.compares:
            return weighting.scores(logits_nc, labels_n)
        return weighting.coefficients(logits_nc, labels_n)[-1]

    expected = weights(logits_nc, labels_n)
    for block in (1, 7, 256):
        parts = [weights(logits_nc[i : i + block], labels_n[i : i + block]) for i in range(0, rows, block)]
        assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(with_threads(3, lambda: weights(logits_nc, labels_n)), expected)


def test_weighing_leaves_the_logits_alone() -> None:
    logits_nc = torch.randn(4, 3, dtype=torch.float64)
    before, labels_n = logits_nc.clone(), torch.tensor([0, 1, 2, 0])
    pkd_weights(logits_nc, labels_n, 0.99)
    truth_cross_entropies(logits_nc, labels_n)
    entropies(logits_nc, labels_n)
    assert torch.equal(logits_nc, before)


def test_a_block_without_rows_has_no_weights() -> None:
    nothing = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    assert pkd_weights(*nothing, 0.99).shape == entropies(*nothing).shape == (0,)


LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize("h", [0.2, 1.0, 1.5, 0.0, float("nan")])
def test_an_h_out_of_range_is_refused_with_the_range(h: float) -> None:
    with pytest.raises(
        UsageError, match=rf"^h is {h}; expected 1/C <= h < 1, where 1/C is 0.333333; choose h"
    ):
        pkd_weights(LOGITS, LABELS, h)


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_floor_that_is_no_positive_number_is_refused(floor: float) -> None:
    with pytest.raises(UsageError, match=r"^floor is .*; expected a positive cross entropy in nats; choose"):
        gtd_weights(LOGITS, LABELS, floor)


NO_OPINION = torch.tensor([[0.0, 1.0, 2.0], [0.0, float("nan"), 0.0]])
NAMED = r"^1 logits are NaN or infinite, the first in row 1; expected"


@pytest.mark.parametrize(
    "weights",
    [
        lambda z, y: pkd_weights(z, y, 0.99),
        gtd_weights,
        average_weights,
        truth_cross_entropies,
        entropies,
    ],
)
def test_every_measure_refuses_what_is_no_opinion(weights: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(DataError, match=NAMED):
        weights(NO_OPINION, LABELS)


@pytest.mark.parametrize("method", get_args(Method))
def test_no_weighting_hears_what_is_no_opinion(method: Method) -> None:
    weighting = weighting_of(method)
    reference_n = torch.full((2,), 5.0, dtype=torch.float64)
    with pytest.raises(DataError, match=NAMED):
        Assembly(weighting, 2, 3, reference_n=reference_n).add(NO_OPINION, LABELS)
    if weighting.compares:
        with pytest.raises(DataError, match=NAMED):
            observe(weighting, NO_OPINION, LABELS, reference_n)


@pytest.mark.parametrize(
    ("settings_of_it", "message"),
    [
        (
            {"method": "mean"},
            "^method 'mean' is unknown; expected pkd or gtd or avg or avg1 or single or best or entropy or "
            "confidence; choose",
        ),
        ({"method": "pkd", "space": "odds"}, "^space 'odds' is unknown; expected logits or probs; choose"),
        ({"method": "pkd", "h": 1.0}, "^h is 1.0; expected 1/C <= h < 1; choose"),
        ({"method": "gtd", "floor": 0.0}, "^floor is 0; expected a positive cross entropy"),
        (
            {"method": "avg", "temperature": 20.0},
            "^temperature is 20 in space 'logits'; expected no temperature",
        ),
        (
            {"method": "avg1"},
            "^method 'avg1' in space 'logits'; expected space 'probs': Eq. 4 is .*; choose space 'probs'",
        ),
        (
            {"method": "avg", "space": "probs"},
            "^temperature is None in space 'probs'; expected a positive number",
        ),
        (
            {"method": "avg", "space": "probs", "temperature": 0.0},
            "^temperature is 0.0 in space 'probs'; expected",
        ),
    ],
)
def test_a_weighting_that_contradicts_itself_is_refused(
    settings_of_it: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Weighting(**settings_of_it)  # type: ignore[arg-type]
