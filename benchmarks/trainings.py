"""What benchmarks of training share: shards of few videos shown as many, and a loop that is watched.

The loop, the engines and the clips are the package's own; nothing here takes a step by itself.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ukd_dist import manifest
from ukd_dist.data import synthetic
from ukd_dist.data.clips import Clips
from ukd_dist.data.components import encode_sample
from ukd_dist.data.shards import (
    SAMPLES,
    Sample,
    ShardSet,
    samples_csv,
    shard_name,
    write_shard,
)
from ukd_dist.data.video import probe
from ukd_dist.data_config import Codec, Encoding
from ukd_dist.training.engines import Engine

PER_SHARD = 64
PHASES = ("data wait", "forward", "objective", "backward", "optimizer", "engine", "rest")


def drawn_videos(folder: Path) -> list[Path]:
    """A drawn video of each class, H.264 of 320x240."""
    drawn, _ = synthetic.plan(seed=0, train_clips=1, test_clips=1)
    return [synthetic.write_video(video, folder) for video in drawn]


def repeated_shards(paths: Sequence[Path], directory: Path, *, rows: int, codec: Codec = "vp9") -> ShardSet:
    """Shards of so many training rows, which are these videos over and over, each a class of its own."""
    encoded = []
    for label, path in enumerate(paths):
        info = probe(path)
        size = info.width, info.height
        sample = Sample("train", 0, path.stem, label, path.stem, "", info.frames, info.fps, *size)
        encoded.append((sample, encode_sample(sample, path, ("rgb",), Encoding(), codec)))
    samples, names = [], [SAMPLES]
    for row, (sample, components) in enumerate(islice(cycle(encoded), rows)):
        samples.append((Sample(**{**vars(sample), "row": row, "key": f"{sample.key}_{row}"}), components))
    directory.mkdir(parents=True)
    for number, begin in enumerate(range(0, rows, PER_SHARD)):
        tar = shard_name("train", number)
        write_shard(directory / tar, samples[begin : begin + PER_SHARD])
        names += [tar, Path(tar).with_suffix(".idx").name]
    manifest.write_atomically(directory / SAMPLES, samples_csv(sample for sample, _ in samples))
    classes = [path.stem for path in paths]
    settings = {"classes": classes, "encoding": Encoding().model_dump(mode="json"), "codec": codec}
    manifest.commit(directory, "shards", settings, {"source": "0" * 64}, names)
    return ShardSet(directory)


@contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """A process group of this process alone, which DeepSpeed asks for."""
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{folder}/all", rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


class Watch:
    """Seconds of each step of a training by phase; of engines that take steps in turn, each its own.

    On a GPU the work that was asked for is waited for at the end of every phase, which costs the step what
    phases would have overlapped.

    Args:
        engines: Take one step each, then the first one again.
        optimizers: Theirs.
        device: Theirs.

    Attributes:
        steps: Seconds by phase, of each step that was begun; `whole` is missing of one that is under way.
    """

    def __init__(
        self, engines: Sequence[Engine], optimizers: Iterable[torch.optim.Optimizer], device: torch.device
    ) -> None:
        self.steps: list[Counter[str]] = []
        self._engines, self._device = engines, device
        self._began = self._optimizer_began = self._optimizer_ended = 0.0
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._before_optimizer)
            optimizer.register_step_post_hook(self._after_optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engines[0], name)

    def clips(self, batches: Iterator[Clips]) -> Iterator[Clips]:
        """The batches; a step begins where one is asked for and ends where the next one is."""
        while True:
            began = self._now()
            if self.steps:
                self._end(began)
            self._began = began
            self.steps.append(Counter())
            with self.phase("data wait"):
                batch = next(batches, None)
            if batch is None:
                del self.steps[-1]
                return
            yield batch

    def objective(self, inner: Callable[..., dict[str, torch.Tensor]]) -> Any:
        """An objective, watched."""

        def watched(*arguments: Any) -> dict[str, torch.Tensor]:
            with self.phase("objective"):
                return inner(*arguments)

        return watched

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        with self.phase("forward"):
            return self._taking.forward(clips_bcthw)

    def step(self, *arguments: Any, **named: Any) -> None:
        began = self._now()
        self._taking.step(*arguments, **named)
        ended = self._now()
        self.steps[-1]["backward"] = self._optimizer_began - began
        self.steps[-1]["optimizer"] = self._optimizer_ended - self._optimizer_began
        self.steps[-1]["engine"] = ended - self._optimizer_ended

    def taken_by(self, place: int, after: int) -> list[Counter[str]]:
        """The finished steps of one of the engines, without the first so many of the training."""
        finished = [step for step in self.steps[after:] if "whole" in step]
        skew = (place - after) % len(self._engines)
        return finished[skew :: len(self._engines)]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = self._now()
        yield
        self.steps[-1][name] += self._now() - began

    @property
    def _taking(self) -> Engine:
        return self._engines[(len(self.steps) - 1) % len(self._engines)]

    def _end(self, now: float) -> None:
        step = self.steps[-1]
        step["whole"] = now - self._began
        step["rest"] = step["whole"] - sum(step[phase] for phase in PHASES)

    def _before_optimizer(self, *_: Any) -> None:
        self._optimizer_began = self._now()

    def _after_optimizer(self, *_: Any) -> None:
        self._optimizer_ended = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
