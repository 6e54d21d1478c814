"""Training clips as ranks get them: the pixels of one process, in equal shares."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from ukd_dist.config import Teacher
from ukd_dist.data.shards import ShardSet
from ukd_dist.data_config import Modality, Views
from ukd_dist.training.setup import evaluation_clips, training_clips

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


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16])
def test_evaluation_decodes_each_row_once_whatever_the_batch_size(shards: ShardSet, batch_size: int) -> None:
    """One process evaluates alone, however many ranks trained: its rows are never shared out."""
    found = [
        row
        for batch in evaluation_clips(shards, "test", training("rgb", batch_size), CPU)
        for row in batch.rows_b.tolist()
    ]
    assert found == list(range(len(shards.rows["test"])))
