"""Which class of failure Ray's answers stand for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from ray import exceptions

from ukd_dist.cluster.failures import Kind, classify
from ukd_dist.cluster.ranks import GroupLostError
from ukd_dist.errors import (
    DataError,
    MismatchError,
    NotFiniteError,
    PreemptedError,
    ResourceError,
    TrainingError,
    UkdError,
    UsageError,
)

LOG = Path("logs/job.log")


def raised(cause: Exception) -> Exception:
    """As `ray.get` raises what a task raised."""
    error = exceptions.RayTaskError("run_job", "Traceback\nwhere it was", cause)
    try:
        return error.as_instanceof_cause()
    except TypeError:
        return error


@pytest.mark.parametrize(
    "error",
    [
        exceptions.WorkerCrashedError(),
        exceptions.NodeDiedError("gone"),
        exceptions.LocalRayletDiedError(),
        exceptions.ObjectLostError("aa", None, ""),
        exceptions.OwnerDiedError("aa", None, ""),
        exceptions.TaskCancelledError(),
        exceptions.RaySystemError(OSError("socket closed")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_cluster_lost_is_lost(error: Exception) -> None:
    found = classify(error, "job", LOG)
    assert (found.kind, found.traceback) == ("lost", "")
    assert found.error.action == f"see {LOG}"


@pytest.mark.parametrize(
    ("error", "on_gpu"),
    [
        (exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."), False),
        (raised(MemoryError("Unable to allocate 8 TiB")), False),
        (raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")), True),
        (raised(RuntimeError("Critical error in pipeline: CUDA allocation failed: out of memory")), True),
        (raised(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")), False),
        (raised(RuntimeError("std::bad_alloc")), False),
    ],
    ids=["Ray's killer", "numpy", "torch on a GPU", "DALI on a GPU", "torch", "C++"],
)
def test_too_little_memory_is_told_apart_by_whose_it_was(error: Exception, on_gpu: bool) -> None:
    found = classify(error, "job", LOG)
    assert (found.kind, found.on_gpu) == ("memory", on_gpu)


def ours(kind: type[UkdError]) -> UkdError:
    return kind("it is so", expected="otherwise", action="do this")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (ours(PreemptedError), "preempted"),
        (ours(NotFiniteError), "not_finite"),
        (ours(UsageError), "refused"),
        (ours(DataError), "refused"),
        (ours(MismatchError), "refused"),
        (ours(ResourceError), "raised"),
        (ours(TrainingError), "raised"),
        (ValueError("nobody thought of this"), "raised"),
        (RuntimeError("shapes differ"), "raised"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_job_raised_is_classed_by_its_error(cause: Exception, kind: Kind) -> None:
    found = classify(raised(cause), "job", LOG)
    assert (found.kind, found.traceback) == (kind, "Traceback\nwhere it was")
    if isinstance(cause, UkdError):
        assert found.error is cause
    else:
        assert found.error.problem.startswith("job failed: ")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (None, "lost"),
        (ValueError("nobody thought of this"), "raised"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_group_is_lost_unless_a_rank_raised_something(cause: Exception | None, kind: Kind) -> None:
    lost = pickle.loads(pickle.dumps(GroupLostError("it ended", cause)))  # as it comes through Ray
    assert classify(raised(lost), "job", LOG).kind == kind
