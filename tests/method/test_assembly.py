"""Properties of the exact running sums over teachers (Eq. 9)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tests.method import oracle
from tests.method.threads import with_threads
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.method.assembly import HIGH_BITS, LOW_BITS, MAX_OPINIONS, MAX_TERM, Assembly
from ukd_dist.method.weighting import Weighting

PKD, GTD, AVG = Weighting(method="pkd"), Weighting(method="gtd"), Weighting(method="avg")
SOFT = [Weighting(method=m, space="probs", temperature=20.0) for m in ("pkd", "gtd", "avg")]
WEIGHTINGS = [PKD, GTD, AVG, *SOFT]

Fleet = tuple[Tensor, Tensor]


@st.composite
def fleets(draw: st.DrawFn, min_teachers: int = 1) -> Fleet:
    """Logits up to +-1e4 of several teachers, float32 [K, n, C], and labels [n]."""
    k, n, c = draw(st.integers(min_teachers, 5)), draw(st.integers(1, 5)), draw(st.integers(2, 12))
    logits = draw(arrays(np.float32, (k, n, c), elements=st.floats(-1e4, 1e4, width=32)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def random_fleet(num_teachers: int, num_rows: int, num_classes: int, seed: int = 0) -> Fleet:
    generator = torch.Generator().manual_seed(seed)
    logits_knc = torch.randn(num_teachers, num_rows, num_classes, generator=generator) * 5
    return logits_knc, torch.randint(num_classes, (num_rows,), generator=generator)


def assemble(weighting: Weighting, logits_knc: Tensor, labels_n: Tensor) -> Assembly:
    assembly = Assembly(weighting, *logits_knc.shape[1:])
    for logits_nc in logits_knc:
        assembly.add(logits_nc, labels_n)
    return assembly


def same_bytes(ours: Assembly, theirs: Assembly) -> bool:
    return (
        torch.equal(ours.numerator, theirs.numerator)
        and torch.equal(ours.denominator, theirs.denominator)
        and torch.equal(ours.opinions, theirs.opinions)
    )


every_weighting = st.sampled_from(WEIGHTINGS)


@given(
    fleets(), st.sampled_from(["pkd", "gtd", "avg"]), st.floats(0.5, 0.9999), st.none() | st.floats(0.5, 60)
)
@settings(deadline=None, max_examples=200)
def test_targets_are_the_papers(fleet: Fleet, method: str, h: float, temperature: float | None) -> None:
    space = "logits" if temperature is None else "probs"
    weighting = Weighting(method=method, h=h, space=space, temperature=temperature)  # type: ignore[arg-type]
    target_nc = assemble(weighting, *fleet).finish()
    logits_knc, labels_n = fleet[0].double().numpy(), fleet[1].numpy()
    expected = oracle.target(logits_knc, labels_n, method=method, h=h, temperature=temperature)
    assert target_nc.dtype == torch.float32
    largest = max(1.0, np.abs(logits_knc).max()) if temperature is None else 1.0
    np.testing.assert_allclose(target_nc.numpy(), expected, rtol=0, atol=1e-6 * largest)


@given(fleets(2), every_weighting, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_teachers_changes_no_byte(fleet: Fleet, weighting: Weighting, random: object) -> None:
    logits_knc, labels_n = fleet
    order = list(range(len(logits_knc)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert same_bytes(assemble(weighting, logits_knc[order], labels_n), assemble(weighting, *fleet))


@given(fleets(2), every_weighting, st.data())
@settings(deadline=None)
def test_splitting_the_fleet_and_merging_changes_no_byte(
    fleet: Fleet, weighting: Weighting, data: st.DataObject
) -> None:
    logits_knc, labels_n = fleet
    part_k = data.draw(st.lists(st.integers(0, 2), min_size=len(logits_knc), max_size=len(logits_knc)))
    merged = Assembly(weighting, *logits_knc.shape[1:])
    for part in (2, 0, 1):
        members = [k for k, p in enumerate(part_k) if p == part]
        merged.merge(assemble(weighting, logits_knc[members], labels_n))
    assert same_bytes(merged, assemble(weighting, *fleet))


@given(fleets(2), every_weighting)
@settings(deadline=None)
def test_adding_then_removing_a_teacher_changes_no_byte(fleet: Fleet, weighting: Weighting) -> None:
    logits_knc, labels_n = fleet
    assembly = assemble(weighting, *fleet)
    assembly.remove(logits_knc[0], labels_n)
    rest = assemble(weighting, logits_knc[1:], labels_n)
    assert same_bytes(assembly, rest)
    assert torch.equal(assembly.finish(), rest.finish())


@given(fleets(), every_weighting)
@settings(deadline=None)
def test_removing_every_teacher_leaves_zeros(fleet: Fleet, weighting: Weighting) -> None:
    assembly = assemble(weighting, *fleet)
    for logits_nc in fleet[0]:
        assembly.remove(logits_nc, fleet[1])
    assert same_bytes(assembly, Assembly(weighting, *fleet[0].shape[1:]))


@given(fleets(), every_weighting, st.sampled_from([2, 4]))
@settings(deadline=None)
def test_duplicating_every_teacher_changes_no_byte_of_the_target(
    fleet: Fleet, weighting: Weighting, copies: int
) -> None:
    duplicated = assemble(weighting, fleet[0].repeat(copies, 1, 1), fleet[1])
    assert torch.equal(duplicated.finish(), assemble(weighting, *fleet).finish())


@given(fleets(), every_weighting)
@settings(deadline=None)
def test_three_copies_of_every_teacher_change_no_target_by_more_than_one_ulp(
    fleet: Fleet, weighting: Weighting
) -> None:
    # Three times a float64 is rounded, so the quotient may end on the other side of a float32's rounding.
    once = assemble(weighting, *fleet).finish()
    thrice = assemble(weighting, fleet[0].repeat(3, 1, 1), fleet[1]).finish()
    np.testing.assert_array_max_ulp(thrice.numpy(), once.numpy(), maxulp=1)


@given(fleets(), st.sampled_from([PKD, GTD, AVG]), st.integers(1, 3))
@settings(deadline=None)
def test_one_teacher_reduces_to_itself(fleet: Fleet, weighting: Weighting, copies: int) -> None:
    # Exact where the weighted logit is 0 or at least 2^-32: 1e-5 is, at the least weight of logits up to 1e4.
    logits_nc = torch.where(fleet[0][0].abs() < 1e-5, 0.0, fleet[0][0])
    target_nc = assemble(weighting, logits_nc.expand(copies, -1, -1), fleet[1]).finish()
    assert torch.equal(target_nc, logits_nc)


@given(fleets(), st.sampled_from([PKD, GTD, AVG]))
@settings(deadline=None)
def test_a_tiny_logit_of_one_teacher_is_kept_within_the_resolution(
    fleet: Fleet, weighting: Weighting
) -> None:
    logits_nc, labels_n = fleet[0][0], fleet[1]
    weights_n = weighting.weights(logits_nc, labels_n)
    error_nc = (assemble(weighting, logits_nc[None], labels_n).finish() - logits_nc).abs()
    assert (error_nc <= (2.0**-57 / weights_n).unsqueeze(1)).all()


@given(fleets(), st.sampled_from(SOFT))
@settings(deadline=None)
def test_probabilities_stay_probabilities(fleet: Fleet, weighting: Weighting) -> None:
    target_nc = assemble(weighting, *fleet).finish()
    assert (target_nc >= 0).all()
    torch.testing.assert_close(target_nc.sum(dim=1), torch.ones(len(target_nc)))


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: f"{w.method}-{w.space}")
@pytest.mark.parametrize("num_classes", [11, 400])
def test_the_division_into_blocks_changes_no_byte(weighting: Weighting, num_classes: int) -> None:
    logits_knc, labels_n = random_fleet(2, 701, num_classes)
    expected = assemble(weighting, logits_knc, labels_n)
    for block in (1, 7, 256):
        for start in range(0, 701, block):
            rows = slice(start, start + block)
            part = assemble(weighting, logits_knc[:, rows], labels_n[rows])
            assert torch.equal(part.numerator, expected.numerator[rows])
            assert torch.equal(part.denominator, expected.denominator[rows])


@pytest.mark.parametrize("weighting", [PKD, SOFT[0]], ids=lambda w: f"{w.method}-{w.space}")
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_byte(weighting: Weighting, threads: int) -> None:
    logits_knc, labels_n = random_fleet(2, 401, 400)
    expected = assemble(weighting, logits_knc, labels_n)
    found = with_threads(threads, lambda: assemble(weighting, logits_knc, labels_n))
    assert same_bytes(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float16_logits_and_their_wider_copies_give_the_same_bytes(dtype: torch.dtype) -> None:
    logits_knc, labels_n = random_fleet(3, 20, 11)
    halves = assemble(PKD, logits_knc.half(), labels_n)
    assert same_bytes(assemble(PKD, logits_knc.half().to(dtype), labels_n), halves)


def test_logits_in_another_memory_layout_give_the_same_bytes() -> None:
    logits_knc, labels_n = random_fleet(2, 50, 11)
    transposed = logits_knc.transpose(1, 2).contiguous().transpose(1, 2)
    assert same_bytes(assemble(PKD, transposed, labels_n), assemble(PKD, logits_knc, labels_n))


@given(fleets(2), every_weighting, st.data())
@settings(deadline=None)
def test_a_row_is_taught_by_the_teachers_that_cover_it(
    fleet: Fleet, weighting: Weighting, data: st.DataObject
) -> None:
    logits_knc, labels_n = fleet[0].clone(), fleet[1]
    covers_kn = torch.from_numpy(data.draw(arrays(np.bool_, logits_knc.shape[:2])))
    covers_kn[0] = True
    logits_knc[~covers_kn] = torch.nan
    assembly = Assembly(weighting, *logits_knc.shape[1:])
    for logits_nc, covers_n in zip(logits_knc, covers_kn, strict=True):
        assembly.add(logits_nc, labels_n, covers_n)
    target_nc = assembly.finish()
    for n, covering_k in enumerate(covers_kn.T):
        alone = assemble(weighting, logits_knc[covering_k, n : n + 1], labels_n[n : n + 1])
        assert torch.equal(target_nc[n], alone.finish()[0])
    assert torch.equal(assembly.opinions, covers_kn.sum(dim=0))


def test_a_partial_teacher_is_removed_from_its_rows_alone() -> None:
    (whole, partial), labels_n = random_fleet(2, 4, 3)
    covers_n = torch.tensor([True, False, False, True])
    assembly = assemble(PKD, whole[None], labels_n)
    assembly.add(partial, labels_n, covers_n)
    assembly.remove(partial, labels_n, covers_n)
    assert same_bytes(assembly, assemble(PKD, whole[None], labels_n))


def test_a_million_of_the_largest_terms_do_not_wrap() -> None:
    assert MAX_OPINIONS * int(MAX_TERM) * 2**HIGH_BITS < 2**63
    assert MAX_OPINIONS * 2 ** (LOW_BITS - 1) < 2**62
    largest = np.nextafter(MAX_TERM, 0)
    logits_nc = torch.tensor([[largest, -largest, largest / 3]], dtype=torch.float64)
    doubled = assemble(AVG, logits_nc[None], torch.tensor([0]))
    total = Assembly(AVG, 1, 3)
    for _ in range(20):
        total.merge(doubled)
        if doubled.opinions < 2**19:
            doubled.merge(doubled)
    assert total.opinions.item() == MAX_OPINIONS
    assert torch.equal(total.finish(), logits_nc.float())


def test_large_terms_of_opposite_sign_cancel_exactly() -> None:
    large, small, labels_n = torch.full((1, 2), 5e8), torch.tensor([[3e-9, -0.1]]), torch.tensor([0])
    assembly = assemble(AVG, torch.stack([large, small, -large]), labels_n)
    torch.testing.assert_close(assembly.finish(), small / 3, rtol=1e-6, atol=2.0**-57)


def test_finishing_early_does_not_disturb_the_sums() -> None:
    logits_knc, labels_n = random_fleet(2, 5, 3)
    assembly = assemble(PKD, logits_knc[:1], labels_n)
    assembly.finish()
    assembly.add(logits_knc[1], labels_n)
    assert same_bytes(assembly, assemble(PKD, logits_knc, labels_n))


def test_partial_sums_travel_between_processes() -> None:
    assembly = assemble(PKD, *random_fleet(2, 5, 3))
    assert same_bytes(pickle.loads(pickle.dumps(assembly)), assembly)


def test_adding_leaves_the_teachers_logits_alone() -> None:
    (logits_nc,), labels_n = random_fleet(1, 5, 3)
    logits_nc = logits_nc.double()
    before = logits_nc.clone()
    for weighting in WEIGHTINGS:
        assemble(weighting, logits_nc[None], labels_n)
    assert torch.equal(logits_nc, before)


def test_rows_without_a_teacher_are_counted_and_numbered() -> None:
    logits_knc, labels_n = random_fleet(1, 20, 3)
    assembly = Assembly(PKD, 20, 3, first_row=100)
    assembly.add(logits_knc[0], labels_n, torch.arange(20) >= 12)
    rows = "100, 101, 102, 103, 104, 105, 106, 107, 108, 109, ..."
    with pytest.raises(
        DataError, match=f"^no teacher covers 12 of 20 rows: {rows}; expected at least one .*; add"
    ):
        assembly.finish()


def test_a_nan_is_refused_by_its_number_and_row_and_nothing_is_added() -> None:
    logits_knc, labels_n = random_fleet(2, 20, 3)
    assembly = Assembly(PKD, 20, 3, first_row=40)
    assembly.add(logits_knc[0], labels_n)
    before = pickle.loads(pickle.dumps(assembly))
    logits_knc[1, 7, 1] = torch.nan
    with pytest.raises(
        DataError, match=r"^1 logits are NaN or infinite, the first in row 47; expected finite"
    ):
        assembly.add(logits_knc[1], labels_n)
    assert same_bytes(assembly, before)


def test_a_weighted_logit_beyond_the_range_is_refused_and_nothing_is_added() -> None:
    assembly = Assembly(GTD, 2, 2, first_row=10)
    with pytest.raises(
        DataError, match=r"^a weighted logit of row 11 is 1e\+09 \(its weight is 10000\); expected less"
    ):
        assembly.add(torch.tensor([[1.0, 0.0], [1e5, 0.0]]), torch.tensor([0, 0]))
    assert same_bytes(assembly, Assembly(GTD, 2, 2))


def test_more_teachers_than_the_sums_have_room_for_are_refused() -> None:
    (logits_nc,), labels_n = random_fleet(1, 2, 3)
    assembly = assemble(PKD, logits_nc[None], labels_n)
    assembly.opinions[1] = MAX_OPINIONS
    for more in (lambda: assembly.add(logits_nc, labels_n), lambda: assembly.merge(assembly)):
        before = pickle.loads(pickle.dumps(assembly))
        with pytest.raises(
            DataError, match=r"^row 1 would have [0-9]* teachers; expected at most 1048575, .*; assem"
        ):
            more()
        assert same_bytes(assembly, before)


def test_removing_a_teacher_that_was_never_added_is_refused_and_nothing_is_removed() -> None:
    logits_knc, labels_n = random_fleet(2, 4, 3)
    for assembly in (Assembly(PKD, 4, 3), assemble(PKD, logits_knc[:1], labels_n)):
        before = pickle.loads(pickle.dumps(assembly))
        with pytest.raises(
            DataError, match=r"^a teacher was to be removed that is not in these sums; expected"
        ):
            assembly.remove(logits_knc[1], labels_n)
        assert same_bytes(assembly, before)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Assembly(AVG, 4, 3), "differ in weighting: Weighting.*; expected Weighting.*; merge"),
        (
            Assembly(Weighting(method="pkd", h=0.9), 4, 3),
            "differ in weighting: .*h=0.9,.*; expected .*h=0.99,",
        ),
        (Assembly(PKD, 4, 3, first_row=4), "differ in first row: 4; expected 0; merge"),
        (Assembly(PKD, 5, 3), r"differ in rows and classes: \[5, 3\]; expected \[4, 3\]; merge"),
        (Assembly(PKD, 4, 2), r"differ in rows and classes: \[4, 2\]; expected \[4, 3\]; merge"),
    ],
)
def test_partial_sums_that_do_not_belong_together_are_refused_by_what_differs(
    other: Assembly, message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        Assembly(PKD, 4, 3).merge(other)


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (4, 1), (1, 3)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(
        DataError, match=r"^the logits' shape is \[.*\]; expected \[4, 3\], the block's .*; give"
    ):
        Assembly(PKD, 4, 3).add(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


@pytest.mark.parametrize(
    "covers_n", [torch.ones(3, dtype=torch.bool), torch.ones(4), torch.tensor([0, 1, 2, 3])]
)
def test_covered_rows_of_another_form_are_refused(covers_n: Tensor) -> None:
    with pytest.raises(DataError, match=r"^the covered rows are .*; expected torch.bool \[4\]; mark"):
        Assembly(PKD, 4, 3).add(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), covers_n)


def test_an_h_below_one_over_the_classes_is_refused_before_anything_is_added() -> None:
    with pytest.raises(UsageError, match=r"^h is 0.3; expected 1/C <= h < 1, where 1/C is 0.333333; choose"):
        Assembly(Weighting(method="pkd", h=0.3), 4, 3)
    Assembly(Weighting(method="avg", h=0.3), 4, 3)
