"""What this machine has, and what will not work on it (`ukd doctor`)."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

_PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "pytorchvideo", "prometheus-client", "av")
_DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        verdict: ok; note: works, with a limit; missing: something will not work.
        what: What was looked for.
        found: What is there.
        means: What follows.
    """

    verdict: Literal["ok", "note", "missing"]
    what: str
    found: str
    means: str = ""


def examine() -> list[Finding]:
    """Look at everything that the stages need."""
    return [
        _python(),
        *map(_package, _PACKAGES),
        _dali(),
        *_gpu(),
        _compiler(),
        _shared_memory(),
        _try(_decode),
    ]


def _python() -> Finding:
    found = f"{platform.python_version()}, {os.cpu_count()} cores"
    if platform.python_version_tuple()[:2] in (("3", "11"), ("3", "12")):
        return Finding("ok", "python", found)
    return Finding("missing", "python", found, "3.11 or 3.12 is needed")


def _package(name: str) -> Finding:
    try:
        return Finding("ok", name, version(name))
    except PackageNotFoundError:
        return Finding("missing", name, "not installed", "run `make install`")


def _dali() -> Finding:
    for name in _DALI:
        try:
            return Finding("ok", "nvidia-dali", f"{version(name)} ({name})")
        except PackageNotFoundError:
            continue
    return Finding(
        "missing", "nvidia-dali", "not installed", "install the extra cuda13 or cuda12, also without a GPU"
    )


def _gpu() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [
            Finding(
                "note", "GPU", "none", "everything runs on the CPU; gpus > 0 in an experiment is refused"
            ),
        ]
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return [Finding("ok", "GPU", names)]


def _compiler() -> Finding:
    beside = sysconfig.get_path("scripts")  # pip's ninja; DeepSpeed is shown it
    found = {"g++": shutil.which("g++"), "ninja": shutil.which("ninja") or shutil.which("ninja", path=beside)}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        means = "DeepSpeed cannot load its CPU op: students will not train without a GPU"
        return Finding("missing", "g++, ninja", f"no {', '.join(missing)}", means)
    return Finding("ok", "g++, ninja", "found", "DeepSpeed's CPU op loads")


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0  # noqa: PTH112
    found = f"{free / 2**30:.1f} GiB free in /dev/shm"
    if free < 2**30:
        return Finding(
            "note", "shared memory", found, "Ray spills to disk; containers want --shm-size=2g or more"
        )
    return Finding("ok", "shared memory", found)


def _try(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever breaks is the finding
        return Finding(
            "missing", check.__name__.strip("_"), f"{type(error).__name__}: {error}", "clips cannot be made"
        )


def _decode() -> Finding:
    """Encode a small video and decode it through DALI."""
    import numpy as np
    import torch

    from ukd_dist.clip_config import Clip
    from ukd_dist.data.clips import EncodedBatch, decode
    from ukd_dist.data.views import evaluation_batches
    from ukd_dist.data.vp9 import Vp9Encoder

    clip = Clip(frames=4, stride=1, size=192, short_side=(192, 192))
    encoder = Vp9Encoder(192, 192, 30.0, crf=24)
    for _ in range(clip.frames):
        encoder.write(np.full((288, 192), 128, np.uint8))
    video = np.frombuffer(encoder.finish(), np.uint8)
    frames, sizes = np.array([clip.frames]), np.array([[192, 192]])
    batches = (EncodedBatch([video], frames, sizes, batch) for batch in evaluation_batches(frames, clip, 1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ((clips, *_),) = decode(batches, "rgb", clip, batch_size=1, flow_bound=1.0, device=device)
    where = "on the GPU (NVDEC)" if device.type == "cuda" else "on the CPU"
    return Finding("ok", "decode", f"{clips.shape[2]} frames of VP9 through DALI {where}")
