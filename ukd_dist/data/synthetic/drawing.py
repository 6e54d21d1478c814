"""A scene and its solids become dark and noisy pictures, seen by a pinhole camera.

Left out: encoding, moving cameras, moving light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ukd_dist.data.synthetic.bodies import Actor
from ukd_dist.data.synthetic.solids import Solid
from ukd_dist.data.synthetic.style import Floats

WIDTH, HEIGHT = 320, 240

Frame = NDArray[np.uint8]

_MARGIN = 16  # pixels of backdrop beyond every side of the picture: clips frame it differently
_SUBPIXEL_BITS = 4
_SPARE = 64  # pixels by which a bank of noise exceeds a plane
_CIRCLE = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], axis=-1)


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

    `backdrop` is the albedo of the place, uint8 (272, 352): a picture and a margin around it. `light` is the
    mean grey of the pictures and `noise` the sensor's deviation, both of 255; `falloff` the share of light
    lost at the corners; `tint` the chroma's (Cb, Cr) distance from grey.
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
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    down, right = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    wall = 110 + rng.uniform(-70, 70) * right + rng.uniform(-70, 70) * down
    wall += rng.uniform(0, 18) * np.sin(2 * np.pi * right * rng.uniform(15, 45))
    for _ in range(rng.integers(4, 10)):
        left, top, across, along = rng.integers([0, 0, 10, 20], [width, height // 2, 100, 150])
        wall[top : top + along, left : left + across] += rng.uniform(-70, 70)
    floor = rng.uniform(50, 160) + rng.uniform(-60, 60) * down
    picture = np.where(np.arange(height)[:, None] < horizon + _MARGIN, wall, floor)
    picture += cv2.GaussianBlur(rng.normal(0, 25, picture.shape), (0, 0), 1.2)
    return np.asarray(cv2.GaussianBlur(np.clip(picture, 30, 235), (0, 0), 0.8)).astype(np.uint8)


def draw_frames(
    scene: Scene, solids: Sequence[Solid], count: int, rng: np.random.Generator
) -> Iterator[Frame]:
    """Draw `count` pictures of solids in a scene.

    Yields:
        YUV 4:2:0 pictures of limited range as uint8 (HEIGHT * 3 / 2, WIDTH): luma rows, then Cb, then Cr.
    """
    outlines = [(*scene.camera.outlines(solid), float(np.clip(solid.shade, 0, 255))) for solid in solids]
    top, left = rng.integers(0, 2 * _MARGIN, 2)
    albedo = scene.backdrop[top : top + HEIGHT, left : left + WIDTH]
    gain = _gain(scene, albedo)
    luma = _noise(rng, (HEIGHT, WIDTH), scene.noise * 219 / 255, 16)
    chroma = [_noise(rng, (HEIGHT // 2, WIDTH // 2), 0.4, 128 + tint) for tint in scene.tint]
    for time in range(count):
        picture = _paint(albedo.copy(), outlines, time)
        lit = cv2.multiply(picture, gain, dtype=cv2.CV_32F)
        planes = [cv2.add(lit, _crop(rng, luma), dtype=cv2.CV_8U)]
        planes += [np.rint(_crop(rng, bank)).astype(np.uint8).reshape(-1, WIDTH) for bank in chroma]
        yield np.concatenate(planes)


def _paint(picture: Frame, outlines: Sequence[tuple[NDArray[np.int32], Floats, float]], time: int) -> Frame:
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
