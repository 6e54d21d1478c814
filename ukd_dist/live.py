"""What a terminal shows of a run while it goes on: how far each stage is, who is at work, what failed."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ukd_dist.errors import UkdError
from ukd_dist.progress import Progress
from ukd_dist.status import STATES, MemberStatus, remaining_seconds
from ukd_dist.units import in_seconds

_MOST_RUNNING, _MOST_FAILED = 8, 3
_PAUSE_SECONDS, _SHARE = 2.0, 0.05
_KINDS = ("shards", "teacher", "target", "student")
_STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "pending": "dim"}


@contextmanager
def watching(progress: Progress, look: Callable[[], Sequence[MemberStatus]]) -> Iterator[None]:
    """Show a run's view while its work goes on, where there is a terminal for it.

    A thread of its own looks, at most a twentieth of the time: on a slow file system nobody waits for it.

    Args:
        progress: Where.
        look: Reads the members' states.
    """
    if not progress.shows_views:
        yield
        return
    shown: list[RenderableType] = [Text("")]
    ended = threading.Event()

    def watch() -> None:
        seconds = 0.0
        while not ended.wait(seconds):
            began = time.monotonic()
            with suppress(OSError, UkdError):  # a file is being changed: what was seen last stays
                shown[0] = overview(look())
            seconds = max(_PAUSE_SECONDS, (time.monotonic() - began) / _SHARE)

    threading.Thread(target=watch, daemon=True).start()
    try:
        with progress.over(lambda: shown[0]):
            yield
    finally:
        ended.set()


def overview(members: Sequence[MemberStatus]) -> RenderableType:
    """A line of each stage's members, those that run with what they still need, and the failed."""
    stages = Table(box=None, pad_edge=False, show_header=False)
    for kind in _KINDS:
        of = [member for member in members if member.kind == kind]
        if of:
            stages.add_row(kind if kind == "shards" else f"{kind}s", _counts(of), _remaining(kind, of))
    running = [member for member in members if member.state == "running" and member.kind != "shards"]
    work = Table(box=None, pad_edge=False, show_header=False)
    for member in running[:_MOST_RUNNING]:
        epochs = f"{member.epoch}/{member.epochs} epochs" if member.epochs else ""
        left = f"{in_seconds(member.eta_seconds)} left" if member.eta_seconds is not None else ""
        work.add_row(Text(f"  {member.id}", "cyan"), epochs, left, Text(member.host, "dim"))
    if len(running) > _MOST_RUNNING:
        work.add_row(Text(f"  and {len(running) - _MOST_RUNNING} more", "dim"))
    failed = [member for member in members if member.state == "failed"][:_MOST_FAILED]
    errors = [
        Text(f"  {m.id}: {' '.join(m.error.split())}", "red", no_wrap=True, overflow="ellipsis")
        for m in failed
    ]
    return Group(stages, work, *errors)


def _counts(members: Sequence[MemberStatus]) -> Text:
    counts = Counter(member.state for member in members)
    text = Text()
    for state in STATES:
        if counts[state]:
            text.append(", " if text else "")
            text.append(f"{counts[state]} {state}" if len(members) > 1 else state, _STYLES[state])
    return text


def _remaining(kind: str, members: Sequence[MemberStatus]) -> str:
    seconds = remaining_seconds(members) if kind == "teacher" else 0.0
    return f"about {in_seconds(seconds)} left" if seconds and math.isfinite(seconds) else ""
