"""Rows of logits: sums that do not depend on their neighbours, and opinions that cannot be weighed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tests.method import oracle
from tests.method.threads import with_threads
from ukd_dist.errors import DataError
from ukd_dist.method.rows import (
    check_opinion,
    covered_rows,
    heard_logits,
    less_row_max,
    row_sums,
    row_tiles,
    softened,
)

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


@given(arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=st.integers(-1000, 1000)))
@settings(deadline=None)
def test_row_sums_are_sums_whatever_the_width(values: np.ndarray) -> None:
    assert row_sums(torch.from_numpy(values).double()).tolist() == values.sum(axis=1).tolist()


@pytest.mark.parametrize("width", [2, 11, 400, 100_001])
def test_a_row_sums_to_the_same_bytes_alone_and_among_others(width: int) -> None:
    rows = torch.randn(9, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([row_sums(row[None].clone()) for row in rows])
    assert torch.equal(with_threads(3, lambda: row_sums(rows.clone())), alone)


@given(st.integers(0, 5000), st.integers(2, 10**6))
@settings(deadline=None)
def test_tiles_hold_every_row_once_and_in_order(num_rows: int, num_classes: int) -> None:
    tiles = row_tiles(num_rows, num_classes)
    assert [row for tile in tiles for row in range(tile.start, tile.stop)] == list(range(num_rows))


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.floats(-1e4, 1e4, width=32)
    )
)
@settings(deadline=None)
def test_softened_logits_are_their_softmax(logits: np.ndarray) -> None:
    shifted_nc = less_row_max(torch.from_numpy(logits))
    before = shifted_nc.clone()
    probs_nc, total_n = softened(shifted_nc)
    np.testing.assert_allclose(probs_nc.numpy(), oracle.softmax(logits.astype(np.float64)), rtol=1e-12)
    torch.testing.assert_close(total_n, before.exp().sum(dim=1))
    assert torch.equal(shifted_nc, before)


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
