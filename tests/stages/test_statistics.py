"""Intervals over seeds, against the tables of a statistics book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.stages.statistics import estimate, t_quantile

T_975 = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 10: 2.228, 20: 2.086, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("dof", "quantile"), T_975.items())
def test_the_t_quantile_is_the_one_of_the_tables(dof: int, quantile: float) -> None:
    assert t_quantile(dof) == pytest.approx(quantile, abs=1e-3)


def test_one_value_has_the_error_that_it_is_given() -> None:
    found = estimate([0.25], 0.03)
    assert (found.mean, found.margin, found.seeds) == (0.25, 0.03, 1)


@given(st.sampled_from([2, 3, 5]), st.data())
def test_several_values_have_a_t_interval_around_their_mean(count: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    found = estimate(values, 0.03)
    margin = T_975[count - 1] * np.std(values, ddof=1) / math.sqrt(count)
    assert found.seeds == count
    assert found.mean == pytest.approx(np.mean(values))
    assert found.margin == pytest.approx(margin, rel=1e-3, abs=1e-12)
