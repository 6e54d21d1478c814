"""The small file that an attempt at a member rewrites while it lives: how far it is, and where.

What an attempt is asked is asked by files too, since nothing else is sure to reach a process on a cluster: a
file `stop` beside the heartbeat, or its successor's directory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ukd_dist.errors import TrainingError
from ukd_dist.metrics import peak_host_memory_bytes

HEARTBEAT, STOP = "heartbeat.json", "stop"
BEAT_SECONDS = 2.0


@dataclass(frozen=True)
class Beat:
    """What an attempt says of itself.

    Attributes:
        host: Where it runs.
        node: Ray's id of it.
        pid: Its process.
        began_from: Name of the checkpoint that it went on from, or empty.
        phase: What it does: `starting`, `training` or `logits`.
        epoch: Finished epochs.
        step: Finished steps of the next epoch; of `logits`, batches.
        steps: Steps of an epoch.
        epochs: Epochs of the training.
        trained: Steps that this attempt made.
        seconds: Time that it made them in.
        memory_bytes: Peak resident memory of its process.
        others: Of a group, Ray's ids of the other nodes that it needs.
    """

    host: str
    node: str
    pid: int
    began_from: str = ""
    phase: str = "starting"
    epoch: int = 0
    step: int = 0
    steps: int = 0
    epochs: int = 0
    trained: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    others: Sequence[str] = ()

    @property
    def nodes(self) -> set[str]:
        """Ray's ids of the nodes that it needs."""
        return {self.node, *self.others}

    @property
    def place(self) -> tuple[str, int, int]:
        """What changes while it makes progress."""
        return self.phase, self.epoch, self.step

    @property
    def eta_seconds(self) -> float | None:
        """Time that its remaining steps will take, logits not included; None where it cannot be said yet."""
        if not self.trained:
            return None
        left = self.epochs * self.steps - self.epoch * self.steps - self.step
        return max(0, left) * self.seconds / self.trained


def read_beat(attempt: Path) -> Beat | None:
    """An attempt's newest beat, or None where it has not begun."""
    with suppress(OSError, ValueError, TypeError):  # a torn one is followed by the next
        return Beat(**json.loads((attempt / HEARTBEAT).read_text(encoding="utf-8")))
    return None


def last_beat(attempt: Path) -> float | None:
    """When an attempt said last that it goes on, in seconds since 1970, or None where it has not begun."""
    with suppress(OSError):
        return (attempt / HEARTBEAT).stat().st_mtime
    return None


def ask_to_stop(attempt: Path) -> None:
    """Ask an attempt to write a checkpoint and end."""
    (attempt / STOP).touch()


class Heart:
    """Writes an attempt's beats, and notices that it is asked to stop; a context manager.

    Args:
        attempt: The attempt's directory `attempts/<n>`.
        node: Ray's id of the node.
        epochs: Of the training.
        heeds_sigterm: Whether SIGTERM asks to stop while it is open; else it ends the process, as always.
    """

    def __init__(self, attempt: Path, node: str, epochs: int, *, heeds_sigterm: bool = True) -> None:
        self._attempt = attempt
        self._successor = attempt.with_name(str(int(attempt.name) + 1))
        self._said: dict[str, Any] = asdict(
            Beat(host=socket.gethostname(), node=node, pid=os.getpid(), epochs=epochs)
        )
        self._written = -BEAT_SECONDS
        self._training = 0.0
        self._stop = False
        self._heeds_sigterm = heeds_sigterm

    def __enter__(self) -> Heart:
        self._before: Any = None
        if self._heeds_sigterm and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
        self.beat()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def begin(self, began_from: str, others: Sequence[str] = ()) -> None:
        """Say which checkpoint it goes on from, and which other nodes it needs; the training begins."""
        self._training = time.monotonic()
        self._written = -BEAT_SECONDS  # said at once: a short training is over before the next beat
        self.beat(began_from=began_from, others=others)

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A training step was made."""
        self._said["trained"] += 1
        self.beat(
            phase="training", epoch=epoch, step=step, steps=steps, seconds=time.monotonic() - self._training
        )

    def beat(self, **progress: Any) -> None:
        """Say how far it is; written at most every `BEAT_SECONDS`.

        Raises:
            TrainingError: Another attempt took its place.
        """
        self._said.update(progress)
        now = time.monotonic()
        if now - self._written < BEAT_SECONDS:
            return
        self._written = now
        if self._successor.exists() or not self._attempt.is_dir():
            raise TrainingError(
                f"{self._attempt} was taken for lost, and another attempt took its place",
                expected="to be the newest",
                action="nothing: what it made is not used",
            )
        self._stop = self._stop or (self._attempt / STOP).exists()
        self._said["memory_bytes"] = peak_host_memory_bytes()
        partial = self._attempt / f".{HEARTBEAT}"
        partial.write_text(json.dumps(self._said), encoding="utf-8")  # soon outdated: not worth an fsync
        partial.replace(self._attempt / HEARTBEAT)

    def stop_asked(self) -> bool:
        """Whether it was asked to write a checkpoint and end."""
        return self._stop

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True
