"""What chance puts before the camera: the actor, place and light of a group, and the things of a clip."""

from __future__ import annotations

import numpy as np

from ukd_dist.data.synthetic.bodies import Actor
from ukd_dist.data.synthetic.drawing import Camera, Scene, paint_backdrop
from ukd_dist.data.synthetic.solids import FURNITURE, Solid, furniture, held
from ukd_dist.data.synthetic.style import Floats, Style

_LENGTHS = {
    "torso": 0.52,
    "thigh": 0.43,
    "shank": 0.45,
    "upper": 0.30,
    "fore": 0.29,
    "shoulder": 0.19,
    "hip": 0.10,
}


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw what a recording group shares."""
    actor = Actor(
        **{name: mean * rng.uniform(0.93, 1.07) for name, mean in _LENGTHS.items()},
        girth=rng.uniform(0.85, 1.3),
        shirt=_shade(rng),
        trousers=_shade(rng),
        skin=rng.uniform(140, 205),
        hair=rng.uniform(25, 60),
    )
    pixels_per_metre = rng.uniform(140, 190) / 1.75
    camera = Camera(
        pixels_per_metre, rng.uniform(210, 238), height=rng.uniform(0.7, 1.9), distance=rng.uniform(4.5, 8)
    )
    return Scene(
        actor,
        camera,
        paint_backdrop(rng, camera.row_at(-rng.uniform(1, 4))),
        light=rng.uniform(15, 25),
        noise=rng.uniform(0.7, 1.5),
        falloff=rng.uniform(0.2, 0.6),
        tint=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
    )


def draw_things(rng: np.random.Generator, action: str, style: Style, at: dict[str, Floats]) -> list[Solid]:
    """Draw the things an action needs, and others that only stand about or are carried along."""
    shade, usual = _shade(rng), bool(rng.random() < 0.75)
    facing = np.array([np.sin(style.heading), 0, np.cos(style.heading)])
    feet, hips = (at[joint].mean(axis=1) * [1, 0, 1] for joint in ("ankles", "hips"))
    solids = _bystanders(rng, style.x)
    if action in ("Sit", "Stand"):
        solids += furniture("chair" if usual else "crate", feet[:1] - 0.4 * facing, style.heading, shade)
    elif action == "Push":
        reach = 0.3 + float((at["hands"][-1].mean(axis=0) - hips[-1]) @ facing)
        solids += furniture("box" if usual else "chair", hips + reach * facing, style.heading, shade)
    elif action == "Pour" and rng.random() < 0.6:
        solids += furniture("table", feet[:1] + 0.75 * facing, style.heading, _shade(rng))
    needed = action in ("Drink", "Pour", "Pick")
    if needed or (action != "Push" and rng.random() < 0.35):
        solids.append(_vessel(at, shade, large=usual == (action != "Drink"), lying=action == "Pick"))
    return solids


def _bystanders(rng: np.random.Generator, x: float) -> list[Solid]:
    """Draw up to two things that stand behind and beside the person."""
    solids: list[Solid] = []
    for _ in range(rng.integers(3)):
        place = np.array([[x + rng.choice([-1, 1]) * rng.uniform(0.5, 1.5), 0, -rng.uniform(0.3, 1.2)]])
        kind = str(rng.choice(list(FURNITURE)))
        solids += furniture(kind, place, rng.uniform(-3, 3), _shade(rng))
    return solids


def _vessel(at: dict[str, Floats], shade: float, *, large: bool, lying: bool) -> Solid:
    """Return a jug or a cup in the working hand; a lying one is there when the hand first reaches lowest."""
    ends = {end: at[end].copy() for end in ("base", "tip")}
    if lying:
        touch = int(np.argmin(ends["base"][:, 1]))
        for points in ends.values():
            points[:touch] = points[touch]
    return held(ends, 0.085 if large else 0.05, shade)


def _shade(rng: np.random.Generator) -> float:
    """Draw an albedo well apart from a backdrop's mean of 110."""
    return float(rng.uniform(30, 68) if rng.random() < 0.5 else rng.uniform(155, 225))
