"""What a finished shards directory holds: figures of its samples, and pictures of some; only reads."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import RGB_MEAN, RGB_STD, decode_clips
from ukd_dist.data.modalities import component
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet, SplitName, read_index
from ukd_dist.data.views import FREE, Batch
from ukd_dist.data_config import Modality
from ukd_dist.errors import UsageError
from ukd_dist.resolution import load
from ukd_dist.rundir import REJECTS, RunDirectory, read_json_lines
from ukd_dist.splits import open_parts
from ukd_dist.units import in_bytes

# When a video is looked at: after a third and after two thirds of its frames.
MOMENTS = (1 / 3, 2 / 3)
_LUMA_CLIPS, _LUMA_SIDE = 4, 64
_LUMA = np.array([0.299, 0.587, 0.114])
_BATCH_SIZE = 16

Pictures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    Attributes:
        name: Its name.
        clips: Samples by split.
        groups: Different recording groups; 0 where none are named.
        mean_luma: Of some frames of its training videos, 0..255 before gamma; None without rgb.
    """

    name: str
    clips: dict[str, int]
    groups: int
    mean_luma: float | None


@dataclass(frozen=True)
class ShardFigures:
    """A shards directory.

    Attributes:
        directory: Where it lies.
        clips: Samples by split.
        frames: Frames of all samples.
        frames_range: Fewest, median and most frames of a sample.
        hours: Length of all samples.
        fps: Samples by frames a second, two digits behind the point; the commonest first.
        sizes: Samples by stored width and height in pixels; the commonest first.
        groups: Different recording groups.
        mean_luma: Mean over classes of theirs; None without rgb.
        rejects: Rejected videos by reason.
        bytes: Bytes in the tars by component.
        classes: Class by class.
    """

    directory: str
    clips: dict[str, int]
    frames: int
    frames_range: tuple[int, float, int]
    hours: float
    fps: dict[str, int]
    sizes: dict[str, int]
    groups: int
    mean_luma: float | None
    rejects: dict[str, int]
    bytes: dict[str, int]
    classes: tuple[ClassFigures, ...]


def open_shards(place: Path) -> ShardSet:
    """The shards of a run directory, or of a shards directory itself.

    Raises:
        UsageError: Neither is finished.
        DataError: A file is missing or damaged; names it.
    """
    run = RunDirectory(place)
    if not run.shards.is_dir():
        return ShardSet(place)
    cache = load(run.experiment).cluster.shard_cache if run.experiment.is_file() else None
    return open_to_decode(run.shards, cache)


def shard_places(place: Path) -> dict[str, Path]:
    """Where shards lie: of a root of several splits each one's run directory that has any, else the place."""
    found = open_parts(place) if RunDirectory(place).experiment.is_file() else {}
    runs = {split: run.root for split, (run, _) in found.items() if len(found) > 1 and run.shards.is_dir()}
    return runs or {"": place}


def measure(shards: ShardSet, *, seed: int = 0) -> ShardFigures:
    """Figures of all samples; brightness is measured on a few videos of each class, drawn by `seed`."""
    samples = shards.samples
    frames = np.array([sample.frames for sample in samples])
    classes = tuple(_measure_classes(shards, seed))
    lumas = [figures.mean_luma for figures in classes if figures.mean_luma is not None]
    lines = read_json_lines(shards.directory / REJECTS, ["reason"])
    return ShardFigures(
        directory=str(shards.directory),
        clips={split: len(shards.rows[split]) for split in shards.splits},
        frames=int(frames.sum()),
        frames_range=(int(frames.min()), float(np.median(frames)), int(frames.max())),
        hours=sum(sample.frames / sample.fps for sample in samples) / 3600,
        fps=_commonest(f"{sample.fps:.2f}".rstrip("0").rstrip(".") for sample in samples),
        sizes=_commonest(f"{sample.width}x{sample.height}" for sample in samples),
        groups=len({sample.group for sample in samples} - {""}),
        mean_luma=float(np.mean(lumas)) if lumas else None,
        rejects=_commonest(line["reason"] for line in lines),
        bytes=_component_bytes(shards.directory),
        classes=classes,
    )


