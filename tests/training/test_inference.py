"""Logits of a network on every row, in whatever views."""

from __future__ import annotations

import pytest
import torch

from tests.devices import CPU, DEVICES
from ukd_dist.clip_config import Views
from ukd_dist.cluster_config import Resources
from ukd_dist.data.shards import ShardSet
from ukd_dist.models.networks import VideoNetwork
from ukd_dist.training.inference import infer
from ukd_dist.training.setup import build_network, evaluation_clips
from ukd_dist.training_config import Teacher

SETTINGS = Teacher(
    arch="slowfast_tiny",
    modality="rgb",
    batch_size=4,
    clip={"frames": 8, "stride": 1, "size": 32, "short_side": (32, 40)},
)
MEAN = Views(kind="mean", clips=2, crops=3)
RANDOM = Views(kind="random", clips=3, seed=1)


@pytest.fixture(scope="module")
def model(shards: ShardSet) -> VideoNetwork:
    torch.set_num_threads(1)
    return build_network(SETTINGS, len(shards.classes)).eval()


def one_by_one(model: VideoNetwork, shards: ShardSet, views: Views) -> dict[tuple[int, int], torch.Tensor]:
    """Logits of each clip by its row and view."""
    with torch.inference_mode():
        return {
            (row, view): logits_c
            for batch in evaluation_clips(shards, "train", SETTINGS, CPU, views)
            for row, view, logits_c in zip(
                batch.rows_b.tolist(), batch.views_b.tolist(), model(batch.clips_bcthw), strict=True
            )
        }


@pytest.mark.parametrize("device", DEVICES)
def test_a_process_with_a_gpu_decodes_on_its_cpu_where_it_is_told_to(
    shards: ShardSet, device: torch.device
) -> None:
    """NVDEC takes no VP9 as small as these shards': what is decoded was not decoded by it."""
    on_cpu = SETTINGS.model_copy(update={"resources": Resources(gpus=1, decode="cpu")})
    for clips, wanted in zip(
        evaluation_clips(shards, "test", on_cpu, device),
        evaluation_clips(shards, "test", SETTINGS, CPU),
        strict=True,
    ):
        assert clips.clips_bcthw.device.type == clips.labels_b.device.type == device.type
        assert torch.equal(clips.clips_bcthw.cpu(), wanted.clips_bcthw)


def test_random_views_give_logits_each(model: VideoNetwork, shards: ShardSet) -> None:
    logits_nvc = infer(model, shards, "train", SETTINGS, CPU, RANDOM)
    rows = len(shards.rows["train"])
    assert (logits_nvc.shape, logits_nvc.dtype) == ((rows, 3, len(shards.classes)), torch.float32)
    for (row, view), logits_c in one_by_one(model, shards, RANDOM).items():
        assert torch.equal(logits_nvc[row, view], logits_c)


def test_the_logits_of_a_mean_are_the_mean_over_its_views(model: VideoNetwork, shards: ShardSet) -> None:
    logits_nc = infer(model, shards, "train", SETTINGS, CPU, MEAN)
    apart = one_by_one(model, shards, MEAN)
    assert logits_nc.dtype == torch.float32
    for row, logits_c in enumerate(logits_nc):
        seen = torch.stack([apart[row, view] for view in range(6)])
        assert seen.std(dim=0).min() > 0
        torch.testing.assert_close(logits_c, seen.mean(dim=0), rtol=1e-6, atol=1e-6)


def test_the_centre_is_seen_where_nothing_is_said(model: VideoNetwork, shards: ShardSet) -> None:
    logits_nc = infer(model, shards, "train", SETTINGS, CPU)
    with torch.inference_mode():
        plain = [model(b.clips_bcthw) for b in evaluation_clips(shards, "train", SETTINGS, CPU)]
    assert torch.equal(logits_nc, torch.cat(plain))
    assert torch.equal(logits_nc, infer(model, shards, "train", SETTINGS, CPU, Views()))
