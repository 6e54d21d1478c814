"""Claim: a training step is its network's forward and backward pass; DeepSpeed adds at most 8% to 200 ms.

Every case is the real loop over DALI's clips of drawn videos (320x240), with a plain and a DeepSpeed engine
of equal networks that take the steps in turn, so that their ratio is of neighbours. Reported are:

- shares: of the steps, by phase: data wait, forward, objective, backward, optimizer, engine (of DeepSpeed:
  what it does beside), and rest (Python, metrics, waiting for losses as numbers);
- deepspeed_ratio: seconds without the data wait, DeepSpeed's over plain torch's;
- loader: seconds a batch of the same clips where nothing is trained, over seconds of the step;
- operations: shares of the time inside torch's operations, by torch.profiler, in steps of their own.

On a CPU one core trains and another one decodes; with 16 frames of 112 pixels, since SlowFast R50 with 64 of
224 takes a minute a step there. On a GPU it is that, in bf16, and phases are waited for. Medians over several
trainings a case, in turns. Prints one JSON line and keeps it in benchmarks/results/step-DEVICE.json; --small
runs one short case and keeps nothing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from record import RESULTS, claim_of, commit, hardware, parser, save
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule
from trainings import PHASES, Watch, drawn_videos, one_rank, repeated_shards

from ukd_dist.clip_config import Clip
from ukd_dist.cluster_config import Resources
from ukd_dist.data.shards import ShardSet
from ukd_dist.data_config import Codec
from ukd_dist.metrics import Recorder
from ukd_dist.training.engines import DeepSpeedEngine, PlainEngine
from ukd_dist.training.loop import train
from ukd_dist.training.setup import (
    build_network,
    build_optimizer,
    prepare_device,
    supervised,
    training_clips,
)
from ukd_dist.training.supervision import Supervision
from ukd_dist.training_config import NO_TARGETS, Student

PLAIN, DEEPSPEED = 0, 1
WARM = 4  # steps of a training that are not counted
PROFILED = 3
# Names of operations, of which the first group that fits has the time.
OPERATIONS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm",),
    "copies and conversions": ("copy_", "clone", "contiguous", "_to_copy", "aten::to"),
}


@dataclass(frozen=True)
class Case:
    """What is trained, and on what it learns."""

    arch: str
    frames: int
    size: int
    batch: int
    codec: Codec
    precision: Literal["float32", "bf16"] = "float32"

    def __str__(self) -> str:
        clip = f"{self.frames}x{self.size}, batch {self.batch}"
        return f"{self.arch}, {clip}, {self.codec}, {self.precision}"

    def settings(self, device: torch.device) -> Student:
        short_side = self.size, self.size * 9 // 7
        return Student(
            name="student",
            targets=NO_TARGETS,
            precision=self.precision,
            arch=self.arch,
            modality="rgb",
            epochs=1,
            batch_size=self.batch,
            clip=Clip(frames=self.frames, stride=1, size=self.size, short_side=short_side),
            resources=Resources(cpus=8, gpus=1) if device.type == "cuda" else Resources(cpus=1),
        )


SMALL = [Case("slowfast_tiny", 8, 64, 4, "vp9")]
ON_CPU = [
    Case("slowfast_tiny", 16, 112, 5, "vp9"),
    Case("slowfast_r50_4x16", 16, 112, 4, "vp9"),
    Case("slowfast_r50_4x16", 16, 112, 4, "jpeg"),
]
ON_GPU = [
    Case("slowfast_r50_4x16", 64, 224, 16, "vp9", "bf16"),
    Case("slowfast_r50_4x16", 64, 224, 16, "jpeg", "bf16"),
]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--small", action="store_true", help="one short case, nothing kept")
    small = arguments.parse_args().small
    gpu = torch.cuda.is_available()
    cases = SMALL if small else ON_GPU if gpu else ON_CPU
    repeats, steps = (1, 8) if small else (3, 24)
    device = prepare_device(cases[0].settings(torch.device("cuda" if gpu else "cpu")))
    found: dict[Case, list[Figures]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as scratch, one_rank(device):
        videos = drawn_videos(Path(scratch) / "videos")
        shards = {
            case: repeated_shards(
                videos, Path(scratch) / str(case), rows=case.batch * (WARM + steps + 1), codec=case.codec
            )
            for case in cases
        }
        for _ in range(repeats):
            for case in cases:
                found[case].append(measure(case, shards[case], device))
        operations = {case: profiled(case, shards[case], device) for case in cases}
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/step.py",
        "commit": commit(),
        "hardware": hardware(),
        "repeats": repeats,
        "steps_each": steps // 2,
        "cases": {str(case): {**summary(found[case]), "operations": operations[case]} for case in cases},
    }
    print(json.dumps(record))
    if not small:
        save(RESULTS / f"step-{device.type}.json", record)


@dataclass(frozen=True)
class Figures:
    """Of one training: seconds a step by phase and engine, and of the loader alone a batch."""

    phases: Sequence[Counter[str]]
    deepspeed_ratio: float
    loader: float


def measure(case: Case, shards: ShardSet, device: torch.device) -> Figures:
    watch = trained(case, shards, device, deepspeed=True)
    plain, deepspeed = (watch.taken_by(place, WARM) for place in (PLAIN, DEEPSPEED))
    ratios = [working(other) / working(one) for one, other in zip(plain, deepspeed, strict=False)]
    means = [
        Counter({phase: statistics.mean(step[phase] for step in steps) for phase in ("whole", *PHASES)})
        for steps in (plain, deepspeed)
    ]
    return Figures(means, statistics.median(ratios), loading(case, shards, device))


def trained(
    case: Case,
    shards: ShardSet,
    device: torch.device,
    *,
    deepspeed: bool,
    after_step: Callable[[], None] = lambda: None,
) -> Watch:
    """An epoch of the real loop, watched; with DeepSpeed its engine takes every other step."""
    settings = case.settings(device)
    networks = [build_network(settings, len(shards.classes)) for _ in range(1 + deepspeed)]
    optimizers = [build_optimizer(settings, network) for network in networks]
    engines: list[Any] = [PlainEngine(networks[PLAIN], optimizers[PLAIN], device, settings)]
    if deepspeed:
        engines.append(DeepSpeedEngine(networks[DEEPSPEED], optimizers[DEEPSPEED], device, settings))
    watch = Watch(engines, optimizers, device)
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "metrics", run="step", stage="distill") as recorder,
    ):
        train(
            watch,
            watch.objective(supervised(settings)),
            lambda epochs, _: watch.clips(training_clips(shards, settings, epochs, device)),
            settings,
            rows=shards.rows["train"],
            directory=Path(folder),
            inputs={},
            recorder=recorder,
            supervision=Supervision(on_step=lambda *_: after_step()),
        )
    return watch


def loading(case: Case, shards: ShardSet, device: torch.device) -> float:
    """Seconds a batch where nothing is trained."""
    clips = training_clips(shards, case.settings(device), range(1), device)
    for _ in islice(clips, WARM):
        pass
    began, count = time.perf_counter(), 0
    for _ in clips:
        count += 1
    return (time.perf_counter() - began) / count


def profiled(case: Case, shards: ShardSet, device: torch.device) -> dict[str, float]:
    """Shares of the time inside torch's operations, of steps that are not timed."""
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    stages = schedule(wait=WARM, warmup=1, active=PROFILED, repeat=1)
    with profile(activities=activities, schedule=stages) as profiler:
        trained(case, shards, device, deepspeed=False, after_step=profiler.step)
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU and not event.key.startswith("ProfilerStep"):
            seconds[kind_of(event.key)] += event.self_device_time_total if gpu else event.self_cpu_time_total
    whole = sum(seconds.values())
    return {kind: round(found / whole, 4) for kind, found in seconds.most_common()}


