"""What a training says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.devices import DEVICES
from tests.training.test_loop import SETTINGS
from ukd_dist.cluster_config import Resources
from ukd_dist.data.shards import ShardSet
from ukd_dist.metrics import Recorder, peak_host_memory_bytes
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, supervised, training_clips


@pytest.mark.parametrize("device", DEVICES)
def test_the_peak_of_the_device_is_in_the_history_and_in_the_metrics(
    device: torch.device, shards: ShardSet, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    on_gpu = device.type == "cuda"
    resources = Resources(gpus=int(on_gpu), decode="cpu")  # NVDEC takes no VP9 as small as these shards'
    settings = SETTINGS.model_copy(update={"resources": resources})
    model = build_network(settings, len(shards.classes))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with Recorder(tmp_path / "metrics", run="test", stage="teach", member="m") as recorder:
        *_, line = train(
            PlainEngine(model, build_optimizer(settings, model), device, settings),
            supervised(settings),
            lambda epochs, _: training_clips(shards, settings, epochs, device),
            settings,
            rows=shards.rows["train"],
            directory=tmp_path,
            inputs={},
            recorder=recorder,
        )

    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    most = torch.cuda.max_memory_allocated(device) if on_gpu else peak_host_memory_bytes()
    assert 2 * weights < line.peak_memory_bytes <= most * 1.001  # the kernel counts pages in batches
    (written,) = (tmp_path / "metrics").glob("*.prom")
    assert f'device="{"cuda" if on_gpu else "host"}"' in written.read_text()
