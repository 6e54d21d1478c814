"""Claim: a core loads more clips a second from single JPEG frames than from VP9, or than other loaders do.

Every loader makes the same clips (32 frames, stride 2, short side and crop 112, gamma 3, normalised) of the
same real videos, in turns, each on one core of this process:

- ukd_vp9, ukd_jpeg: this pipeline over shards of that codec at the sources' size, which averages over all
  pixels as it makes frames smaller;
- ukd_vp9_nearest, ukd_jpeg_nearest: with clip.antialias false, which is how all the others resize;
- ukd_vp9_128, ukd_jpeg_128: over shards whose short side is 128 (encoding.short_side);
- webdataset_pyav: WebDataset over tars of the sources (H.264), PyAV, OpenCV;
- decord, torchcodec: the sources in memory, then OpenCV;
- pytorchvideo: its own reader (EncodedVideo over PyAV) and its own subsampling, then torch;
- floor_h264, floor_vp9: decoding a clip's span and nothing else.

Seconds are the process's CPU seconds, so that a busy machine does not decide; those of one batch, which hold
the start of a loader, are taken off. What is not installed is skipped with the reason. H.264 in shards
(data.codec: copy) needs NVDEC, and has no figure on a CPU. Prints one JSON line and keeps it in
benchmarks/results/loading.json; with matplotlib, draws docs/loading.svg of it.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from competitors import decoded, with_decord, with_pytorchvideo, with_torchcodec, with_webdataset
from record import RESULTS, claim_of, commit, hardware, real_clips, save

from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import EncodedBatch, decode
from ukd_dist.data.components import encode_sample
from ukd_dist.data.modalities import component
from ukd_dist.data.shards import Sample, write_shard
from ukd_dist.data.video import probe
from ukd_dist.data.videofacts import stored_size
from ukd_dist.data.views import evaluation_batches
from ukd_dist.data_config import Codec, Encoding
from ukd_dist.models.networks import build

CLIP = Clip(frames=32, stride=2, size=112, short_side=(112, 112), gamma=3.0)
CODECS: tuple[Codec, ...] = ("vp9", "jpeg")
BATCH = 16
CLIPS = 48
PASSES = 3
REPEATS = 3
RESULT = RESULTS / "loading.json"
CHART = RESULTS.parents[1] / "docs" / "loading.svg"
LABELS = {
    "ukd_vp9": "ukd-dist, VP9",
    "ukd_vp9_nearest": "ukd-dist, VP9, no antialiasing",
    "ukd_vp9_128": "ukd-dist, VP9 of short side 128",
    "ukd_jpeg": "ukd-dist, JPEG",
    "ukd_jpeg_nearest": "ukd-dist, JPEG, no antialiasing",
    "ukd_jpeg_128": "ukd-dist, JPEG of short side 128",
    "webdataset_pyav": "WebDataset and PyAV, H.264",
    "decord": "decord, H.264",
    "torchcodec": "torchcodec, H.264",
    "pytorchvideo": "PyTorchVideo, H.264",
    "floor_h264": "decoding alone, H.264",
    "floor_vp9": "decoding alone, VP9",
}
Loader = Callable[[list[int]], Iterator[Any]]


def main() -> None:
    paths = real_clips(__doc__)
    torch.set_num_threads(1)
    # Any network: pytorchvideo can then be imported beside a CPU-only torch.
    build("x3d_tiny", num_classes=2, channels=3, clip=CLIP, dropout=0, seed=0)
    cv2.setNumThreads(1)
    paths = paths[:: len(paths) // CLIPS][:CLIPS]
    with tempfile.TemporaryDirectory() as scratch:
        loaders, skipped = open_loaders(Sources(paths, Path(scratch)))
        milliseconds = measure(loaders)
    medians = {name: statistics.median(found) for name, found in milliseconds.items()}
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/loading.py --arid-data DIR",
        "commit": commit(),
        "hardware": hardware(cores_used=1),
        "clips": CLIPS,
        "passes": PASSES,
        "repeats": REPEATS,
        "clips_per_second_per_core": {name: round(1e3 / ms, 1) for name, ms in medians.items()},
        "milliseconds": {name: round(ms, 2) for name, ms in medians.items()},
        "spread": {
            name: [round(min(found), 2), round(max(found), 2)] for name, found in milliseconds.items()
        },
        "times_pytorchvideo": {
            name: round(medians["pytorchvideo"] / ms, 2) for name, ms in medians.items() if "ukd" in name
        },
        "skipped": skipped,
    }
    print(json.dumps(record))
    save(RESULT, record)
    draw(record["clips_per_second_per_core"])


def draw(clips_per_second: Mapping[str, float]) -> None:
    try:
        from matplotlib import pyplot, rc_context
    except ImportError:
        print("no chart: matplotlib is not installed")
        return
    ordered = sorted(clips_per_second.items(), key=lambda item: item[1])
    colours = [
        "#2a6f97" if "ukd" in name else "#c9c9c9" if "floor" in name else "#8a8a8a" for name, _ in ordered
    ]
    with rc_context({"svg.hashsalt": "loading", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
        bars = axes.barh(
            [LABELS[name] for name, _ in ordered], [value for _, value in ordered], color=colours
        )
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set_xlabel("clips a second a core: 32 frames, stride 2, 112 pixels")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1)
        figure.savefig(CHART, metadata={"Date": None})


@dataclass(frozen=True)
class Stored:
    """The videos as components, with height and width."""

    codec: Codec
    videos: list[npt.NDArray[np.uint8]]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, samples: list[Sample], paths: list[Path], codec: Codec, short_side: int | None) -> Stored:
        sizes = [stored_size(sample.width, sample.height, short_side) for sample in samples]
        scaled = [
            replace(sample, width=width, height=height)
            for sample, (width, height) in zip(samples, sizes, strict=True)
        ]
        encoded = [
            encode_sample(sample, path, ("rgb",), Encoding(), codec)[component("rgb", codec)]
            for sample, path in zip(scaled, paths, strict=True)
        ]
        return cls(codec, [np.frombuffer(video, np.uint8) for video in encoded], np.array(sizes)[:, ::-1])


class Sources:
    """The videos as files, in memory, as components of each codec, and as a tar."""

    def __init__(self, paths: list[Path], scratch: Path) -> None:
        self.bytes = [path.read_bytes() for path in paths]
        infos = [probe(path) for path in paths]
        self.frames = np.array([info.frames for info in infos])
        samples = [
            Sample("train", row, path.stem, 0, "any", "", info.frames, info.fps, info.width, info.height)
            for row, (path, info) in enumerate(zip(paths, infos, strict=True))
        ]
        self.stored = {
            (codec, side): Stored.of(samples, paths, codec, side) for codec in CODECS for side in (None, 128)
        }
        self.tar = scratch / "train-000000.tar"
        videos = ({"rgb.mp4": video} for video in self.bytes)
        write_shard(self.tar, zip(samples, videos, strict=True))
        self.fps = [info.fps for info in infos]

    def wanted(self, row: int) -> np.ndarray:
        """Frames of the clip in the middle of a video."""
        (batch,) = evaluation_batches(self.frames[row : row + 1], CLIP, 1)
        return np.minimum(batch.start_frames[0] + CLIP.stride * np.arange(CLIP.frames), self.frames[row] - 1)


def open_loaders(sources: Sources) -> tuple[dict[str, Loader], dict[str, str]]:
    """Every loader that runs here, and why the others do not."""
    videos, wanted = sources.bytes, sources.wanted
    known: dict[str, Loader] = {
        **pipelines(sources),
        "webdataset_pyav": lambda rows: with_webdataset(sources.tar, map(wanted, rows), CLIP),
        "decord": lambda rows: (with_decord(videos[row], wanted(row), CLIP) for row in rows),
        "torchcodec": lambda rows: (with_torchcodec(videos[row], wanted(row), CLIP) for row in rows),
        "pytorchvideo": lambda rows: (
            with_pytorchvideo(videos[row], wanted(row), CLIP, sources.fps[row]) for row in rows
        ),
        "floor_h264": partial(floor, sources, videos),
        "floor_vp9": partial(floor, sources, sources.stored["vp9", None].videos),
    }
    working, skipped = {}, {"ukd_copy": "H.264 needs NVDEC"}
    for name, loader in known.items():
        try:
            list(loader([0]))
            working[name] = loader
        except (ImportError, OSError, RuntimeError) as error:
            said = str(error).strip().splitlines()[0]
            skipped[name] = f"{type(error).__name__}: {re.sub(r'/[^ ]*/', '', said)}"  # no path of a machine
    return working, skipped


def measure(loaders: dict[str, Loader]) -> dict[str, list[float]]:
    """CPU milliseconds a clip of each loader, once a turn."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    few, many = list(range(BATCH)), list(range(CLIPS)) * PASSES
    for _ in range(REPEATS):
        for name, loader in loaders.items():
            seconds = cpu_seconds(loader, many) - cpu_seconds(loader, few)
            found[name].append(seconds / (len(many) - len(few)) * 1e3)
    return found


