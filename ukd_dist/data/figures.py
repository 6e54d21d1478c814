"""Pure drawing for the miniature ARID: an action becomes poses, poses become dark and noisy frames.

It stands before the way of the data: `synthetic` decides what happens where, and writes what is drawn here. A
person is joint angles over time, every solid is the hull of a few balls, a pinhole camera sees them all. Left
out: files and encoding, faces and cloth, moving cameras, moving light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 30
WIDTH, HEIGHT = 320, 240
MARGIN = (
    16  # pixels by which a backdrop exceeds the picture on every side, so that clips frame it differently
)

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]
Pose = dict[str, Floats]

_SIDES = np.array([1.0, -1.0])
_WORK, _FREE = np.array([1.0, 0.0]), np.array([0.0, 1.0])
_SUBPIXEL_BITS = 4
_SPARE = 64  # pixels by which a bank of noise exceeds a plane
_CORNERS = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, 8).T
_CIRCLE = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], axis=-1)


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
        "arm": 0.05 + _both(2 * sway) * _SIDES,
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
    thigh = _both(stride * np.sin(phase)) * _SIDES
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


@dataclass(frozen=True)
class Solid:
    """The hull of B balls over T frames, or over all of them where T is 1.

    `centres` (T, B, 3) and `radii` (B,) are metres: x to the right of the picture, y up from the ground, z
    towards the camera. `shade` is an albedo (0..255).
    """

    centres: Floats
    radii: tuple[float, ...]
    shade: float


def skeleton(actor: Actor, poses: Pose, style: Style) -> dict[str, Floats]:
    """Return joints in a `Solid`'s axes, (T, 3), or (T, 2, 3) for the working and the free side.

    `base` and `tip` are the ends of what the working hand holds.
    """
    side = style.hand * _SIDES[:, None] * np.array([0.0, 0.0, 1.0])
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
        placed[joint] = _turned(moved, poses["yaw"].reshape(style.frames, *sides)) + np.array([style.x, 0, 0])
    return placed


def _turned(points: Floats, heading: Floats | float) -> Floats:
    """Return points (..., 3) forwards, up, left in a `Solid`'s axes."""
    forwards, up, left = np.moveaxis(points, -1, 0)
    sin, cos = np.sin(heading), np.cos(heading)
    return np.stack([forwards * sin + left * cos, up, forwards * cos - left * sin], axis=-1)


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


def held(at: dict[str, Floats], radius: float, shade: float) -> Solid:
    """Return a vessel in the working hand, wider at its base."""
    return Solid(np.stack([at["base"], at["tip"]], axis=1), (radius, 0.75 * radius), shade)


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
        corners = _turned(np.array(centre) + _CORNERS * size, heading)
        solids.append(Solid(place[:, None] + corners, (0.01,) * 8, light * shade))
    return solids


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
class Camera:
    """A level pinhole camera: its height and distance in metres; scale and row are those at z = 0."""

    pixels_per_metre: float
    ground_row: float
    height: float
    distance: float

    def outlines(self, solid: Solid) -> tuple[NDArray[np.int32], Floats]:
        """Return points around a solid's balls, (T, 12 B, 2) fixed-point columns and rows, and depth (T,)."""
        x, y, z = np.moveaxis(solid.centres, -1, 0)
        near = self.distance / np.maximum(self.distance - z, 0.5)
        scale = self.pixels_per_metre * near
        rows = self.ground_row + self.pixels_per_metre * (near * (self.height - y) - self.height)
        centres = np.stack([WIDTH / 2 + scale * x, rows], axis=-1)[:, :, None]
        points = centres + (scale * np.array(solid.radii))[..., None, None] * _CIRCLE
        fixed = np.rint(points.reshape(len(z), -1, 2) * 2**_SUBPIXEL_BITS).astype(np.int32)
        return fixed, z.mean(axis=1)

    def row_at(self, z: float) -> float:
        """Return the row of the ground at a depth in metres."""
        return self.ground_row + self.pixels_per_metre * self.height * (
            self.distance / (self.distance - z) - 1
        )


@dataclass(frozen=True)
class Scene:
    """What one recording group shares: actor, place, camera, light.

    `backdrop` is the albedo of the place, (HEIGHT + 2 MARGIN, WIDTH + 2 MARGIN). `light` is the mean grey of
    the pictures and `noise` the sensor's deviation, both of 255; `falloff` the share of light lost at the
    corners; `tint` the chroma's (Cb, Cr) distance from grey.
    """

    actor: Actor
    camera: Camera
    backdrop: Frame
    light: float
    noise: float
    falloff: float
    tint: tuple[float, float]


