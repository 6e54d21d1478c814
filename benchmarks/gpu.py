"""Claim: on a GPU a student costs the same without targets and with those of one teacher or of a thousand.

SlowFast R50 4x16 with 64 frames, batch 16, crops of 224 and 256, under DeepSpeed through the real loop, in
bf16 by autocast and in float32 (whose convolutions torch lets use TF32). What it learns from: labels alone; a
target of 1 and of 1,000 teachers, assembled here; or one teacher in memory, which sees each batch first
(online).

- resident: one batch of random clips that stays on the device, so that nothing but training is measured;
  `channels_last` is the same with clips in that layout;
- decoded: drawn videos (VP9, 320x240), decoded by NVDEC.

Of each: seconds a step (medians over rounds, in which all cases take turns), share of the data wait, peak of
torch's allocations and of all memory in use, and MFU: the FLOPs of every network's passes, counted by torch,
over the device's dense peak, which is null for a device that is not listed. Prints one JSON line and keeps it
in benchmarks/results/gpu.json after every case. Without a CUDA device it says so and ends; `--device cpu
--small` runs every line with a tiny network there and keeps nothing.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import torch
from record import RESULTS, claim_of, commit, hardware, parser, save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from trainings import drawn_videos, one_rank, repeated_shards

from ukd_dist.clip_config import Clip
from ukd_dist.cluster_config import Resources
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.losses import distillation_loss
from ukd_dist.method.weighting import Weighting
from ukd_dist.metrics import Recorder
from ukd_dist.training.engines import DeepSpeedEngine
from ukd_dist.training.loop import Epoch, Objective, train
from ukd_dist.training.setup import (
    build_network,
    build_optimizer,
    prepare_device,
    supervised,
    training_clips,
)
from ukd_dist.training_config import Student

Source = Literal["resident", "channels_last", "decoded"]
Precision = Literal["float32", "bf16"]
Teaching = Literal["none", "K=1", "K=1000", "online K=1"]

ONLINE: Teaching = "online K=1"
ROUNDS, STEPS = 2, 12
MOST_SECONDS = 450.0  # no case is begun later
TEMPERATURE = 20.0
# Dense FLOP/s by name, the first that fits: bf16, and TF32, which float32's convolutions take.
PEAKS = {
    "H200": {"bf16": 989e12, "float32": 494e12},
    "H100 PCIe": {"bf16": 756e12, "float32": 378e12},
    "H100": {"bf16": 989e12, "float32": 494e12},
    "A100": {"bf16": 312e12, "float32": 156e12},
    "L40S": {"bf16": 362e12, "float32": 183e12},
}
RESULT = RESULTS / "gpu.json"


@dataclass(frozen=True)
class Scale:
    """What is trained, and how long."""

    arch: str
    frames: int
    batch: int
    sizes: tuple[int, ...]
    rounds: int
    steps: int


FULL = Scale("slowfast_r50_4x16", 64, 16, (224, 256), ROUNDS, STEPS)
SMALL = Scale("slowfast_tiny", 16, 4, (64,), 1, 3)


@dataclass(frozen=True)
class Case:
    """One training."""

    size: int
    precision: Precision
    source: Source
    teaching: Teaching

    def __str__(self) -> str:
        return f"{self.size}, {self.precision}, {self.source}, {self.teaching}"


@dataclass(frozen=True)
class Measured:
    """What one training took.

    Attributes:
        step_seconds: Mean over the second epoch's steps.
        data_wait_ratio: Of it, the share that waited for clips.
        peak_memory_bytes: Of torch's allocations; on a CPU of the process.
        in_use_bytes: Of the GPU's memory at the end, whoever took it.
    """

    step_seconds: float
    data_wait_ratio: float
    peak_memory_bytes: int
    in_use_bytes: int


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments.add_argument("--small", action="store_true", help="a tiny network and few steps; nothing kept")
    asked = arguments.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        sys.exit()
    scale = SMALL if asked.small else FULL
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(scale, torch.device(asked.device), Path(scratch))
        with one_rank(bench.device):
            for record in bench.records():
                if not asked.small and bench.device.type == "cuda":
                    save(RESULT, record)
    print(json.dumps(record))


class Bench:
    """All cases, in turns.

    Args:
        scale: What is trained.
        device: Where.
        folder: For videos, shards and checkpoints.
    """

    def __init__(self, scale: Scale, device: torch.device, folder: Path) -> None:
        self.scale, self.device, self.folder = scale, device, folder
        # Its kind decides the settings, which say which of the kind it is.
        self.device = prepare_device(self.settings(scale.sizes[0]))
        rows = scale.batch * scale.steps
        self.shards: ShardSet = repeated_shards(drawn_videos(folder / "videos"), folder / "shards", rows=rows)
        self.targets: dict[Teaching, torch.Tensor] = {
            "K=1": self.target(1).to(device),
            "K=1000": self.target(1000).to(device),
        }
        self.flops = {
            (size, teachers): self.count_flops(size, teachers) for size in scale.sizes for teachers in (0, 1)
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """What is known after each case."""
        began = time.monotonic()
        found: dict[Case, list[Measured]] = {}
        skipped: dict[str, str] = {}
        for case in self.cases() * self.scale.rounds:
            if time.monotonic() - began > MOST_SECONDS:
                skipped[str(case)] = f"{MOST_SECONDS:g} s were over"
            elif str(case) not in skipped:
                try:
                    measured = self.measure(case)
                except (ImportError, RuntimeError) as error:  # no DALI, no NVDEC, too little memory
                    skipped[str(case)] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                else:
                    found.setdefault(case, []).append(measured)
            yield self.record(found, skipped)

    def cases(self) -> list[Case]:
        every: list[Case] = []
        for size in self.scale.sizes:
            for teaching in ("none", "K=1", "K=1000", "online K=1"):
                every += [Case(size, precision, "resident", teaching) for precision in ("bf16", "float32")]
                every.append(Case(size, "bf16", "decoded", teaching))
            every.append(Case(size, "bf16", "channels_last", "none"))
        return every

    def record(self, found: dict[Case, list[Measured]], skipped: dict[str, str]) -> dict[str, Any]:
        return {
            "claim": claim_of(__doc__),
            "command": "python benchmarks/gpu.py",
            "commit": commit(),
            "hardware": hardware(),
            "torch": torch.__version__,
            "arch": self.scale.arch,
            "clip": f"{self.scale.frames} frames",
            "batch": self.scale.batch,
            "rounds": self.scale.rounds,
            "steps": self.scale.steps,
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
            "cases": {str(case): self.summary(case, measured) for case, measured in found.items()},
            "over_none": {
                str(case): over(measured, found[plain])
                for case, measured in found.items()
                if case.teaching != "none" and (plain := untaught(case)) in found
            },
            "skipped": skipped,
        }

    def summary(self, case: Case, measured: Sequence[Measured]) -> dict[str, Any]:
        seconds = [one.step_seconds for one in measured]
        flops = self.flops[case.size, int(case.teaching == ONLINE)]
        peak = peak_flops(self.device, case.precision)
        return {
            "step_seconds": round(statistics.median(seconds), 5),
            "spread": [round(min(seconds), 5), round(max(seconds), 5)],
            "data_wait_ratio": round(statistics.median(one.data_wait_ratio for one in measured), 4),
            "peak_memory_bytes": max(one.peak_memory_bytes for one in measured),
            "in_use_bytes": max(one.in_use_bytes for one in measured),
            "flops": flops,
            "mfu": peak and round(flops / statistics.median(seconds) / peak, 4),
        }

    def measure(self, case: Case) -> Measured:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        line = self.train(case)
        free, total = torch.cuda.mem_get_info(self.device) if self.device.type == "cuda" else (0, 0)
        return Measured(
            step_seconds=line.seconds / self.scale.steps,
            data_wait_ratio=line.data_wait_seconds / line.seconds,
            peak_memory_bytes=line.peak_memory_bytes,
            in_use_bytes=total - free,
        )

    def train(self, case: Case) -> Epoch:
        """The second epoch of a training."""
        settings = self.settings(case.size, case.precision)
        network = self.network(case.size, seed=0)
        engine = DeepSpeedEngine(network, build_optimizer(settings, network), self.device, settings)
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as own,
            Recorder(Path(own) / "metrics", run="gpu", stage="distill") as recorder,
        ):
            *_, line = train(
                engine,
                self.objective(case),
                lambda epochs, _: self.clips(case, epochs),
                settings,
                rows=self.shards.rows["train"],
                directory=Path(own),
                inputs={},
                recorder=recorder,
            )
        return line

    def settings(self, size: int, precision: Precision = "float32") -> Student:
        on_gpu = self.device.type == "cuda"
        return Student(
            name="student",
            targets="none",
            arch=self.scale.arch,
            modality="rgb",
            epochs=2,
            batch_size=self.scale.batch,
            precision=precision,
            clip=Clip(frames=self.scale.frames, stride=1, size=size, short_side=(size, size * 9 // 7)),
            resources=Resources(cpus=8, gpus=1) if on_gpu else Resources(cpus=1),
        )

    def network(self, size: int, seed: int) -> nn.Module:
        settings = self.settings(size).model_copy(update={"seed": seed})
        return build_network(settings, len(self.shards.classes))

    def clips(self, case: Case, epochs: range) -> Iterator[Clips]:
        if case.source == "decoded":
            return training_clips(self.shards, self.settings(case.size), epochs, self.device)
        shape = self.scale.batch, 3, self.scale.frames, case.size, case.size
        clips_bcthw = torch.randn(shape, device=self.device)
        if case.source == "channels_last":
            clips_bcthw = clips_bcthw.contiguous(memory_format=torch.channels_last_3d)
        rows_b = torch.arange(self.scale.batch)
        labels_b = torch.from_numpy(self.shards.rows["train"].labels)[rows_b]
        here = (column.to(self.device) for column in (rows_b, torch.full_like(rows_b, -1), labels_b))
        return repeat(Clips(clips_bcthw, *here))

    def objective(self, case: Case) -> Objective:
        settings = self.settings(case.size)
        if case.teaching == "none":
            return supervised(settings)
        if case.teaching == ONLINE:
            teacher = self.network(case.size, seed=1).to(self.device).eval()
            bf16 = case.precision == "bf16"

            def opinions(batch: Clips) -> torch.Tensor:
                with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    logits_nc: torch.Tensor = teacher(batch.clips_bcthw)
                return logits_nc
        else:
            target = self.targets[case.teaching]

            def opinions(batch: Clips) -> torch.Tensor:
                return target[batch.rows_b]

        def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
            return distillation_loss(
                logits_nc,
                batch.labels_b,
                opinions(batch),
                alpha=settings.alpha,
                temperature=TEMPERATURE,
                space="logits",
            )._asdict()

        return objective

    def target(self, teachers: int) -> torch.Tensor:
        """What so many teachers' opinions become, float32 `[rows, classes]`."""
        labels_n = torch.from_numpy(self.shards.rows["train"].labels)
        num_classes = len(self.shards.classes)
        assembly = Assembly(Weighting(method="pkd"), len(labels_n), num_classes)
        for teacher in range(teachers):
            generator = torch.Generator().manual_seed(teacher)
            logits_nc = torch.randn(len(labels_n), num_classes, generator=generator)
            assembly.add(logits_nc + 2 * nn.functional.one_hot(labels_n, num_classes), labels_n)
        return assembly.finish()

    def count_flops(self, size: int, teachers: int) -> int:
        """Of a student's step with so many teachers in memory; a product and its addition are two."""
        network = self.network(size, seed=0).to("meta")
        clips_bcthw = torch.empty(1, 3, self.scale.frames, size, size, device="meta")
        with FlopCounterMode(display=False) as both_passes:
            network(clips_bcthw).sum().backward()
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network(clips_bcthw)
        return self.scale.batch * (both_passes.get_total_flops() + teachers * forward.get_total_flops())


def untaught(case: Case) -> Case:
    return Case(case.size, case.precision, case.source, "none")


def over(measured: Sequence[Measured], plain: Sequence[Measured]) -> dict[str, float]:
    """Seconds a step and peak memory as multiples of training without a teacher; of time each round's."""
    ratios = [one.step_seconds / other.step_seconds for one, other in zip(measured, plain, strict=False)]
    memory = max(one.peak_memory_bytes for one in measured) / max(one.peak_memory_bytes for one in plain)
    return {
        "step_seconds": round(statistics.median(ratios), 4),
        "step_seconds_least": round(min(ratios), 4),
        "step_seconds_most": round(max(ratios), 4),
        "peak_memory": round(memory, 5),
    }


def peak_flops(device: torch.device, precision: str) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peaks[precision] for known, peaks in PEAKS.items() if known in name), None)


if __name__ == "__main__":
    main()
