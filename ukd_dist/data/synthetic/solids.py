"""Solids, the hulls of a few balls, of which all that is drawn consists; furniture and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ukd_dist.data.synthetic.style import Floats

_CORNERS = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, 8).T

_Block = tuple[tuple[float, float, float], tuple[float, float, float], float]
# Of every block: its centre and size in metres (forwards, up, sideways), and its relative shade.
FURNITURE: dict[str, list[_Block]] = {
    "chair": [
        ((0.0, 0.44, 0.0), (0.42, 0.05, 0.42), 1.0),
        ((-0.2, 0.7, 0.0), (0.05, 0.5, 0.42), 0.85),
        *[((f, 0.21, s), (0.05, 0.42, 0.05), 0.7) for f in (-0.18, 0.18) for s in (-0.18, 0.18)],
    ],
    "table": [
        ((0.0, 0.75, 0.0), (0.6, 0.05, 0.9), 1.0),
        *[((f, 0.36, s), (0.05, 0.72, 0.05), 0.7) for f in (-0.25, 0.25) for s in (-0.4, 0.4)],
    ],
    "box": [((0.0, 0.5, 0.0), (0.5, 1.0, 0.5), 1.0)],
    "crate": [((0.0, 0.23, 0.0), (0.42, 0.46, 0.42), 1.0)],
    "jug": [((0.0, 0.13, 0.0), (0.16, 0.26, 0.16), 1.0)],
    "cup": [((0.0, 0.06, 0.0), (0.1, 0.12, 0.1), 1.0)],
}


@dataclass(frozen=True)
class Solid:
    """The hull of B balls over T frames, or over all of them where T is 1.

    `centres` (T, B, 3) and `radii` (B,) are metres: x to the right of the picture, y up from the ground, z
    towards the camera. `shade` is an albedo (0..255).
    """

    centres: Floats
    radii: tuple[float, ...]
    shade: float


def furniture(kind: str, place: Floats, heading: float, shade: float) -> list[Solid]:
    """Return the blocks of a thing that stands on the ground.

    Args:
        kind: A key of `FURNITURE`.
        place: Where, (T, 3) metres.
        heading: Where its front points to, in radians.
        shade: Albedo (0..255).
    """
    solids = []
    for centre, size, light in FURNITURE[kind]:
        corners = turned(np.array(centre) + _CORNERS * size, heading)
        solids.append(Solid(place[:, None] + corners, (0.01,) * 8, light * shade))
    return solids


def held(at: dict[str, Floats], radius: float, shade: float) -> Solid:
    """Return a vessel in the working hand, wider at its base."""
    return Solid(np.stack([at["base"], at["tip"]], axis=1), (radius, 0.75 * radius), shade)


def turned(points: Floats, heading: Floats | float) -> Floats:
    """Return points (..., 3) forwards, up, left in a `Solid`'s axes."""
    forwards, up, left = np.moveaxis(points, -1, 0)
    sin, cos = np.sin(heading), np.cos(heading)
    return np.stack([forwards * sin + left * cos, up, forwards * cos - left * sin], axis=-1)
