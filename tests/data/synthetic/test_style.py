"""What chance decides about a clip does not tell its action."""

from __future__ import annotations

import numpy as np
import pytest

from ukd_dist.data.synthetic.style import draw_style


@pytest.mark.parametrize("action", ["Run", "Sit"])
def test_lengths_average_about_two_seconds_whatever_the_action(action: str) -> None:
    styles = [draw_style(np.random.default_rng(n), action) for n in range(400)]
    assert 1.9 < np.mean([style.frames for style in styles]) / 30 < 2.2
