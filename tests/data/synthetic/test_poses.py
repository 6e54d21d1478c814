"""The actions, seen at the joints of one body."""

from __future__ import annotations

import numpy as np
import pytest

from ukd_dist.data.synthetic import CLASSES
from ukd_dist.data.synthetic.bodies import Actor, skeleton
from ukd_dist.data.synthetic.poses import pose
from ukd_dist.data.synthetic.style import Style

STYLE = Style(frames=61, start=0.1, end=0.9, tempo=1, amplitude=1, phase=0.3, heading=1.2, hand=1, x=0)


def _joints(action: str, style: Style = STYLE) -> dict[str, np.ndarray]:
    actor = Actor(0.52, 0.43, 0.45, 0.3, 0.29, 0.19, 0.1, 1, 150, 150, 150, 50)
    return skeleton(actor, pose(action, style), style)


@pytest.mark.parametrize("joint", ["hips", "knees", "ankles", "head", "hands"])
def test_sitting_backwards_in_time_is_standing_up(joint: str) -> None:
    sit, stand = _joints("Sit")[joint], _joints("Stand")[joint]
    # What differs is only that nobody stands quite still.
    assert np.abs(sit[::-1] - stand).max() < 0.12
    if joint in ("hips", "head"):
        assert np.abs(sit - stand).max() > 0.3


@pytest.mark.parametrize("action", CLASSES)
def test_feet_stay_on_the_ground_but_in_jumps_and_strides(action: str) -> None:
    joints = _joints(action)
    sole = np.minimum(joints["ankles"], joints["toes"])[..., 1].min(axis=1)
    highest = {"Jump": 0.4, "Run": 0.13}.get(action, 0.06)
    assert sole.min() >= 0.049
    assert 0.8 * highest < sole.max() < highest


def test_each_action_moves_what_it_is_named_for() -> None:
    def extent(action: str, joint: str, axis: int) -> float:
        path = _joints(action)[joint].reshape(STYLE.frames, -1, 3)[:, 0, axis]
        return float(np.ptp(path))

    assert extent("Run", "head", 0) > 1.15 * extent("Walk", "head", 0) > 1.5
    assert extent("Pick", "head", 1) > 0.7
    assert extent("Sit", "hips", 1) > 0.3
    assert extent("Jump", "hips", 1) > 0.4
    assert extent("Drink", "hands", 1) > 0.5
    assert extent("Wave", "hands", 1) > 0.5
    assert extent("Turn", "head", 1) < 0.05
    drink = _joints("Drink")
    assert np.linalg.norm(drink["tip"] - drink["face"], axis=-1).min() < 0.15


def test_turning_swaps_the_shoulders() -> None:
    shoulders = _joints("Turn", Style(61, 0.1, 0.9, 1, 1, 0.9, 0.1, 1, 0))["shoulders"]
    width = shoulders[:, 0, 0] - shoulders[:, 1, 0]
    assert width[0] > 0.3
    assert width[-1] < -0.3
    assert np.abs(width).min() < 0.05
