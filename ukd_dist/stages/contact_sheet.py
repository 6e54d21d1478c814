"""A contact sheet of shards as a PNG: a sample of each class, as stored, gamma-corrected, and its flow.

All text is dark on a light margin, never on a picture: dark videos are dark. Flow is a colour wheel: hue is
the direction, brightness the speed, on one scale over the whole sheet.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.errors import UsageError
from ukd_dist.manifest import write_atomically
from ukd_dist.stages.show import MOMENTS, draw_rows, has, pictures

_TILE, _GAP, _MARGIN, _HEADER, _LABELS = 128, 6, 12, 82, 172
_MOST_ROWS = 100
_PAPER, _INK, _GREY = (250, 250, 250), (30, 30, 30), (110, 110, 110)
# Speeds above this share of the sheet's get the full colour; a few wrong vectors would darken all others.
_FULL_SPEED_PERCENTILE = 98
_LEAST_SPEED = 0.1

Image = npt.NDArray[np.uint8]


def write_contact_sheet(shards: ShardSet, path: Path, *, gamma: float, seed: int = 0) -> None:
    """Write the sheet, a row a class; of more than 100 classes the first 100.

    Args:
        shards: What is shown.
        path: The PNG.
        gamma: Of the corrected frames.
        seed: Draws the samples.

    Raises:
        UsageError: The path is none of a PNG.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path} is no PNG", expected="a name that ends in .png", action="rename it")
    encoded, data = cv2.imencode(".png", draw_contact_sheet(shards, gamma=gamma, seed=seed))
    assert encoded
    write_atomically(path, data.tobytes())


def draw_contact_sheet(shards: ShardSet, *, gamma: float, seed: int = 0) -> Image:
    """The sheet, BGR `[height, width, 3]`."""
    split = shards.splits[0]
    drawn = [draw_rows(shards, split, label, 1, seed) for label in range(len(shards.classes))]
    rows = np.concatenate(drawn)[:_MOST_ROWS]
    samples = [s for s in shards.samples if s.split == split]
    kinds, note = looks(shards, split, rows, gamma, _TILE)
    columns = [
        (f"{name}, {share:.0%}", images[:, moment])
        for moment, share in enumerate(MOMENTS)
        for name, images in kinds
    ]
    sheet = _paper(len(rows), len(columns))
    title = f"{len(rows)} of {len(shards.classes)} classes, a {split} video each, seed {seed}"
    _write(sheet, title, (_MARGIN, _MARGIN + 14), 0.5, _INK)
    _write(sheet, note, (_MARGIN, _MARGIN + 34), 0.4, _GREY)
    for number, (name, tiles) in enumerate(columns):
        left = _LABELS + number * (_TILE + _GAP)
        _write(sheet, name, (left, _HEADER - 8), 0.4, _INK)
        for place, tile in enumerate(tiles):
            top = _HEADER + place * (_TILE + _GAP)
            sheet[top : top + _TILE, left : left + _TILE] = tile
    if has(shards, "flow"):
        _draw_wheel(sheet)
    for place, row in enumerate(rows):
        _write_label(sheet, samples[row], _HEADER + place * (_TILE + _GAP))
    return sheet


def flow_colours(flow_hwc: npt.NDArray[np.float32], full_speed: float) -> Image:
    """Flow `[..., 2]` as BGR: hue is the direction (red: to the right), brightness the speed."""
    speed = np.hypot(flow_hwc[..., 0], flow_hwc[..., 1])
    angle = np.degrees(np.arctan2(flow_hwc[..., 1], flow_hwc[..., 0])) % 360
    hsv = np.stack([angle / 2, np.full_like(angle, 255), np.clip(speed / full_speed, 0, 1) * 255], axis=-1)
    flat = np.rint(hsv).clip(0, (179, 255, 255)).astype(np.uint8).reshape(1, -1, 3)
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_HSV2BGR), np.uint8).reshape(*angle.shape, 3)


def jpeg(image: Image) -> bytes:
    """A BGR picture as JPEG."""
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert encoded
    return data.tobytes()


def looks(
    shards: ShardSet, split: SplitName, rows: npt.NDArray[np.int64], gamma: float, size: int
) -> tuple[list[tuple[str, Image]], str]:
    """Rows as stored, gamma-corrected and as flow, where there are such, and a note on them.

    Args:
        shards: Whose rows.
        split: Their split.
        rows: Row numbers.
        gamma: Of the corrected pictures.
        size: Side of a picture.

    Returns:
        Of each kind its name and pictures, BGR `[rows, moments, size, size, 3]`; and the note.
    """
    kinds: list[tuple[str, Image]] = []
    notes = []
    if has(shards, "rgb"):
        rgb = pictures(shards, split, "rgb", rows, size).clip(0, 1)
        kinds += [("as stored", _bgr(rgb)), (f"gamma {gamma:g}", _bgr(rgb ** np.float32(1 / gamma)))]
    if has(shards, "flow"):
        flow = pictures(shards, split, "flow", rows, size)
        speed = max(_LEAST_SPEED, float(np.percentile(np.hypot(*flow.T), _FULL_SPEED_PERCENTILE)))
        kinds.append(("flow", flow_colours(flow, speed)))
        notes.append(f"flow: full colour from {speed:.1f} stored pixels a frame; right is red")
    return kinds, "; ".join(["centre crops; percentages are of a video's frames", *notes])


def _bgr(rgb: npt.NDArray[np.float32]) -> Image:
    return np.rint(rgb[..., ::-1] * 255).astype(np.uint8)


def _paper(rows: int, columns: int) -> Image:
    height = _HEADER + rows * (_TILE + _GAP) - _GAP + _MARGIN
    width = _LABELS + columns * (_TILE + _GAP) - _GAP + _MARGIN
    return np.full((height, width, 3), _PAPER, np.uint8)


def _draw_wheel(sheet: Image, side: int = 52) -> None:
    down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    wheel = flow_colours(np.stack([across, down], axis=-1), 1.0)
    inside = np.hypot(across, down) <= 1
    sheet[_MARGIN - 4 : _MARGIN - 4 + side, -_MARGIN - side : -_MARGIN][inside] = wheel[inside]


def _write_label(sheet: Image, sample: Sample, top: int) -> None:
    _write(sheet, _short(sample.class_name, 17), (_MARGIN, top + 20), 0.5, _INK)
    lines = [
        sample.key,
        f"{sample.frames} frames",
        f"{sample.fps:.4g} fps",
        f"{sample.width}x{sample.height}",
    ]
    if sample.group:
        lines.insert(1, f"group {sample.group}")
    for number, line in enumerate(lines):
        _write(sheet, _short(line, 22), (_MARGIN, top + 42 + 17 * number), 0.4, _GREY)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 2]}.."


def _write(
    sheet: Image, text: str, place: tuple[int, int], scale: float, colour: tuple[int, int, int]
) -> None:
    """Write ASCII, which is all that OpenCV's letters have."""
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(sheet, plain, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
