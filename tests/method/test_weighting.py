"""Properties of what opinions are multiplied by, whatever the weighting, and what a weighting refuses."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tests.method import oracle
from tests.method.fleets import opinions, shares
from tests.method.threads import with_threads
from ukd_dist.errors import DataError, UsageError
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.reference import observe
from ukd_dist.method.similarity import entropies, truth_cross_entropies
from ukd_dist.method.weighting import ENTROPY_FLOOR, GTD_FLOOR, Method, Weighting

METHODS: tuple[Method, ...] = ("pkd", "gtd", "avg", "avg1", "single")


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
    assert torch.equal(doubts_n, entropies(opinion[0]).clamp(min=ENTROPY_FLOOR))


@pytest.mark.parametrize("method", ["best", "confidence"])
def test_the_teacher_that_leads_has_a_coefficient_of_one_and_others_less(method: Method) -> None:
    lead_n = torch.tensor([0.0, -1e-12, -2.0, -1e4], dtype=torch.float64)
    logits_nc, labels_n = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    *first, last_n = Weighting(method=method).coefficients(logits_nc, labels_n, lead_n)
    expected = [1.0, 1.0, 0.0, 0.0] if method == "best" else [1.0, 1.0 - 1e-12, np.exp(-2.0), 0.0]
    assert last_n.tolist() == pytest.approx(expected, abs=1e-15)
    assert [len(ones_n) for ones_n in first] == ([] if method == "best" else [4])


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


LABELS = torch.tensor([0, 2])
NO_OPINION = torch.tensor([[0.0, 1.0, 2.0], [0.0, float("nan"), 0.0]])
NAMED = r"^1 logits are NaN or infinite, the first in row 1; expected"


@pytest.mark.parametrize("method", get_args(Method))
def test_no_weighting_hears_what_is_no_opinion(method: Method) -> None:
    weighting = weighting_of(method)
    reference_n = torch.full((2,), 5.0, dtype=torch.float64)
    with pytest.raises(DataError, match=NAMED):
        Assembly(weighting, 2, 3, reference_n=reference_n).add(NO_OPINION, LABELS)
    with pytest.raises(DataError, match=NAMED):
        weighting.weights(NO_OPINION, LABELS, (reference_n, reference_n), reference_n)
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
        *(
            ({"method": "pkd", "h": h}, f"^h is {h}; expected 1/C <= h < 1; choose h")
            for h in (1.0, 1.5, 0.0, float("nan"))
        ),
        *(
            (
                {"method": "gtd", "floor": floor},
                f"^floor is {floor:g}; expected a positive cross entropy in nats; choose",
            )
            for floor in (0.0, -1.0, float("nan"), float("inf"))
        ),
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
