"""Actions as joint angles over time: what a person does, before it has a body or a place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ukd_dist.data.synthetic.style import Floats, Style

Pose = dict[str, Floats]

SIDES = np.array([1.0, -1.0])  # of the working and of the free hand
_WORK, _FREE = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def pose(action: str, style: Style) -> Pose:
    """Return the joint angles (radians, forwards is positive) and displacements (metres) of an action.

    Channels of shape (T,): `lean` of the trunk, `nod` of the head, `yaw` of the body, `lift` off the ground,
    `tilt` of what is held; only where the person walks, `travel` along the heading. Channels of shape (T, 2),
    working side and free side: `thigh` and `arm` from straight down, flexion of `knee` and `elbow`, `spread`
    and `fore` of upper and lower arm to the side.
    """
    total = _rest(style)
    for channel, change in _ACTIONS[action](style).items():
        total[channel] = total.get(channel, 0) + change
    return total


def _rest(style: Style) -> Pose:
    """Return a person who stands and, as people do, never quite still."""
    sway = 0.03 * np.sin(style.cycle(0.45))
    one, two = np.zeros(style.frames), np.zeros((style.frames, 2))
    trunk = {"lean": 0.04 + sway, "nod": 2 * sway, "yaw": style.heading + 2 * sway, "lift": one, "tilt": one}
    arms = {
        "arm": 0.05 + _both(2 * sway) * SIDES,
        "elbow": two + 0.25,
        "spread": two + 0.12,
        "fore": two + 0.08,
    }
    return trunk | arms | {"thigh": two + 0.05, "knee": two + 0.1}


def _both(value: Floats) -> Floats:
    return value[:, None]


def _steps(phase: Floats, stride: Floats | float, flexion: float, swing: float) -> Pose:
    """Return the legs' steps and the arms' counter-swing at a phase (T,)."""
    legs = _both(phase) + np.array([0, np.pi])
    thigh = _both(stride * np.sin(phase)) * SIDES
    return {"thigh": thigh, "knee": flexion * np.clip(np.cos(legs), 0, 1), "arm": -swing * np.sin(legs)}


def _crossing(style: Style, metres_per_second: float) -> Floats:
    """Return the way along the heading (T,), 0 at mid-clip, never far beyond the picture."""
    seconds = style.seconds()
    return np.asarray(seconds * min(metres_per_second * style.tempo, 1.45 / seconds[-1]))


def _drink(style: Style) -> Pose:
    s = style.bump()
    arm = {"arm": _both(0.9 * s) * _WORK, "elbow": _both(0.4 + 1.7 * style.amplitude * s) * _WORK}
    return arm | {"fore": _both(-0.6 * s) * _WORK, "tilt": -1.1 * s, "nod": -0.3 * s}


def _jump(style: Style) -> Pose:
    cycle = (style.cycle(0.85) / (2 * np.pi)) % 1
    flight = np.clip((cycle - 0.45) / 0.35, 0, 1)
    landing = 0.5 * np.sin(np.pi * np.clip(5 * cycle - 4, 0, 1))
    crouch = np.sin(np.pi * np.clip(cycle / 0.45, 0, 1)) ** 2 + landing
    legs = {
        "lift": 1.3 * style.amplitude * flight * (1 - flight),
        "thigh": _both(crouch),
        "knee": _both(1.5 * crouch),
    }
    return legs | {"lean": 0.4 * crouch, "arm": _both(2.3 * np.sin(np.pi * flight) - 0.6 * crouch)}


def _pick(style: Style) -> Pose:
    s = style.bump()
    arms = {"arm": _both(0.3 * s) * _WORK, "elbow": _both(0.8 * s) * _FREE}
    return arms | {"lean": 1.15 * style.amplitude * s, "thigh": _both(1.3 * s), "knee": _both(2.0 * s)}


def _pour(style: Style) -> Pose:
    s = style.bump()
    arms = {
        "arm": 0.45 + _both(0.1 + 0.5 * style.amplitude * s) * _WORK,
        "elbow": 0.75 - _both(0.5 * s) * _WORK,
    }
    return arms | {"fore": np.array([-0.35, -0.35]), "tilt": 2.0 * s, "nod": np.array(0.25)}


def _push(style: Style) -> Pose:
    s = style.ramp()
    metres, effort = 1.1 * style.amplitude * s, np.clip(6 * s, 0, 1)
    legs = _steps(2 * np.pi * (metres / 0.8 + style.phase), 0.35, 0.5, 0)
    return legs | {"lean": 0.45 * effort, "arm": _both(1.0 * effort), "travel": metres - metres[-1] / 2}


def _run(style: Style) -> Pose:
    phase = style.cycle(1.35)
    trunk = {"lean": np.array(0.2), "elbow": np.array(1.3), "lift": 0.07 * np.abs(np.sin(phase))}
    return _steps(phase, 0.75 * style.amplitude, 1.6, 0.8) | trunk | {"travel": _crossing(style, 2.4)}


def _sit(style: Style) -> Pose:
    return _seat(style, style.ramp())


def _stand(style: Style) -> Pose:
    return _seat(style, 1 - style.ramp())


def _seat(style: Style, s: Floats) -> Pose:
    """Return the poses between standing (s = 0) and sitting (s = 1)."""
    arms = {"arm": _both(0.25 * s), "elbow": _both(0.7 * s)}
    legs = {"thigh": _both(1.4 * s), "knee": _both(1.4 * s)}
    return arms | legs | {"lean": 0.65 * style.amplitude * np.sin(np.pi * s)}


def _turn(style: Style) -> Pose:
    s = style.ramp()
    angle = np.copysign((1.9 + 1.2 * style.phase) * style.amplitude, style.heading)
    return _steps(style.cycle(1.2), 0.2 * np.clip(6 * np.minimum(s, 1 - s), 0, 1), 0, 0) | {"yaw": angle * s}


def _walk(style: Style) -> Pose:
    return _steps(style.cycle(0.9), 0.42 * style.amplitude, 0.75, 0.4) | {"travel": _crossing(style, 1.1)}


def _wave(style: Style) -> Pose:
    raised = np.clip(4 * style.ramp() + 2 * style.phase - 0.5, 0, 1)
    swing = 2.6 + 0.6 * style.amplitude * np.sin(style.cycle(1.8))
    arm = {"spread": 1.25 * raised, "elbow": -0.25 * raised, "fore": raised * swing}
    return {channel: _both(value) * _WORK for channel, value in arm.items()}


_ACTIONS: dict[str, Callable[[Style], Pose]] = {
    "Drink": _drink,
    "Jump": _jump,
    "Pick": _pick,
    "Pour": _pour,
    "Push": _push,
    "Run": _run,
    "Sit": _sit,
    "Stand": _stand,
    "Turn": _turn,
    "Walk": _walk,
    "Wave": _wave,
}
