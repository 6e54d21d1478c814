"""Weightings that compare teachers, `best` and `confidence`: all are observed before one is added."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.method.fleets import (
    PartialFleet,
    among,
    assemble,
    fleets,
    name_of,
    observed,
    partial_fleets,
    random_fleet,
    same_bytes,
)
from tests.method.threads import with_threads
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.reference import observe
from ukd_dist.method.weighting import Weighting

COMPARING = among("best", "confidence")
BEST, CONFIDENCE = Weighting(method="best"), Weighting(method="confidence")

comparing = st.sampled_from(COMPARING)
each_comparing = pytest.mark.parametrize("weighting", COMPARING, ids=name_of)


def reference(weighting: Weighting, *fleet: Tensor) -> Tensor:
    reference_n = observed(weighting, *fleet)
    assert reference_n is not None
    return reference_n


def led_by_the_second(weighting: Weighting) -> tuple[Tensor, Tensor]:
    """Two teachers of 4 rows; the second has the larger score in row 2 alone."""
    sure, wrong = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0.0, 5.0, 0.0])
    leads, follows = (sure, wrong) if weighting.method == "best" else (wrong, sure)
    logits_knc = torch.stack([leads, follows]).unsqueeze(1).repeat(1, 4, 1)
    logits_knc[:, 2] = logits_knc[[1, 0], 2]
    return logits_knc, torch.zeros(4, dtype=torch.int64)


def test_these_weightings_compare_and_no_other() -> None:
    assert [w for w in among("pkd", "gtd", "avg", "avg1", "single", "entropy") if w.compares] == []
    assert all(weighting.compares for weighting in COMPARING)


@given(st.data(), comparing)
@settings(deadline=None)
def test_references_of_parts_merge_by_their_maximum(data: st.DataObject, weighting: Weighting) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting, 2))
    parts = [
        reference(weighting, logits_knc[part], labels_n, covers_kn[part])
        for part in (slice(1, None), slice(0, 1))
    ]
    whole = reference(weighting, logits_knc, labels_n, covers_kn)
    assert torch.equal(torch.maximum(*parts), whole)
    assert whole.isfinite().all()


@given(fleets(), comparing)
@settings(deadline=None)
def test_the_reference_is_the_largest_score(fleet: tuple[Tensor, Tensor], weighting: Weighting) -> None:
    scores_kn = torch.stack([weighting.scores(logits_nc, fleet[1]) for logits_nc in fleet[0]])
    assert torch.equal(reference(weighting, *fleet), scores_kn.amax(dim=0))


@each_comparing
def test_a_reference_is_the_same_bytes_in_any_block_and_at_any_number_of_threads(
    weighting: Weighting,
) -> None:
    logits_knc, labels_n = random_fleet(2, 701, 400)
    expected = reference(weighting, logits_knc, labels_n)
    for block in (7, 256):
        blocks = [slice(start, start + block) for start in range(0, 701, block)]
        parts = [reference(weighting, logits_knc[:, rows], labels_n[rows]) for rows in blocks]
        assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(with_threads(3, lambda: reference(weighting, logits_knc, labels_n)), expected)


@given(st.data(), comparing)
@settings(deadline=None)
def test_without_a_teacher_the_target_is_assembled_again_from_the_rest(
    data: st.DataObject, weighting: Weighting
) -> None:
    logits_knc, labels_n, covers_kn = data.draw(partial_fleets(weighting, 2))
    assembly = assemble(weighting, logits_knc, labels_n, covers_kn)
    before = assembly.finish()
    with pytest.raises(
        UsageError,
        match=rf"^a teacher is to be removed from a target of method '{weighting.method}'; expected a "
        r"weighting that weighs each teacher by itself.*; assemble again from the teachers",
    ):
        assembly.remove(logits_knc[0], labels_n, covers_kn[0])
    assert torch.equal(assembly.finish(), before)
    rest: PartialFleet = (logits_knc[1:], labels_n, covers_kn[1:])
    reordered = (rest[0].flip(0), rest[1], rest[2].flip(0))
    assert same_bytes(assemble(weighting, *rest), assemble(weighting, *reordered))


@each_comparing
def test_a_teacher_that_was_not_observed_and_leads_is_refused_and_nothing_is_added(
    weighting: Weighting,
) -> None:
    logits_knc, labels_n = led_by_the_second(weighting)
    reference_n = reference(weighting, logits_knc[:1], labels_n)
    assembly = Assembly(weighting, 4, 3, first_row=10, reference_n=reference_n)
    assembly.add(logits_knc[0], labels_n)
    before = pickle.loads(pickle.dumps(assembly))
    with pytest.raises(
        DataError,
        match=r"^a teacher leads in row 12 that was not observed; expected a reference that has seen every "
        r"teacher; observe every teacher before the first is added",
    ):
        assembly.add(logits_knc[1], labels_n)
    assert same_bytes(assembly, before)


@each_comparing
def test_a_teacher_that_leads_only_where_it_covers_no_row_is_none_that_leads(weighting: Weighting) -> None:
    logits_knc, labels_n = led_by_the_second(weighting)
    covers_kn = torch.tensor([[True] * 4, [True, True, False, True]])
    reference_n = reference(weighting, logits_knc, labels_n, covers_kn)
    assert torch.equal(reference_n, reference(weighting, logits_knc[:1], labels_n))
    assert assemble(weighting, logits_knc, labels_n, covers_kn).sums.opinions.tolist() == [2, 2, 1, 2]


@each_comparing
def test_without_the_teacher_that_leads_there_is_no_target(weighting: Weighting) -> None:
    logits_knc, labels_n = led_by_the_second(weighting)
    reference_n = reference(weighting, logits_knc, labels_n)
    assembly = Assembly(weighting, 4, 3, first_row=10, reference_n=reference_n)
    assembly.add(logits_knc[0], labels_n)
    with pytest.raises(
        DataError,
        match=r"^the teacher that leads in row 12 was observed and not added; expected a reference of the "
        r"teachers that are added, and of no other; add every teacher that was observed",
    ):
        assembly.finish()
    assembly.add(logits_knc[1], labels_n)
    assert torch.equal(assembly.finish(), assemble(weighting, logits_knc, labels_n).finish())


@each_comparing
def test_parts_with_different_references_are_refused(weighting: Weighting) -> None:
    logits_knc, labels_n = led_by_the_second(weighting)
    first, second = (assemble(weighting, logits_knc[k : k + 1], labels_n) for k in (0, 1))
    before = pickle.loads(pickle.dumps(first))
    with pytest.raises(
        MismatchError,
        match=r"^partial sums differ in the reference of 4 rows; expected one reference, .*; observe the",
    ):
        first.merge(second)
    assert same_bytes(first, before)


@each_comparing
def test_an_assembly_without_a_reference_is_refused(weighting: Weighting) -> None:
    with pytest.raises(
        UsageError,
        match=rf"^'{weighting.method}' compares teachers, and there is no reference; expected the reference "
        r"that every teacher was observed for; call `observe` with every teacher first",
    ):
        Assembly(weighting, 4, 3)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (
            torch.full((4, 3), torch.nan),
            "^12 logits are NaN or infinite, the first in row 10; expected finite",
        ),
        (torch.zeros(1, 3), r"^the logits' shape is \[1, 3\]; expected \[4, C\], the reference's rows; give"),
        (torch.zeros(4), r"^the logits' shape is \[4\]; expected \[4, C\], the reference's rows; give"),
    ],
)
@each_comparing
def test_what_cannot_be_observed_leaves_the_reference_as_it_was(
    weighting: Weighting, spoilt: Tensor, message: str
) -> None:
    logits_knc, labels_n = led_by_the_second(weighting)
    reference_n = reference(weighting, logits_knc, labels_n)
    before = reference_n.clone()
    with pytest.raises(DataError, match=message):
        observe(weighting, spoilt, labels_n, reference_n, first_row=10)
    with pytest.raises(DataError, match=r"^the covered rows are torch.bool \[3\]; expected torch.bool \[4\]"):
        observe(weighting, logits_knc[0], labels_n, reference_n, torch.ones(3, dtype=torch.bool))
    assert torch.equal(reference_n, before)


def test_observing_leaves_the_logits_alone() -> None:
    logits_knc, labels_n = random_fleet(1, 5, 3)
    logits_knc[0, 2] = torch.nan
    before = logits_knc.clone()
    reference(CONFIDENCE, logits_knc, labels_n, (torch.arange(5) != 2)[None])
    torch.testing.assert_close(logits_knc, before, rtol=0, atol=0, equal_nan=True)


def test_two_sure_teachers_that_contradict_each_other_are_told_apart_by_the_truth() -> None:
    logits_knc, labels_n = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]]), torch.tensor([1])
    for weighting in (BEST, CONFIDENCE):
        assert assemble(weighting, logits_knc, labels_n).finish().tolist() == [[0.0, 1e4]]
