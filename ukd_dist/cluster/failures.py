"""Classes of failure: why a job ended, which decides what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ukd_dist.cluster.ranks import GroupLostError
from ukd_dist.cluster.worker import last_line, plain
from ukd_dist.errors import (
    DataError,
    MismatchError,
    NotFiniteError,
    PreemptedError,
    TrainingError,
    UkdError,
    UsageError,
)

# lost: its process or node died. preempted: it was asked to stop. memory: there was too little. not_finite:
# its loss. refused: data or settings are wrong, which another attempt does not change. raised: anything else.
Kind = Literal["lost", "preempted", "memory", "not_finite", "refused", "raised"]

_OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "cudaErrorMemoryAllocation")


@dataclass(frozen=True)
class Failure:
    """Why a job ended.

    Attributes:
        kind: Its class.
        error: What is said of it.
        on_gpu: Of `memory`: it was a GPU's.
        traceback: Where it was raised, or empty.
    """

    kind: Kind
    error: UkdError
    on_gpu: bool = False
    traceback: str = ""


def classify(error: BaseException, job: str, log: Path) -> Failure:
    """The failure that Ray's answer for a job stands for.

    Args:
        error: What `ray.get` raised.
        job: The job's name.
        log: The job's log, for messages.
    """
    from ray.exceptions import OutOfMemoryError, RayTaskError, RuntimeEnvSetupError

    cause = error.cause if isinstance(error, RayTaskError) else error
    traceback = plain(str(error)) if isinstance(error, RayTaskError) else ""  # Ray puts it into the message
    lost = not isinstance(error, RayTaskError | RuntimeEnvSetupError)
    if isinstance(cause, GroupLostError):
        lost, cause = cause.raised is None, cause.raised or cause
    if isinstance(cause, UkdError):
        return Failure(_kind_of_ours(cause), cause, traceback=traceback)
    said = TrainingError(
        f"{job} failed: {last_line(error)}", expected="the job to finish", action=f"see {log}"
    )
    if isinstance(error, OutOfMemoryError) or _is_memory(cause):
        return Failure("memory", said, on_gpu=_is_on_gpu(cause), traceback=traceback)
    return Failure("lost", said) if lost else Failure("raised", said, traceback=traceback)


def _kind_of_ours(error: UkdError) -> Kind:
    match error:
        case PreemptedError():
            return "preempted"
        case NotFiniteError():
            return "not_finite"
        case UsageError() | DataError() | MismatchError():
            return "refused"
    return "raised"


def _is_memory(cause: BaseException) -> bool:
    """Whether a process ran out of host or GPU memory; torch's and DALI's errors are known by their words."""
    if isinstance(cause, MemoryError):
        return True
    return isinstance(cause, RuntimeError) and any(words in str(cause) for words in _OUT_OF_MEMORY)


def _is_on_gpu(cause: BaseException) -> bool:
    return isinstance(cause, RuntimeError) and "cuda" in str(cause).lower()
