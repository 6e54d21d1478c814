"""How one clip performs its action: what chance decides about it, and its progress over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FPS = 30

Floats = NDArray[np.float64]

# Degrees away from the camera, to either side: an arm waved sideways cannot be seen in profile.
_HEADINGS = {
    "Pick": (25, 100),
    "Push": (55, 115),
    "Run": (55, 115),
    "Turn": (0, 180),
    "Walk": (55, 115),
    "Wave": (0, 55),
}


@dataclass(frozen=True)
class Style:
    """How one clip performs its action: angles in radians, lengths in metres.

    `start` and `end` are the shares of the clip between which a single action happens; `tempo` and
    `amplitude` are relative to 1; `phase`, in 0..1, shifts repeated movements. `heading` is 0 towards the
    camera, pi/2 to the right of the picture. `hand` is the side of the working hand: 1 left, -1 right. `x` is
    where it happens.
    """

    frames: int
    start: float
    end: float
    tempo: float
    amplitude: float
    phase: float
    heading: float
    hand: int
    x: float

    def seconds(self) -> Floats:
        """Return the time of every frame from the middle of the clip, (T,)."""
        return (np.arange(self.frames) - (self.frames - 1) / 2) / FPS

    def ramp(self) -> Floats:
        """Return the progress of an action that happens once: 0 to 1, (T,)."""
        return _smooth((np.linspace(0, 1, self.frames) - self.start) / (self.end - self.start))

    def bump(self) -> Floats:
        """Return the progress of an action that is done and undone: 0 to 1, a rest, 1 to 0, (T,)."""
        return _smooth(3 * np.minimum(self.ramp(), 1 - self.ramp()))

    def cycle(self, hertz: float) -> Floats:
        """Return the phase of a repeated movement, (T,) radians."""
        turns = hertz * self.tempo * self.seconds() + self.phase
        return np.asarray(2 * np.pi * turns)


def _smooth(share: Floats) -> Floats:
    s = np.clip(share, 0, 1)
    return np.asarray(s * s * (3 - 2 * s))


def draw_style(rng: np.random.Generator, action: str) -> Style:
    """Draw how a clip performs its action; how long it lasts does not depend on which."""
    frames = int(np.clip(rng.lognormal(np.log(1.95), 0.32), 1, 4) * FPS)
    share = min(rng.uniform(0.65, 0.95), 2.4 * FPS / frames)
    start = rng.uniform(0, 1 - share)
    heading = np.radians(rng.uniform(*_HEADINGS.get(action, (15, 90)))) * rng.choice([-1, 1])
    return Style(
        frames=frames,
        start=start,
        end=start + share,
        tempo=rng.uniform(0.8, 1.25),
        amplitude=rng.uniform(0.8, 1.15),
        phase=rng.uniform(0, 1),
        heading=float(heading),
        hand=int(rng.choice([-1, 1])),
        x=rng.uniform(-0.45, 0.45),
    )
