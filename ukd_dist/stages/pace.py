"""How fast networks train: by the histories of a run directory, or by a few steps taken here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ukd_dist import manifest
from ukd_dist.attempts import with_history
from ukd_dist.cluster_config import Resources
from ukd_dist.data.clips import CHANNELS, Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.setup import build_network, build_optimizer, supervised, training_clips
from ukd_dist.training_config import Teacher

_STEPS = 3
_CPU_BATCH = 2  # a CPU needs as long for a clip in any batch, and a large network's batch of 16 may not fit
_FORWARD_RATIO = 1 / 3  # of a training step; the backward pass computes twice as much


@dataclass(frozen=True)
class Pace:
    """What a clip costs one rank.

    Attributes:
        seconds: Of training, waiting for data included.
        wait_seconds: Of it, waiting for data.
        source: Where this is known from.
    """

    seconds: float
    wait_seconds: float
    source: str

    @property
    def logits_seconds(self) -> float:
        """Of a view of a row whose logits are computed, estimated: it is decoded, and passed forward."""
        return self.wait_seconds + (self.seconds - self.wait_seconds) * _FORWARD_RATIO


@dataclass(frozen=True)
class _Seen:
    """What one training took, all of its ranks together; its resources where they are known."""

    resources: Resources | None
    clips: int
    seconds: float
    waited: float


class Paces:
    """What is known of the pace of networks in a run directory, the removed members' included.

    Args:
        run: The run directory.
        experiment: Says what its members are, and with which resources they train.
    """

    def __init__(self, run: RunDirectory, experiment: Experiment) -> None:
        members = {member.id: member.settings for member in experiment.teachers}
        self._seen: dict[str, list[_Seen]] = {}
        for directory in sorted(run.teacher("").glob("*")):
            known = members.get(directory.name)
            described = known.model_dump(mode="json") if known else _recorded(directory)
            lines = read_history(with_history(directory))
            if described and lines:
                seconds, waited = (
                    sum(line[name] * line.get("ranks", 1) for line in lines)
                    for name in ("seconds", "data_wait_seconds")
                )
                clips = sum(line["clips"] for line in lines)
                seen = _Seen(known.resources if known else None, clips, seconds, waited)
                self._seen.setdefault(_kind(described), []).append(seen)

    def of(self, settings: Teacher) -> Pace | None:
        """The mean pace of that network on such clips, on the same resources where it was seen on them."""
        seen = self._seen.get(_kind(settings.model_dump(mode="json")), [])
        if not seen:
            return None
        alike = [one for one in seen if one.resources == settings.resources]
        told = alike or seen
        clips = sum(one.clips for one in told)
        source = f"{len(told)} training{'s' * (len(told) > 1)} here" + (
            "" if alike else ", on other resources"
        )
        return Pace(sum(one.seconds for one in told) / clips, sum(one.waited for one in told) / clips, source)


def measure(settings: Teacher, num_classes: int, shards: ShardSet | None) -> Pace:
    """Take a few training steps here, on clips of the shards or, without any, on random ones.

    On a GPU where the member asks for one and there is one, else on the CPU, with as many threads as it asks
    for; the first step, which prepares much, is not counted.
    """
    device = torch.device("cuda" if settings.resources.gpus and torch.cuda.is_available() else "cpu")
    at_once = settings.batch_size // (settings.accumulate * settings.workers)
    batch_size = at_once if device.type == "cuda" else min(at_once, _CPU_BATCH)
    resources = settings.resources.model_copy(update={"frame_cache_gib": None})
    smaller = {"batch_size": batch_size, "accumulate": 1, "resources": resources}
    settings = settings.model_copy(update=smaller)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(resources.cpus)))
    try:
        seconds, waited = _time_steps(settings, num_classes, shards, device)
    finally:
        torch.set_num_threads(threads)
    source = f"{_STEPS} steps on this machine's {device.type}"
    return Pace(seconds, waited, source if shards else f"{source}, random clips: nothing decoded")


def _time_steps(
    settings: Teacher, num_classes: int, shards: ShardSet | None, device: torch.device
) -> tuple[float, float]:
    """Seconds a clip, and of them waiting for it."""
    model = build_network(settings, num_classes)
    engine = PlainEngine(model, build_optimizer(settings, model), device, settings)
    objective = supervised(settings)
    clips = (
        training_clips(shards, settings, range(_STEPS + 1), device)
        if shards
        else _random_clips(settings, num_classes, device)
    )
    begin, waited, count = 0.0, 0.0, 0
    for step in range(_STEPS + 1):
        if step == 1:
            begin, waited, count = time.perf_counter(), 0.0, 0
        asked = time.perf_counter()
        batch = next(clips)
        waited += time.perf_counter() - asked
        loss = objective(engine.forward(batch.clips_bcthw), batch)["total"]
        engine.step(loss, settings.lr)
        float(loss.detach())  # waits for the GPU
        count += len(batch.rows_b)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count, waited / count


def _random_clips(settings: Teacher, num_classes: int, device: torch.device) -> Iterator[Clips]:
    clip, size = settings.clip, settings.batch_size
    shape = (size, CHANNELS[settings.modality], clip.frames, clip.size, clip.size)
    numbers = torch.arange(size, device=device)
    return itertools.repeat(Clips(torch.randn(shape, device=device), numbers, numbers, numbers % num_classes))


def _recorded(directory: Path) -> dict[str, Any] | None:
    """The settings of a finished member that the experiment does not name."""
    found = manifest.read(directory)
    return found.settings if found else None


def _kind(settings: dict[str, Any]) -> str:
    """What a clip's cost depends on, but for the machine."""
    clip = settings.get("clip", {})
    return str((settings.get("arch"), settings.get("modality"), sorted((k, str(v)) for k, v in clip.items())))
