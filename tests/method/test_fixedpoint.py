"""Exact sums, held to python's rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from ukd_dist.method.fixedpoint import HIGH_BITS, LOW_BITS, MAX_TERM, ExactSum

RESOLUTION = Fraction(1, 2 ** (HIGH_BITS + LOW_BITS))
LARGEST = float(np.nextafter(MAX_TERM, 0))

# Of every size: floats of one range are seldom small.
numbers = st.one_of(*(st.floats(-size, size) for size in (LARGEST, 1.0, 2.0**-14, 2.0**-50)))


@st.composite
def series(draw: st.DrawFn) -> Tensor:
    """Terms [K, n], float64."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    return torch.from_numpy(draw(arrays(np.float64, shape, elements=numbers)))


def rounded(term: float) -> Fraction:
    """A term as it is held: round(x * 2^57) / 2^57, halves to even."""
    return round(Fraction(term) / RESOLUTION) * RESOLUTION


def held(total: ExactSum) -> list[Fraction]:
    """What the limbs of a one-dimensional sum say."""
    high, low = total.limbs.tolist()
    return [Fraction(h, 2**HIGH_BITS) + low_limb * RESOLUTION for h, low_limb in zip(high, low, strict=True)]


def total_of(terms_kn: Tensor, sign: int = 1) -> ExactSum:
    total = ExactSum(*terms_kn.shape[1:])
    for terms_n in terms_kn:
        total.add(terms_n.clone(), sign)
    return total


@given(series(), st.sampled_from([1, -1]))
@settings(deadline=None, max_examples=300)
def test_a_sum_is_the_rational_sum_of_its_rounded_terms(terms_kn: Tensor, sign: int) -> None:
    expected = [sign * sum(map(rounded, column)) for column in terms_kn.T.tolist()]
    total = total_of(terms_kn, sign)
    assert held(total) == expected
    assert total.value().tolist() == [float(value) for value in expected]


@given(numbers)
@settings(deadline=None, max_examples=300)
def test_a_term_loses_at_most_half_the_resolution(number: float) -> None:
    (value,) = held(total_of(torch.tensor([[number]], dtype=torch.float64)))
    assert abs(value - Fraction(number)) <= Fraction(1, 2**58)


@given(st.integers(-(2**53), 2**53), st.integers(25, 57))
@settings(deadline=None)
def test_a_multiple_of_the_resolution_is_held_exactly(mantissa: int, bits: int) -> None:
    number = mantissa * 2.0**-bits
    assert held(total_of(torch.tensor([[number]], dtype=torch.float64))) == [Fraction(number)]


@pytest.mark.parametrize("number", [LARGEST, -LARGEST, 2.0**-57, -(2.0**-57), 2.0**-58, 3 * 2.0**-58, 0.0])
def test_the_ends_of_the_range_and_halves_are_held_as_documented(number: float) -> None:
    expected = {2.0**-58: Fraction(0), 3 * 2.0**-58: 2 * RESOLUTION}.get(number, Fraction(number))
    assert held(total_of(torch.tensor([[number]], dtype=torch.float64))) == [expected]


@given(series(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_terms_changes_no_limb(terms_kn: Tensor, random: object) -> None:
    order = list(range(len(terms_kn)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(total_of(terms_kn[order]).limbs, total_of(terms_kn).limbs)


@given(series(), series())
@settings(deadline=None)
def test_subtracting_a_term_undoes_adding_it(terms_kn: Tensor, others_kn: Tensor) -> None:
    width = min(terms_kn.shape[1], others_kn.shape[1])
    total = total_of(terms_kn[:, :width])
    before = total.limbs.clone()
    for sign in (1, -1):
        for terms_n in others_kn[:, :width]:
            total.add(terms_n.clone(), sign)
    assert torch.equal(total.limbs, before)


@given(series(), st.data())
@settings(deadline=None)
def test_merging_parts_changes_no_limb(terms_kn: Tensor, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(terms_kn)))
    merged = total_of(terms_kn[cut:])
    merged.merge(total_of(terms_kn[:cut]))
    assert torch.equal(merged.limbs, total_of(terms_kn).limbs)


@given(
    arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32)),
    arrays(np.float64, 5, elements=st.floats(0, 1e4)),
    st.sampled_from([1, -1]),
)
@settings(deadline=None)
def test_weighted_logits_are_added_as_their_products(z: np.ndarray, w: np.ndarray, sign: int) -> None:
    logits_nc, weights_n = torch.from_numpy(z), torch.from_numpy(w)
    fused, plain = ExactSum(5, 3), ExactSum(5, 3)
    fused.add_logits(logits_nc, weights_n, sign)
    plain.add(logits_nc.double() * weights_n[:, None], sign)
    assert torch.equal(fused.limbs, plain.limbs)


def test_opposite_terms_of_the_largest_size_leave_the_smallest() -> None:
    total = total_of(torch.tensor([[LARGEST], [2.0**-57], [-LARGEST]], dtype=torch.float64))
    assert total.value().item() == 2.0**-57