def kind_of(operation: str) -> str:
    for kind, parts in OPERATIONS.items():
        if any(part in operation for part in parts):
            return kind
    return "others"


def working(step: Counter[str]) -> float:
    """Seconds without the data wait."""
    return step["whole"] - step["data wait"]


def summary(figures: Sequence[Figures]) -> dict[str, Any]:
    def shares(place: int) -> dict[str, float]:
        each = [found.phases[place] for found in figures]
        return {
            phase: round(statistics.median(found[phase] / found["whole"] for found in each), 4)
            for phase in PHASES
        }

    waits = [found.phases[PLAIN]["data wait"] / found.phases[PLAIN]["whole"] for found in figures]
    ratios = [found.deepspeed_ratio for found in figures]
    return {
        "step_seconds": round(statistics.median(found.phases[PLAIN]["whole"] for found in figures), 4),
        "shares": {"plain": shares(PLAIN), "deepspeed": shares(DEEPSPEED)},
        "model_share": round(statistics.median(map(model_share, figures)), 4),
        "data_wait_spread": [round(bound, 4) for bound in (min(waits), max(waits))],
        "loader_over_step": round(
            statistics.median(found.loader / working(found.phases[PLAIN]) for found in figures), 3
        ),
        "deepspeed_ratio": round(statistics.median(ratios), 4),
        "deepspeed_ratio_spread": [round(bound, 4) for bound in (min(ratios), max(ratios))],
    }


def model_share(found: Figures) -> float:
    """Of a plain step: what the network's own forward and backward pass take."""
    plain = found.phases[PLAIN]
    return (plain["forward"] + plain["backward"]) / plain["whole"]


if __name__ == "__main__":
    main()
