"""A person: joint angles become joints in a place, and these the solids of a body, without face or cloth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ukd_dist.data.synthetic.poses import SIDES, Pose
from ukd_dist.data.synthetic.solids import Solid, turned
from ukd_dist.data.synthetic.style import Floats, Style


@dataclass(frozen=True)
class Actor:
    """A body: lengths and half-widths in metres, `girth` relative to 1, shades as albedo (0..255)."""

    torso: float
    thigh: float
    shank: float
    upper: float
    fore: float
    shoulder: float
    hip: float
    girth: float
    shirt: float
    trousers: float
    skin: float
    hair: float


def skeleton(actor: Actor, poses: Pose, style: Style) -> dict[str, Floats]:
    """Return joints in a `Solid`'s axes, (T, 3), or (T, 2, 3) for the working and the free side.

    `base` and `tip` are the ends of what the working hand holds.
    """
    side = style.hand * SIDES[:, None] * np.array([0.0, 0.0, 1.0])
    shank = poses["thigh"] - poses["knee"]
    trunk, head = _upright(poses["lean"]), poses["lean"] + poses["nod"]
    at = {"hips": np.tile(actor.hip * side, (style.frames, 1, 1))}
    at["knees"] = at["hips"] + actor.thigh * _hanging(poses["thigh"], 0.06, side)
    at["ankles"] = at["knees"] + actor.shank * _hanging(shank, 0.0, side)
    at["toes"] = at["ankles"] + 0.17 * _hanging(shank + 1.45, 0.2, side)
    at["head"] = actor.torso * trunk + 0.2 * _upright(head)
    at["face"] = at["head"] + 0.05 * _upright(head + 1.7)
    at["shoulders"] = 0.92 * actor.torso * trunk[:, None] + actor.shoulder * side
    at["elbows"] = at["shoulders"] + actor.upper * _hanging(poses["arm"], poses["spread"], side)
    at["hands"] = at["elbows"] + actor.fore * _hanging(poses["arm"] + poses["elbow"], poses["fore"], side)
    at["base"] = at["hands"][:, 0] - 0.06 * _upright(poses["tilt"])
    at["tip"] = at["hands"][:, 0] + 0.12 * _upright(poses["tilt"])
    return _in_place(at, poses, style)


def _hanging(angle: Floats, spread: Floats | float, side: Floats) -> Floats:
    """Return unit vectors (T, 2, 3) forwards, up, left of limbs at these angles (T, 2) from straight down."""
    plane = np.stack([np.sin(angle), -np.cos(angle), np.zeros_like(angle)], axis=-1)
    spread = np.broadcast_to(spread, angle.shape)[..., None]
    return np.asarray(plane * np.cos(spread) + side * np.sin(spread))


def _upright(angle: Floats) -> Floats:
    """Return unit vectors (T, 3) forwards, up, left of what leans forwards by these angles (T,)."""
    return np.stack([np.sin(angle), np.cos(angle), np.zeros_like(angle)], axis=-1)


def _in_place(at: dict[str, Floats], poses: Pose, style: Style) -> dict[str, Floats]:
    """Put the feet on the ground, turn the body by its yaw, and move it to where it is."""
    sole = np.minimum(at["ankles"], at["toes"])[..., 1].min(axis=1)
    forwards = poses.get("travel", -at["ankles"][..., 0].mean(axis=1))
    shift = np.stack([forwards, poses["lift"] + 0.05 - sole, np.zeros_like(sole)], axis=-1)
    placed = {}
    for joint, points in at.items():
        sides = (1,) * (points.ndim - 2)
        moved = points + shift.reshape(style.frames, *sides, 3)
        placed[joint] = turned(moved, poses["yaw"].reshape(style.frames, *sides)) + np.array([style.x, 0, 0])
    return placed


def person(actor: Actor, at: dict[str, Floats]) -> list[Solid]:
    """Return the solids of a body whose joints are `at`; its free side is a little darker."""
    trunk = np.concatenate([at["shoulders"], at["hips"]], axis=1)
    parts = [
        Solid(trunk, (0.06 * actor.girth,) * 2 + (0.09 * actor.girth,) * 2, actor.shirt),
        Solid(at["head"][:, None], (0.115,), actor.hair),
        Solid(at["face"][:, None], (0.085,), actor.skin),
    ]
    limbs = [
        (("hips", "knees"), (0.085, 0.06), actor.trousers),
        (("knees", "ankles"), (0.06, 0.04), actor.trousers),
        (("ankles", "toes"), (0.045, 0.035), actor.hair),
        (("shoulders", "elbows"), (0.055, 0.045), 1.15 * actor.shirt),
        (("elbows", "hands"), (0.042, 0.038), actor.skin),
    ]
    for (upper, lower), (thick, thin), shade in limbs:
        for side, light in enumerate((1.0, 0.8)):
            ends = np.stack([at[upper][:, side], at[lower][:, side]], axis=1)
            parts.append(Solid(ends, (thick * actor.girth, thin * actor.girth), light * shade))
    return parts