def draw_rows(shards: ShardSet, split: SplitName, label: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Some rows of a class, drawn by `seed`: `count`, or all where there are fewer."""
    rows = np.flatnonzero(shards.rows[split].labels == label)
    return np.random.default_rng([seed, label]).permutation(rows)[:count]


def has(shards: ShardSet, modality: Modality) -> bool:
    """Whether the samples have the modality's component."""
    try:
        shards.read(shards.splits[0], 0, component(modality, shards.codec))
    except UsageError:
        return False
    return True


def pictures(
    shards: ShardSet, split: SplitName, modality: Modality, rows: npt.NDArray[np.int64], size: int
) -> Pictures:
    """The rows' pictures at both `MOMENTS`, decoded as for a network and cropped in the centre.

    Returns:
        float32, `[rows, moments, size, size, channels]`: rgb 0..1 before gamma, flow in stored pixels.
    """
    clip = Clip(frames=1, stride=1, size=size, short_side=(size, size), gamma=1.0)
    looks = np.repeat(rows, len(MOMENTS))
    starts = (np.tile(MOMENTS, len(rows)) * shards.rows[split].frames[looks]).astype(np.int32)
    batches = [
        _centre(looks[i : i + _BATCH_SIZE], starts[i : i + _BATCH_SIZE], size)
        for i in range(0, len(looks), _BATCH_SIZE)
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    decoded = [
        clips.clips_bcthw[:, :, 0].permute(0, 2, 3, 1).cpu().numpy().copy()
        for clips in decode_clips(
            shards, split, modality, clip, batches, batch_size=_BATCH_SIZE, device=device
        )
    ]
    found: Pictures = np.concatenate(decoded)
    if modality == "rgb":
        found = found * RGB_STD + RGB_MEAN
    return found.reshape(len(rows), len(MOMENTS), size, size, -1)


def describe(figures: ShardFigures) -> str:
    """The figures as text of at most 80 columns."""
    fewest, median, most = figures.frames_range
    luma = "-" if figures.mean_luma is None else f"{figures.mean_luma:.1f} of 255, before gamma"
    lines = [
        ("clips", ", ".join(f"{count:,} {split}" for split, count in figures.clips.items())),
        (
            "frames",
            f"{figures.frames:,} in {figures.hours:.2f} h; a clip {fewest} to {most}, median {median:g}",
        ),
        ("fps", _listed(figures.fps)),
        ("sizes", _listed(figures.sizes)),
        ("groups", str(figures.groups)),
        ("mean luma", luma),
        ("rejected", _listed(figures.rejects, len(figures.rejects)) or "none"),
        ("bytes", ", ".join(f"{name} {in_bytes(count)}" for name, count in figures.bytes.items())),
    ]
    told = [
        textwrap.fill(value, 80, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)
        for name, value in lines
    ]
    return "\n".join([*told, "", *_class_lines(figures.classes)])


def _class_lines(classes: Sequence[ClassFigures]) -> Iterator[str]:
    table = [["class", *classes[0].clips, "groups", "luma"]]
    for c in classes:
        luma = "-" if c.mean_luma is None else f"{c.mean_luma:.1f}"
        table.append([c.name, *map(str, c.clips.values()), str(c.groups), luma])
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    first = min(first, 80 - sum(width + 2 for width in widths))
    for name, *values in table:
        padded = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        yield "  ".join([name[:first].ljust(first), *padded])


def _measure_classes(shards: ShardSet, seed: int) -> Iterator[ClassFigures]:
    split = shards.splits[0]
    drawn = [draw_rows(shards, split, label, _LUMA_CLIPS, seed) for label in range(len(shards.classes))]
    lumas = _mean_lumas(shards, split, np.concatenate(drawn)) if has(shards, "rgb") else None
    begin = 0
    for label, (name, rows) in enumerate(zip(shards.classes, drawn, strict=True)):
        mean = None if lumas is None or not len(rows) else float(lumas[begin : begin + len(rows)].mean())
        begin += len(rows)
        clips: dict[str, int] = {s: int((shards.rows[s].labels == label).sum()) for s in shards.splits}
        groups = {sample.group for sample in shards.samples if sample.label == label} - {""}
        yield ClassFigures(name, clips, len(groups), mean)


def _mean_lumas(shards: ShardSet, split: SplitName, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean luma of each row's pictures, 0..255."""
    found = pictures(shards, split, "rgb", rows, _LUMA_SIDE)
    return np.asarray((found @ _LUMA).mean(axis=(1, 2, 3)) * 255)


def _centre(rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int32], size: int) -> Batch:
    return Batch(
        rows=rows,
        views=np.full(len(rows), FREE, np.int64),
        start_frames=starts,
        short_sides=np.full(len(rows), size, np.float32),
        crop_x=np.full(len(rows), 0.5, np.float32),
        crop_y=np.full(len(rows), 0.5, np.float32),
        mirror=np.zeros(len(rows), np.int32),
    )


def _component_bytes(directory: Path) -> dict[str, int]:
    total: Counter[str] = Counter()
    for path in directory.glob("*.idx"):
        for _, components in read_index(path):
            total.update({name: size for name, (_, size) in components.items()})
    return dict(total.most_common())


def _commonest(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _listed(counts: dict[str, int], most: int = 4) -> str:
    """The commonest with their counts, and how many more there are."""
    listed = [f"{value} ({count:,})" for value, count in list(counts.items())[:most]]
    others = len(counts) - len(listed)
    return ", ".join([*listed, f"{others} more"] if others > 0 else listed)
