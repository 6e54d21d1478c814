"""What a target is: Eq. 9 with every weighting, in both spaces, of the teachers that cover a video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.method import oracle
from tests.method.fleets import (
    LOGITS,
    METHODS,
    PROBS,
    WEIGHTINGS,
    Fleet,
    PartialFleet,
    all_but,
    among,
    assemble,
    fleets,
    name_of,
    observed,
    partial_fleets,
    random_fleet,
)
from ukd_dist.method.weighting import Method, Weighting

BY_THEMSELVES = ("pkd", "gtd", "avg", "avg1", "best")


def least_is_clear(fleet: PartialFleet) -> bool:
    """Whether it is clear who shares the best opinion: others are well within 1e-9 nat, or well beyond.

    In between, the last bit of two ways to compute the cross entropies would decide.
    """
    logits_knc, labels_n, covers_kn = (part.numpy() for part in fleet)
    for n, label in enumerate(labels_n):
        logits_kc = logits_knc[covers_kn[:, n], n].astype(np.float64)
        ce_k = np.array([-oracle.log_softmax(logits_c)[label] for logits_c in logits_kc])
        more_k = ce_k - ce_k.min()
        if ((more_k > 0.9e-9) & (more_k < 1.1e-9)).any():
            return False
    return True


@given(st.data(), st.sampled_from(METHODS), st.floats(0.5, 0.9999), st.none() | st.floats(0.5, 60))
@settings(deadline=None, max_examples=400)
def test_targets_are_the_papers(
    data: st.DataObject, method: Method, h: float, temperature: float | None
) -> None:
    assume(method != "avg1" or temperature is not None)
    space = "logits" if temperature is None else "probs"
    weighting = Weighting(method=method, h=h, space=space, temperature=temperature)  # type: ignore[arg-type]
    fleet = data.draw(partial_fleets(weighting))
    assume(method != "best" or least_is_clear(fleet))
    target_nc = assemble(weighting, *fleet).finish()
    logits_knc, labels_n, covers_kn = fleet[0].double().numpy(), fleet[1].numpy(), fleet[2].numpy()
    expected = oracle.target(logits_knc, labels_n, covers_kn, method=method, h=h, temperature=temperature)
    assert target_nc.dtype == torch.float32
    largest = max(1.0, np.nanmax(np.abs(logits_knc))) if temperature is None else 1.0
    np.testing.assert_allclose(target_nc.numpy(), expected, rtol=0, atol=1e-6 * largest)


@given(fleets(), st.sampled_from(all_but("single")))
@settings(deadline=None, max_examples=200)
def test_the_weights_of_all_teachers_form_a_simplex_and_make_the_target(
    fleet: Fleet, weighting: Weighting
) -> None:
    logits_knc, labels_n = fleet
    assembly, reference_n = assemble(weighting, *fleet), observed(weighting, *fleet)
    weight_kn = torch.stack(
        [weighting.weights(logits_nc, labels_n, assembly.totals(), reference_n) for logits_nc in logits_knc]
    )
    assert (weight_kn >= 0).all()
    # The totals are rounded to 2^-57, of entropies that may be as small as 1e-8.
    torch.testing.assert_close(weight_kn.sum(dim=0), torch.ones_like(weight_kn[0]), rtol=0, atol=1e-8)
    knowledge_knc = logits_knc.double()
    if weighting.temperature is not None:
        knowledge_knc = (knowledge_knc / weighting.temperature).softmax(dim=2)
    expected_nc = (weight_kn.unsqueeze(2) * knowledge_knc).sum(dim=0)
    largest = max(1.0, float(knowledge_knc.abs().max()))
    torch.testing.assert_close(assembly.finish().double(), expected_nc, rtol=0, atol=1e-6 * largest)


@given(st.data(), st.sampled_from(WEIGHTINGS))
@settings(deadline=None, max_examples=200)
def test_a_row_is_taught_by_the_teachers_that_cover_it(data: st.DataObject, weighting: Weighting) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting))
    assembly = assemble(weighting, logits_knc, labels_n, covers_kn)
    target_nc = assembly.finish()
    for n, covering_k in enumerate(covers_kn.T):
        row = slice(n, n + 1)
        alone = assemble(weighting, logits_knc[covering_k, row], labels_n[row])
        assert torch.equal(target_nc[row], alone.finish())
    assert torch.equal(assembly.sums.opinions, covers_kn.sum(dim=0))


@given(fleets(max_teachers=1), st.sampled_from(LOGITS))
@settings(deadline=None)
def test_one_teacher_reduces_to_itself(fleet: Fleet, weighting: Weighting) -> None:
    # Exact where the weighted logit is 0 or at least 2^-32: 1e-5 is, at the least weight of logits up to 1e4.
    logits_knc = torch.where(fleet[0].abs() < 1e-5, 0.0, fleet[0])
    assert torch.equal(assemble(weighting, logits_knc, fleet[1]).finish(), logits_knc[0])


@given(fleets(max_teachers=1), st.sampled_from(among(*BY_THEMSELVES, weightings=LOGITS)), st.integers(2, 3))
@settings(deadline=None)
def test_copies_of_one_teacher_reduce_to_itself(fleet: Fleet, weighting: Weighting, copies: int) -> None:
    logits_knc = torch.where(fleet[0].abs() < 1e-5, 0.0, fleet[0])
    target_nc = assemble(weighting, logits_knc.expand(copies, -1, -1), fleet[1]).finish()
    assert torch.equal(target_nc, logits_knc[0])


@given(fleets(max_teachers=1), st.sampled_from(LOGITS))
@settings(deadline=None)
def test_a_tiny_logit_of_one_teacher_is_kept_within_the_resolution(
    fleet: Fleet, weighting: Weighting
) -> None:
    logits_nc, labels_n = fleet[0][0], fleet[1]
    lead_n = torch.zeros(len(labels_n), dtype=torch.float64)
    coefficient_n = weighting.coefficients(logits_nc, labels_n, lead_n)[0]
    error_nc = (assemble(weighting, *fleet).finish() - logits_nc).abs()
    assert (error_nc <= (2.0**-57 / coefficient_n).unsqueeze(1)).all()


@given(fleets(), st.sampled_from(among(*BY_THEMSELVES)), st.sampled_from([2, 4]))
@settings(deadline=None)
def test_duplicating_every_teacher_changes_no_byte_of_the_target(
    fleet: Fleet, weighting: Weighting, copies: int
) -> None:
    duplicated = assemble(weighting, fleet[0].repeat(copies, 1, 1), fleet[1])
    assert torch.equal(duplicated.finish(), assemble(weighting, *fleet).finish())


@given(fleets(), st.sampled_from(among(*BY_THEMSELVES)))
@settings(deadline=None)
def test_three_copies_of_every_teacher_change_no_target_by_more_than_one_ulp(
    fleet: Fleet, weighting: Weighting
) -> None:
    # Three times a float64 is rounded, so the quotient may end on the other side of a float32's rounding.
    once = assemble(weighting, *fleet).finish()
    thrice = assemble(weighting, fleet[0].repeat(3, 1, 1), fleet[1]).finish()
    np.testing.assert_array_max_ulp(thrice.numpy(), once.numpy(), maxulp=1)


@given(st.data(), st.sampled_from(PROBS))
@settings(deadline=None, max_examples=200)
def test_probabilities_stay_probabilities(data: st.DataObject, weighting: Weighting) -> None:
    target_nc = assemble(weighting, *data.draw(partial_fleets(weighting))).finish()
    assert (target_nc >= 0).all()
    torch.testing.assert_close(target_nc.sum(dim=1), torch.ones(len(target_nc)))


@given(st.integers(17, 28), st.integers(17, 28), st.integers(20, 34))
@settings(deadline=None)
def test_teachers_that_are_nearly_sure_leave_no_probability_below_zero(
    first: int, second: int, unlikely: int
) -> None:
    """Entropies near their floor, and probabilities near the resolution of the sums."""
    logits_knc = torch.tensor([[[0.0, -first, -unlikely]], [[0.0, -second, -unlikely - 1]]])
    for method in ("entropy", "confidence"):
        weighting = Weighting(method=method, space="probs", temperature=1.0)  # type: ignore[arg-type]
        target_nc = assemble(weighting, logits_knc, torch.tensor([0])).finish()
        assert (target_nc >= 0).all()


@pytest.mark.parametrize("weighting", among("entropy"), ids=name_of)
@pytest.mark.parametrize("num_teachers", [2, 3, 5])
def test_teachers_without_entropy_count_the_same(weighting: Weighting, num_teachers: int) -> None:
    labels_n = torch.arange(num_teachers)
    logits_knc = 1e4 * torch.nn.functional.one_hot(labels_n, num_teachers).float().unsqueeze(1)
    mean = replace(weighting, method="avg")
    target_nc = assemble(weighting, logits_knc, labels_n[:1]).finish()
    torch.testing.assert_close(target_nc, assemble(mean, logits_knc, labels_n[:1]).finish())


def test_a_doubtful_teacher_counts_less_and_a_sure_one_more() -> None:
    logits_knc, labels_n = torch.tensor([[[9.0, 0.0]], [[0.0, 0.1]]]), torch.tensor([0])
    for method in ("pkd", "gtd", "best", "entropy", "confidence"):
        target_nc = assemble(Weighting(method=method), logits_knc, labels_n).finish()  # type: ignore[arg-type]
        assert target_nc[0, 0] > 6.0  # the plain mean is 4.5


def test_the_best_teachers_share_a_video_equally() -> None:
    """The second says the same as the first, of logits that are 2 larger; the third is less sure."""
    logits_knc = torch.tensor([[[3.0, 0.0, 1.0]], [[5.0, 2.0, 3.0]], [[2.0, 0.0, 1.0]]])
    target_nc = assemble(Weighting(method="best"), logits_knc, torch.tensor([0])).finish()
    assert target_nc.tolist() == [[4.0, 1.0, 2.0]]


def test_the_target_of_both_averages_is_the_same() -> None:
    fleet = random_fleet(3, 9, 5)
    (first,), (second,) = among("avg1"), among("avg", weightings=PROBS)
    assert torch.equal(assemble(first, *fleet).finish(), assemble(second, *fleet).finish())


@given(st.lists(st.integers(17, 60), min_size=2, max_size=4), st.sampled_from(all_but("single")))
@settings(deadline=None, max_examples=200)
def test_the_target_of_nearly_sure_teachers_lies_between_their_opinions(
    gaps: list[int], weighting: Weighting
) -> None:
    logits_knc = torch.tensor([[[0.0, -gap, -2 * gap]] for gap in gaps], dtype=torch.float32)
    target_nc = assemble(weighting, logits_knc, torch.tensor([0])).finish()
    knowledge_knc = logits_knc
    if weighting.temperature is not None:
        knowledge_knc = (logits_knc / weighting.temperature).softmax(dim=2)
    assert (target_nc >= knowledge_knc.amin(dim=0) - 1e-4).all()
    assert (target_nc <= knowledge_knc.amax(dim=0) + 1e-4).all()
