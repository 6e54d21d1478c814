"""Claim: rgb in the shards is close to its source after gamma, as VP9 and as single JPEG frames.

Encodes the first frames of every real clip as the shards would, decodes them through the DALI pipeline at
their own size, and compares with an exact conversion (BT.601, unrounded) of the source's planes, both after
gamma 3:

- psnr: dB over all pixels of a clip: mean, and the worst clip;
- signed: mean difference of a clip, grey levels: mean over clips, and the largest of any clip's channels;
- kib: of 32 frames.

`rounded` is the source itself, rounded to 8-bit rgb: no 8-bit decoder does better. Prints one JSON line and
keeps it in benchmarks/results/fidelity.json.
"""

from __future__ import annotations

import json
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from record import RESULTS, claim_of, commit, hardware, real_clips, save

from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import RGB_MEAN, RGB_STD, EncodedBatch, decode
from ukd_dist.data.video import Frame, probe, read_frames
from ukd_dist.data.videofacts import stored_size
from ukd_dist.data.views import evaluation_batches
from ukd_dist.data.writers import open_writer
from ukd_dist.data_config import Codec, Encoding

GAMMA = 3.0
FRAMES = 12
CASES: dict[str, tuple[Codec, Encoding]] = {
    "vp9 crf 24": ("vp9", Encoding()),
    "vp9 crf 16": ("vp9", Encoding(crf_rgb=16)),
    "jpeg qscale 2": ("jpeg", Encoding()),
    "jpeg qscale 4": ("jpeg", Encoding(jpeg_qscale=4)),
}
RESULT = RESULTS / "fidelity.json"


def main() -> None:
    videos = real_clips(__doc__)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ["rounded", *CASES]}
    for path in videos:
        for name, figures in compare(path).items():
            found[name].append(figures)
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/fidelity.py --arid-data DIR",
        "commit": commit(),
        "hardware": hardware(),
        "clips": len(videos),
        "frames": FRAMES,
        "cases": {name: summary(figures) for name, figures in found.items()},
    }
    print(json.dumps(record))
    save(RESULT, record)


def summary(figures: list[dict[str, float]]) -> dict[str, float]:
    return {
        "psnr_mean_db": round(statistics.mean(f["psnr"] for f in figures), 2),
        "psnr_worst_db": round(min(f["psnr"] for f in figures), 2),
        "signed_mean": round(statistics.mean(f["signed"] for f in figures), 3),
        "signed_worst_channel": round(max(f["worst"] for f in figures), 3),
        "kib": round(statistics.mean(f["kib"] for f in figures), 1),
    }


def compare(path: Path) -> dict[str, dict[str, float]]:
    """Figures of one video in every case."""
    info = probe(path)
    width, height = stored_size(info.width, info.height, None)
    frames = list(islice(read_frames(path, width, height), FRAMES))
    exact = centre(np.stack([exact_rgb(frame) for frame in frames], axis=1))
    found = {"rounded": differ(np.rint(exact), exact, 0)}
    for name, (codec, encoding) in CASES.items():
        writer = open_writer("rgb", width, height, info.fps, encoding, codec)
        for frame in frames:
            writer.write(frame)
        stored = writer.finish()
        found[name] = differ(shown(stored, codec, (height, width), len(frames)), exact, len(stored))
    return found


def differ(rgb: np.ndarray, exact: np.ndarray, size: int) -> dict[str, float]:
    difference = after_gamma(rgb) - after_gamma(exact)
    by_channel = difference.mean(axis=(1, 2, 3))
    return {
        "psnr": float(10 * np.log10(255**2 / (difference**2).mean())),
        "signed": float(by_channel.mean()),
        "worst": float(np.abs(by_channel).max()),
        "kib": size / rgb.shape[1] * 32 / 1024,
    }


def after_gamma(rgb: np.ndarray) -> np.ndarray:
    return np.asarray((rgb / 255) ** (1 / GAMMA) * 255)


def shown(stored: bytes, codec: Codec, size: tuple[int, int], frames: int) -> np.ndarray:
    """What the pipeline makes of the square in the middle, rgb 0..255 before gamma, `[3, frames, H, W]`."""
    side, lengths = min(size), np.array([frames])
    clip = Clip(frames=frames, stride=1, size=side, short_side=(side, side), gamma=1.0)
    (batch,) = evaluation_batches(lengths, clip, 1)
    encoded = [EncodedBatch([np.frombuffer(stored, np.uint8)], lengths, np.array([size]), batch)]
    made = decode(encoded, "rgb", clip, batch_size=1, flow_bound=1.0, device=torch.device("cpu"), codec=codec)
    clips: list[Any] = [clips_bcthw.numpy().copy() for clips_bcthw, *_ in made]
    return np.asarray((clips[0][0].astype(np.float64) * RGB_STD + RGB_MEAN) * 255)


def centre(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return rgb[..., top : top + side, left : left + side]


def exact_rgb(planes: Frame) -> np.ndarray:
    """A yuv420p frame as rgb 0..255, `[3, H, W]`: BT.601, limited range, unrounded."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    luma = (planes[:height].astype(np.float64) - 16) * 255 / 219
    halves = (planes[height:].reshape(2, height // 2, width // 2) - 128.0) * 255 / 224
    blue, red = (cv2.resize(half, (width, height)) for half in halves)
    return np.clip([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], 0, 255)


if __name__ == "__main__":
    main()