def paint_backdrop(rng: np.random.Generator, horizon: float) -> Frame:
    """Paint a wall and, below the row `horizon`, a floor: shading, panels, stripes, grain; mean near 110."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    down, right = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    wall = 110 + rng.uniform(-70, 70) * right + rng.uniform(-70, 70) * down
    wall += rng.uniform(0, 18) * np.sin(2 * np.pi * right * rng.uniform(15, 45))
    for _ in range(rng.integers(4, 10)):
        left, top, across, along = rng.integers([0, 0, 10, 20], [width, height // 2, 100, 150])
        wall[top : top + along, left : left + across] += rng.uniform(-70, 70)
    floor = rng.uniform(50, 160) + rng.uniform(-60, 60) * down
    picture = np.where(np.arange(height)[:, None] < horizon + MARGIN, wall, floor)
    picture += cv2.GaussianBlur(rng.normal(0, 25, picture.shape), (0, 0), 1.2)
    return np.asarray(cv2.GaussianBlur(np.clip(picture, 30, 235), (0, 0), 0.8)).astype(np.uint8)


def frames(scene: Scene, solids: Sequence[Solid], count: int, rng: np.random.Generator) -> Iterator[Frame]:
    """Draw `count` pictures of solids in a scene.

    Yields:
        YUV 4:2:0 pictures of limited range as uint8 (HEIGHT * 3 / 2, WIDTH): luma rows, then Cb, then Cr.
    """
    outlines = [(*scene.camera.outlines(solid), float(np.clip(solid.shade, 0, 255))) for solid in solids]
    top, left = rng.integers(0, 2 * MARGIN, 2)
    albedo = scene.backdrop[top : top + HEIGHT, left : left + WIDTH]
    gain = _gain(scene, albedo)
    luma = _noise(rng, (HEIGHT, WIDTH), scene.noise * 219 / 255, 16)
    chroma = [_noise(rng, (HEIGHT // 2, WIDTH // 2), 0.4, 128 + tint) for tint in scene.tint]
    for time in range(count):
        picture = _draw(albedo.copy(), outlines, time)
        lit = cv2.multiply(picture, gain, dtype=cv2.CV_32F)
        planes = [cv2.add(lit, _crop(rng, luma), dtype=cv2.CV_8U)]
        planes += [np.rint(_crop(rng, bank)).astype(np.uint8).reshape(-1, WIDTH) for bank in chroma]
        yield np.concatenate(planes)


def _draw(picture: Frame, outlines: Sequence[tuple[NDArray[np.int32], Floats, float]], time: int) -> Frame:
    """Fill the solids' outlines at one time, far ones first, as a slightly soft lens shows them."""
    now = [(depth[time % len(depth)], points[time % len(points)], shade) for points, depth, shade in outlines]
    for _, points, shade in sorted(now, key=lambda solid: solid[0]):
        cv2.fillConvexPoly(picture, cv2.convexHull(points), shade, cv2.LINE_AA, _SUBPIXEL_BITS)
    return np.asarray(cv2.GaussianBlur(picture, (3, 3), 0))


def _gain(scene: Scene, albedo: Frame) -> NDArray[np.float32]:
    """Return the light on every pixel, so that an empty scene has the scene's mean grey, (HEIGHT, WIDTH)."""
    rows, columns = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    light = 1 - scene.falloff * (rows**2 + columns**2) / 2
    return np.asarray(light * scene.light * 219 / 255 / (light * albedo).mean(), dtype=np.float32)


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], deviation: float, mean: float
) -> NDArray[np.float32]:
    """Return a bank of noise of which every frame takes another part: fresh noise would cost too much."""
    bank = rng.standard_normal((shape[0] + _SPARE, shape[1] + _SPARE), dtype=np.float32)
    bank = cv2.GaussianBlur(bank, (0, 0), 0.6)
    return np.asarray(mean + bank * (deviation / bank.std()), dtype=np.float32)


def _crop(rng: np.random.Generator, bank: NDArray[np.float32]) -> NDArray[np.float32]:
    top, left = rng.integers(0, _SPARE + 1, 2)
    return bank[top : top + bank.shape[0] - _SPARE, left : left + bank.shape[1] - _SPARE]
