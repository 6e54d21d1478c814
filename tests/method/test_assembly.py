"""Properties of the exact running sums over teachers: whatever their history, the same bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.method import oracle
from tests.method.fleets import (
    WEIGHTINGS,
    all_but,
    assemble,
    name_of,
    observed,
    partial_fleets,
    random_fleet,
    same_bytes,
)
from tests.method.threads import with_threads
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.fixedpoint import HIGH_BITS, LOW_BITS, MAX_TERM, MAX_TERMS
from ukd_dist.method.weighting import Space, Weighting

PKD, AVG = Weighting(method="pkd"), Weighting(method="avg")
REMOVABLE = all_but("best", "confidence")

every_weighting = st.sampled_from(WEIGHTINGS)


@given(st.data(), every_weighting, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_the_order_of_teachers_changes_no_byte(
    data: st.DataObject, weighting: Weighting, random: object
) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting, 2))
    order = list(range(len(logits_knc)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = assemble(weighting, logits_knc[order], labels_n, covers_kn[order])
    assert same_bytes(shuffled, assemble(weighting, logits_knc, labels_n, covers_kn))


@given(st.data(), st.sampled_from(["logits", "probs"]))
@settings(deadline=None, max_examples=50)
def test_an_average_of_scaled_teachers_is_their_mean_by_these_weights(
    data: st.DataObject, space: Space
) -> None:
    tau = 20.0 if space == "probs" else None
    weighting = Weighting(method="avg", space=space, temperature=tau)
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting))
    teachers = len(logits_knc)
    scales = data.draw(st.lists(st.floats(0.01, 1.0), min_size=teachers, max_size=teachers))
    assembly = Assembly(weighting, *logits_knc.shape[1:])
    for logits_nc, covers_n, scale in zip(logits_knc, covers_kn, scales, strict=True):
        assembly.add(logits_nc, labels_n, covers_n, scale=scale)

    opinions = logits_knc.double().nan_to_num().numpy()
    opinions = oracle.softmax(opinions, tau) if tau else opinions
    weights_kn = np.array(scales)[:, None] * covers_kn.numpy()
    expected = np.einsum("kn,knc->nc", weights_kn / weights_kn.sum(axis=0), opinions)
    np.testing.assert_allclose(
        assembly.finish(), expected, rtol=1e-6, atol=1e-6 * max(1, np.abs(opinions).max())
    )


@given(st.data(), every_weighting)
@settings(deadline=None, max_examples=150)
def test_splitting_the_fleet_and_merging_changes_no_byte(data: st.DataObject, weighting: Weighting) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting, 2))
    reference_n = observed(weighting, logits_knc, labels_n, covers_kn)
    part_k = data.draw(st.lists(st.integers(0, 2), min_size=len(logits_knc), max_size=len(logits_knc)))
    merged = Assembly(weighting, *logits_knc.shape[1:], reference_n=reference_n)
    for part in (2, 0, 1):
        of = [k for k, p in enumerate(part_k) if p == part]
        merged.merge(assemble(weighting, logits_knc[of], labels_n, covers_kn[of], reference_n=reference_n))
    whole = assemble(weighting, logits_knc, labels_n, covers_kn)
    assert same_bytes(merged, whole)
    assert torch.equal(merged.finish(), whole.finish())


@given(st.data(), st.sampled_from(REMOVABLE))
@settings(deadline=None, max_examples=150)
def test_adding_then_removing_a_teacher_changes_no_byte(data: st.DataObject, weighting: Weighting) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting, 2))
    assembly = assemble(weighting, logits_knc, labels_n, covers_kn)
    assembly.remove(logits_knc[0], labels_n, covers_kn[0])
    rest = assemble(weighting, logits_knc[1:], labels_n, covers_kn[1:])
    assert same_bytes(assembly, rest)
    if (rest.sums.opinions > 0).all():
        assert torch.equal(assembly.finish(), rest.finish())


@given(st.data(), st.sampled_from(REMOVABLE))
@settings(deadline=None)
def test_removing_every_teacher_leaves_zeros(data: st.DataObject, weighting: Weighting) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting))
    assembly = assemble(weighting, logits_knc, labels_n, covers_kn)
    for logits_nc, covers_n in zip(logits_knc, covers_kn, strict=True):
        assembly.remove(logits_nc, labels_n, covers_n)
    assert same_bytes(assembly, Assembly(weighting, *logits_knc.shape[1:]))


@given(st.data(), every_weighting)
@settings(deadline=None)
def test_a_state_goes_through_a_file_and_back_without_changing_a_byte(
    data: st.DataObject, weighting: Weighting
) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting))
    assembly = assemble(weighting, logits_knc, labels_n, covers_kn)
    restored = Assembly(weighting, *logits_knc.shape[1:], reference_n=assembly.reference_n)
    restored.sums.restore(load(save(assembly.sums.state())))
    assert same_bytes(restored, assembly)
    assert torch.equal(restored.finish(), assembly.finish())


@pytest.mark.parametrize("weighting", all_but("single"), ids=name_of)
@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_state_is_a_copy_with_rows_first_and_so_is_what_is_restored(
    weighting: Weighting, num_rows: int
) -> None:
    logits_knc, labels_n = random_fleet(2, num_rows, 3)
    reference_n = observed(weighting, logits_knc, labels_n)
    assembly = assemble(weighting, logits_knc[:1], labels_n, reference_n=reference_n)
    state = assembly.sums.state()
    before = {name: value.clone() for name, value in state.items()}
    restored = Assembly(weighting, num_rows, 3, reference_n=reference_n)
    restored.sums.restore(state)
    for sums in (assembly, restored):
        sums.add(logits_knc[1], labels_n)
        assert same_bytes(sums, assemble(weighting, logits_knc, labels_n))
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert all(len(value) == num_rows and value.is_contiguous() for value in state.values())


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name_of)
@pytest.mark.parametrize("num_classes", [11, 400])
def test_the_division_into_blocks_changes_no_byte(weighting: Weighting, num_classes: int) -> None:
    logits_knc, labels_n = random_fleet(1 if weighting.method == "single" else 2, 701, num_classes)
    expected = assemble(weighting, logits_knc, labels_n).sums.state()
    for block, step in ((1, 7), (7, 7), (256, 256)):
        for start in range(0, 701, step):
            rows = slice(start, start + block)
            part = assemble(weighting, logits_knc[:, rows], labels_n[rows]).sums.state()
            assert all(torch.equal(part[name], expected[name][rows]) for name in part)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name_of)
@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_byte(weighting: Weighting, threads: int) -> None:
    fleet = random_fleet(1 if weighting.method == "single" else 2, 401, 400)
    expected = assemble(weighting, *fleet)
    found = with_threads(threads, lambda: assemble(weighting, *fleet))
    assert same_bytes(found, expected)
    assert torch.equal(with_threads(threads, found.finish), expected.finish())


@pytest.mark.parametrize("weighting", all_but("single"), ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float16_logits_and_their_wider_copies_give_the_same_bytes(
    weighting: Weighting, dtype: torch.dtype
) -> None:
    logits_knc, labels_n = random_fleet(3, 20, 11)
    halves = assemble(weighting, logits_knc.half(), labels_n)
    assert same_bytes(assemble(weighting, logits_knc.half().to(dtype), labels_n), halves)


@pytest.mark.parametrize("weighting", all_but("single"), ids=name_of)
def test_logits_in_another_memory_layout_give_the_same_bytes(weighting: Weighting) -> None:
    logits_knc, labels_n = random_fleet(2, 50, 11)
    transposed = logits_knc.transpose(1, 2).contiguous().transpose(1, 2)
    assert same_bytes(assemble(weighting, transposed, labels_n), assemble(weighting, logits_knc, labels_n))


def test_a_partial_teacher_is_removed_from_its_rows_alone() -> None:
    (whole, partial), labels_n = random_fleet(2, 4, 3)
    covers_n = torch.tensor([True, False, False, True])
    assembly = assemble(PKD, whole[None], labels_n)
    assembly.add(partial, labels_n, covers_n)
    assembly.remove(partial, labels_n, covers_n)
    assert same_bytes(assembly, assemble(PKD, whole[None], labels_n))


def test_a_million_of_the_largest_terms_do_not_wrap() -> None:
    assert MAX_TERMS * int(MAX_TERM) * 2**HIGH_BITS < 2**63
    assert MAX_TERMS * 2 ** (LOW_BITS - 1) < 2**62
    largest = np.nextafter(MAX_TERM, 0)
    logits_nc = torch.tensor([[largest, -largest, largest / 3]], dtype=torch.float64)
    doubled = assemble(AVG, logits_nc[None], torch.tensor([0]))
    total = Assembly(AVG, 1, 3)
    for _ in range(20):
        total.merge(doubled)
        if doubled.sums.opinions < 2**19:
            doubled.merge(doubled)
    assert total.sums.opinions.item() == MAX_TERMS
    assert torch.equal(total.finish(), logits_nc.float())


def test_large_terms_of_opposite_sign_cancel_exactly() -> None:
    large, small, labels_n = torch.full((1, 2), 5e8), torch.tensor([[3e-9, -0.1]]), torch.tensor([0])
    assembly = assemble(AVG, torch.stack([large, small, -large]), labels_n)
    torch.testing.assert_close(assembly.finish(), small / 3, rtol=1e-6, atol=2.0**-57)


@pytest.mark.parametrize("weighting", all_but("single", "best", "confidence"), ids=name_of)
def test_finishing_early_does_not_disturb_the_sums(weighting: Weighting) -> None:
    logits_knc, labels_n = random_fleet(2, 5, 3)
    assembly = assemble(weighting, logits_knc[:1], labels_n)
    assembly.finish()
    assembly.totals()
    assembly.add(logits_knc[1], labels_n)
    assert same_bytes(assembly, assemble(weighting, logits_knc, labels_n))


def test_partial_sums_travel_between_processes() -> None:
    assembly = assemble(PKD, *random_fleet(2, 5, 3))
    assert same_bytes(pickle.loads(pickle.dumps(assembly)), assembly)


def test_adding_leaves_the_teachers_logits_alone() -> None:
    logits_knc, labels_n = random_fleet(1, 5, 3)
    logits_knc = logits_knc.double()
    before = logits_knc.clone()
    for weighting in WEIGHTINGS:
        assemble(weighting, logits_knc, labels_n)
    assert torch.equal(logits_knc, before)
