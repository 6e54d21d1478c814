"""What the exact running sums refuse, and that they are afterwards as they were."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from tests.method.fleets import (
    WEIGHTINGS,
    all_but,
    among,
    assemble,
    name_of,
    observed,
    random_fleet,
    same_bytes,
)
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.fixedpoint import MAX_TERMS
from ukd_dist.method.weighting import Weighting

PKD, GTD, AVG = Weighting(method="pkd"), Weighting(method="gtd"), Weighting(method="avg")


def test_rows_without_a_teacher_are_counted_and_numbered() -> None:
    logits_knc, labels_n = random_fleet(1, 20, 3)
    assembly = Assembly(PKD, 20, 3, first_row=100)
    assembly.add(logits_knc[0], labels_n, torch.arange(20) >= 12)
    rows = "100, 101, 102, 103, 104, 105, 106, 107, 108, 109, ..."
    with pytest.raises(
        DataError, match=f"^no teacher covers 12 of 20 rows: {rows}; expected at least one .*; add"
    ):
        assembly.finish()


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name_of)
def test_a_nan_is_refused_by_its_number_and_row_and_nothing_is_added(weighting: Weighting) -> None:
    logits_knc, labels_n = random_fleet(2, 20, 3)
    reference_n = observed(weighting, logits_knc[:1], labels_n)
    assembly = Assembly(weighting, 20, 3, first_row=40, reference_n=reference_n)
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


def test_an_entropy_makes_a_weighted_logit_that_is_refused_like_any_other() -> None:
    assembly = Assembly(Weighting(method="entropy"), 1, 12)
    with pytest.raises(
        DataError, match=r"^a weighted logit of row 0 is 1.24245e\+09 \(its weight is 2.48491\); expected"
    ):
        assembly.add(torch.full((1, 12), 5e8), torch.tensor([0]))
    assert same_bytes(assembly, Assembly(Weighting(method="entropy"), 1, 12))


@pytest.mark.parametrize("weighting", among("single"), ids=name_of)
def test_a_single_teachers_target_has_no_room_for_a_second_opinion(weighting: Weighting) -> None:
    logits_knc, labels_n = random_fleet(2, 4, 3)
    covers_n = torch.tensor([False, False, True, False])
    assembly = assemble(weighting, logits_knc[:1], labels_n)
    second = Assembly(weighting, 4, 3)
    second.add(logits_knc[1], labels_n, covers_n)
    for more in (lambda: assembly.add(logits_knc[1], labels_n, covers_n), lambda: assembly.merge(second)):
        with pytest.raises(
            DataError, match=r"^row 2 would have 2 teachers; expected one, as the method says; assemble fewer"
        ):
            more()
        assert same_bytes(assembly, assemble(weighting, logits_knc[:1], labels_n))


def test_more_teachers_than_the_sums_have_room_for_are_refused() -> None:
    (logits_nc,), labels_n = random_fleet(1, 2, 3)
    assembly = assemble(PKD, logits_nc[None], labels_n)
    assembly.sums.opinions[1] = MAX_TERMS
    for more in (lambda: assembly.add(logits_nc, labels_n), lambda: assembly.merge(assembly)):
        before = pickle.loads(pickle.dumps(assembly))
        with pytest.raises(
            DataError, match=r"^row 1 would have [0-9]* teachers; expected at most 1048575, .*; assem"
        ):
            more()
        assert same_bytes(assembly, before)


@pytest.mark.parametrize("weighting", all_but("best", "confidence"), ids=name_of)
def test_removing_a_teacher_that_was_never_added_is_refused_and_nothing_is_removed(
    weighting: Weighting,
) -> None:
    logits_knc, labels_n = random_fleet(2, 4, 3)
    for assembly in (Assembly(weighting, 4, 3), assemble(weighting, logits_knc[:1], labels_n)):
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
