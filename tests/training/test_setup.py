"""Training clips as ranks get them: the pixels of one process, in equal shares."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from ukd_dist.clip_config import Views
from ukd_dist.cluster_config import Resources
from ukd_dist.data.shards import ShardSet
from ukd_dist.data_config import Modality
from ukd_dist.errors import UsageError
from ukd_dist.training.setup import evaluation_clips, training_clips
from ukd_dist.training_config import Teacher

CPU = torch.device("cpu")
# A row of one step: its number, its stored view, its label and its pixels.
Seen = tuple[int, int, int, bytes]


def training(modality: Modality, batch_size: int) -> Teacher:
    clip = {"frames": 4, "stride": 2, "size": 32, "short_side": (32, 48)}
    return Teacher(arch="slowfast_tiny", modality=modality, epochs=2, batch_size=batch_size, clip=clip)


def steps_of(
    shards: ShardSet, settings: Teacher, rank: int, world_size: int, stored: Views | None
) -> list[list[Seen]]:
    """What a rank is shown, step by step, over two epochs."""
    clips = training_clips(shards, settings, range(2), CPU, rank, world_size, stored)
    return [
        [
            (row, view, label, pixels.numpy().tobytes())
            for row, view, label, pixels in zip(
                batch.rows_b.tolist(),
                batch.views_b.tolist(),
                batch.labels_b.tolist(),
                batch.clips_bcthw,
                strict=True,
            )
        ]
        for batch in clips
    ]


@pytest.mark.parametrize("modality", ["rgb", "flow"])
@pytest.mark.parametrize("stored", [None, Views(kind="random", clips=3, seed=5)], ids=["fresh", "stored"])
def test_one_two_and_three_ranks_are_shown_the_same_pixels_of_each_sample(
    shards: ShardSet, modality: Modality, stored: Views | None
) -> None:
    settings = training(modality, batch_size=6)
    alone = steps_of(shards, settings, 0, 1, stored)
    assert [len({pixels for *_, pixels in step}) for step in alone] == [6, 6]
    for world_size in (2, 3):
        ranks = [steps_of(shards, settings, rank, world_size, stored) for rank in range(world_size)]
        assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_frames_kept_in_memory_show_the_same_pixels(shards: ShardSet, modality: Modality) -> None:
    settings = training(modality, batch_size=4)
    kept = settings.model_copy(update={"resources": Resources(frame_cache_gib=0.1)})
    assert steps_of(shards, kept, 0, 1, None) == steps_of(shards, settings, 0, 1, None)


def test_only_the_rows_that_are_trained_on_take_memory(shards: ShardSet) -> None:
    rows = np.array([1, 4, 6])
    table = shards.rows["train"]
    needed = int((table.frames[rows] * table.sizes[rows].prod(axis=1)).sum()) * 3
    resources = Resources(frame_cache_gib=needed / 2**30)
    kept = training("rgb", batch_size=3).model_copy(update={"resources": resources})
    seen = [batch.rows_b.tolist() for batch in training_clips(shards, kept, range(2), CPU, rows=rows)]
    assert [sorted(step) for step in seen] == [[1, 4, 6], [1, 4, 6]]


@pytest.mark.parametrize(("modality", "channels"), [("rgb", 3), ("flow", 2)])
def test_more_frames_than_the_memory_given_are_refused_before_they_are_decoded(
    shards: ShardSet, modality: Modality, channels: int
) -> None:
    rows = shards.rows["train"]
    needed = int((rows.frames * rows.sizes.prod(axis=1)).sum()) * channels
    settings = training(modality, batch_size=4)

    def open_clips(gib: float) -> object:
        kept = settings.model_copy(update={"resources": Resources(frame_cache_gib=gib)})
        return next(training_clips(shards, kept, range(1), CPU))

    open_clips(needed / 2**30)
    with pytest.raises(
        UsageError, match=rf"^the decoded {modality} frames of 8 videos take 0\.0\d GiB"
    ) as raised:
        open_clips((needed - 1) / 2**30)
    assert "resources.frame_cache_gib" in raised.value.expected


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16])
def test_evaluation_decodes_each_row_once_whatever_the_batch_size(shards: ShardSet, batch_size: int) -> None:
    """One process evaluates alone, however many ranks trained: its rows are never shared out."""
    found = [
        row
        for batch in evaluation_clips(shards, "test", training("rgb", batch_size), CPU)
        for row in batch.rows_b.tolist()
    ]
    assert found == list(range(len(shards.rows["test"])))
