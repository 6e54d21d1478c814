"""Rows of logits: as kernels take them, as far as they are heard, and opinions that cannot be weighed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ukd_dist.errors import DataError
from ukd_dist.method.rows import as_array, check_opinion, covered_rows, heard_logits

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


def test_kernels_take_logits_as_they_are_but_in_rows_and_at_least_single_precision() -> None:
    logits_nc = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for given_nc in (logits_nc, logits_nc.half(), logits_nc.double().t().contiguous().t()):
        array = as_array(given_nc)
        assert array.flags.c_contiguous
        assert array.dtype == (np.float64 if given_nc.dtype == torch.float64 else np.float32)
        assert torch.equal(torch.from_numpy(array), given_nc.to(torch.from_numpy(array).dtype))


def test_a_teacher_covers_every_row_where_nothing_is_said() -> None:
    assert covered_rows(None, 3).tolist() == [True, True, True]
    assert covered_rows(torch.tensor([True, False]), 2).tolist() == [True, False]


def test_logits_of_uncovered_rows_are_not_heard() -> None:
    logits_nc = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]])
    assert heard_logits(logits_nc, torch.tensor([True, False])).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert logits_nc[1].isfinite().sum() == 0


def test_a_single_class_is_refused() -> None:
    with pytest.raises(
        DataError, match="logits for 1 classes; expected at least 2 classes; check the class list"
    ):
        check_opinion(torch.zeros(2, 1), LABELS)


def test_labels_that_are_no_class_are_counted_and_the_first_is_named() -> None:
    with pytest.raises(
        DataError, match=r"2 labels are no class .* row 1: 3; expected labels from 0 to 2; use"
    ):
        check_opinion(torch.zeros(3, 3), torch.tensor([0, 3, -1]))


@pytest.mark.parametrize(
    "labels_n",
    [torch.tensor([0.0, 1.0]), torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([True, False])],
)
def test_labels_of_another_form_are_refused(labels_n: Tensor) -> None:
    with pytest.raises(
        DataError, match=r"^the labels are .*; expected torch.int64 \[2\], one for each row .*; give"
    ):
        check_opinion(LOGITS, labels_n)


@pytest.mark.parametrize(
    "logits_nc", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3), torch.zeros(2, 3, 1)]
)
def test_logits_of_another_form_are_refused(logits_nc: Tensor) -> None:
    with pytest.raises(
        DataError, match=r"^the logits are .*; expected float16, float32 or float64 \[rows, classes\]"
    ):
        check_opinion(logits_nc, LABELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_logits_are_counted_and_the_first_row_is_named(
    dtype: torch.dtype, value: float
) -> None:
    logits_nc = torch.zeros(9, 3, dtype=dtype)
    logits_nc[4, 1] = logits_nc[7, 0] = logits_nc[7, 2] = value
    with pytest.raises(
        DataError, match=r"^3 logits are NaN or infinite, the first in row 4; expected finite"
    ):
        check_opinion(logits_nc, torch.zeros(9, dtype=torch.int64))


def test_logits_beyond_the_range_are_counted_and_the_first_row_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^1 logits are out of range, the first in row 1; expected .* 2\^29; leave"
    ):
        check_opinion(torch.tensor([[0.0, 1.0], [-6e8, 1.0]]), torch.tensor([0, 0]))


def test_rows_are_numbered_from_the_blocks_first() -> None:
    with pytest.raises(DataError, match=r"^1 labels are no class .* row 101: 3"):
        check_opinion(LOGITS, torch.tensor([0, 3]), first_row=100)
