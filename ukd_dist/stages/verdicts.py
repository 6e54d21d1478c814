"""What is done about a member's attempt that ended badly: again, and how soon and with what, or set aside.

Pure rules over this coordinator's attempts at one member; a new coordinator begins with a clean slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ukd_dist.cluster_config import Resources

ATTEMPTS = 3  # of one that fails by itself
DEATHS = 5  # in a row, without a new checkpoint, on nodes that live: no accident any more
_COUNTED = ("raised", "not_finite", "hung", "crashed")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 300.0


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        outcome: A class of failure (cluster/failures.py), `hung`, or `crashed`: its process ended itself.
        progressed: It left a newer checkpoint than it began from.
        node_alive: Its node is there still.
        on_gpu: Of `memory`: a GPU's.
        peak_gib: Host memory that it was seen to use, GiB.
    """

    outcome: str
    progressed: bool = False
    node_alive: bool = True
    on_gpu: bool = False
    peak_gib: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What is done.

    Attributes:
        again: Whether there is another attempt.
        outcome: The attempt's, as it is recorded.
        resources: Of the next attempt.
        delay_seconds: Before it.
    """

    again: bool
    outcome: str
    resources: Resources
    delay_seconds: float = 0.0


def judge(past: Sequence[Ended], resources: Resources) -> Verdict:
    """What follows from a member's attempts, of which the last one has just ended with these resources."""
    last = past[-1]
    match last.outcome:
        case "preempted":
            return Verdict(True, last.outcome, resources)
        case "lost":
            return _after_loss(past, resources)
        case "memory":
            larger = grown(resources, last)
            again = larger is not None and sum(ended.outcome == "memory" for ended in past) == 1
            return Verdict(again, last.outcome, larger or resources)
        case "refused":
            return Verdict(False, last.outcome, resources)
    count = sum(ended.outcome in _COUNTED for ended in past)
    return Verdict(count < ATTEMPTS, last.outcome, resources, _pause(count))


def grown(resources: Resources, ended: Ended) -> Resources | None:
    """Twice the memory that an attempt had, or None where a GPU has no more of it.

    Where no host memory was reserved, twice what it was seen to use.
    """
    if ended.on_gpu:
        if not 0 < resources.gpus < 1:
            return None
        return resources.model_copy(update={"gpus": min(1.0, 2 * resources.gpus)})
    return resources.model_copy(
        update={"memory_gib": 2 * max(resources.memory_gib or 0.0, ended.peak_gib, 0.5)}
    )


def _after_loss(past: Sequence[Ended], resources: Resources) -> Verdict:
    losses = list(takewhile(lambda e: e.outcome == "lost" and not e.progressed, reversed(past)))
    deaths = list(takewhile(lambda e: e.node_alive, losses))
    if len(deaths) >= DEATHS:
        return Verdict(False, "crashed", resources)
    # The first one goes on at once: most often its node is gone, and another has room.
    return Verdict(True, "lost", resources, _pause(len(losses) - 1))


def _pause(count: int) -> float:
    """Seconds before another attempt; none after none, then twice as long each time."""
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (count - 1)) if count > 0 else 0.0
