"""Scales and line charts: round ticks that hold every value, and labels that cannot break the page."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.stages.charts import Curve, Scale, line_chart, style


def test_a_chart_escapes_its_labels_and_draws_every_seed() -> None:
    chart = line_chart("a < b", [Curve("<x> & y", style(0), [[1.0, 2.0], [3.0, 4.0, 5.0]])])
    assert "&lt;x&gt; &amp; y" in chart
    assert chart.count("line seed") == 2


def test_a_chart_over_settings_names_them_under_their_values() -> None:
    chart = line_chart("NLL", [Curve("avg", style(0), [[1.0, 2.0, 1.5]])], over="tau", marks=["1", "5", "60"])
    ticks = re.findall(r'<text class="tick middle"[^>]*>([^<]*)<', chart)
    assert ticks == ["1", "5", "60"]
    assert "NLL, by tau" in chart


@given(st.lists(st.floats(1e-6, 1e9), min_size=1), st.booleans())
def test_a_scale_holds_its_values_between_a_few_round_ticks(values: list[float], symmetric: bool) -> None:
    scale = Scale.over(values, symmetric=symmetric)
    assert scale.high >= max(values) * (1 - 1e-6)
    assert 3 <= len(scale.ticks) <= 5
    assert scale.low == (-scale.high if symmetric else 0)
    assert all(float(f"{tick:.3g}") == pytest.approx(tick, abs=scale.high * 1e-9) for tick in scale.ticks)
