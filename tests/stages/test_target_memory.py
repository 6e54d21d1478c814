"""A student's memory does not know how many teachers stand behind its target."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.devices import DEVICES
from tests.stages.test_views import STUDY, TO_CENTRE, taught
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.views import FREE as FREE_VIEW
from ukd_dist.method.assembly import Assembly
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.objectives import objective_of
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.setup import build_network, build_optimizer, supervised

OF_FREE_CROPS = STUDY.replace(*TO_CENTRE).replace(", view: stored", "").replace("x3d_tiny", "slowfast_tiny")
BATCH, FRAMES, SIZE = 4, 8, 64


def assembled(teachers: int, shards: ShardSet) -> torch.Tensor:
    labels_n, num_classes = torch.from_numpy(shards.rows["train"].labels), len(shards.classes)
    assembly = Assembly(Weighting(method="pkd"), len(labels_n), num_classes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(teachers):
        assembly.add(torch.randn(len(labels_n), num_classes, generator=generator), labels_n)
    return assembly.finish()


def memory_of_student(teachers: int, shards: ShardSet, folder: Path, device: torch.device) -> int:
    """Bytes that a student's objective and steps take; teachers 0: it learns from labels alone."""
    rows = shards.rows["train"]
    run, member = taught(folder, OF_FREE_CROPS, rows, assembled(max(1, teachers), shards), "centre")
    model = build_network(member.settings, len(shards.classes))
    engine = PlainEngine(model, build_optimizer(member.settings, model), device, member.settings)
    clips_bcthw = torch.zeros(BATCH, 3, FRAMES, SIZE, SIZE, device=device)
    rows_b = torch.arange(BATCH)
    labels_b = torch.from_numpy(rows.labels)[rows_b]
    batch = Clips(
        clips_bcthw, *(c.to(device) for c in (rows_b, torch.full_like(rows_b, FREE_VIEW), labels_b))
    )

    def student() -> None:
        objective = objective_of(run, member, shards, device) if teachers else supervised(member.settings)
        for _ in range(3):
            engine.step(objective(engine.forward(clips_bcthw), batch)["total"], lr=0.01)

    return peak_of(student, device) if device.type == "cuda" else volume_of(student)


def peak_of(work: Callable[[], None], device: torch.device) -> int:
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def volume_of(work: Callable[[], None]) -> int:
    """All bytes that torch's operations ever ask for: on a CPU nobody keeps a peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    return sum(max(0, event.self_cpu_memory_usage) for event in profiler.events())


@pytest.mark.parametrize("device", DEVICES)
def test_a_target_of_a_thousand_teachers_takes_the_memory_of_one_teachers(
    device: torch.device, shards: ShardSet, tmp_path: Path
) -> None:
    taken = {
        teachers: memory_of_student(teachers, shards, tmp_path / str(teachers), device)
        for teachers in (1, 1000, 0)
    }
    assert taken[1] == taken[1000] > 0
    assert taken[1] == pytest.approx(taken[0], rel=0.01)