def cpu_seconds(loader: Loader, rows: list[int]) -> float:
    began = time.process_time()
    for _ in loader(rows):
        pass
    return time.process_time() - began


def pipelines(sources: Sources) -> dict[str, Loader]:
    """This pipeline over each codec, and with what makes it faster."""
    found: dict[str, Loader] = {}
    for codec in CODECS:
        stored, small = sources.stored[codec, None], sources.stored[codec, 128]
        nearest = CLIP.model_copy(update={"antialias": False})
        found[f"ukd_{codec}"] = partial(pipeline, sources.frames, stored, CLIP)
        found[f"ukd_{codec}_nearest"] = partial(pipeline, sources.frames, stored, nearest)
        found[f"ukd_{codec}_128"] = partial(pipeline, sources.frames, small, CLIP)
    return found


def pipeline(frames: npt.NDArray[np.int64], stored: Stored, clip: Clip, rows: list[int]) -> Iterator[Any]:
    lengths, sizes = frames[rows], stored.sizes[rows]
    encoded = (
        EncodedBatch(
            [stored.videos[rows[place]] for place in batch.rows],
            lengths[batch.rows],
            sizes[batch.rows],
            batch,
        )
        for batch in evaluation_batches(lengths, clip, BATCH)
    )
    yield from decode(
        encoded,
        "rgb",
        clip,
        batch_size=BATCH,
        flow_bound=1.0,
        device=torch.device("cpu"),
        codec=stored.codec,
    )


def floor(sources: Sources, videos: Sequence[Any], rows: list[int]) -> Iterator[list[np.ndarray]]:
    for row in rows:
        yield decoded(videos[row], sources.wanted(row), in_rgb=False)


if __name__ == "__main__":
    main()
