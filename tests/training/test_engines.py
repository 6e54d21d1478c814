from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from tests.training.test_loop import SETTINGS
from ukd_dist.training.engines import DeepSpeedEngine, PlainEngine, deepspeed_config
from ukd_dist.training.setup import build_network, build_optimizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    rendezvous = tmp_path_factory.mktemp("ranks") / "rendezvous"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
        yield
        distributed.destroy_process_group()


def test_deepspeed_takes_the_steps_that_plain_torch_takes(one_rank: None) -> None:
    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update={"dropout": 0.0})
    models = [build_network(settings, 5) for _ in range(2)]
    plain = PlainEngine(models[0], build_optimizer(settings, models[0]), CPU)
    deepspeed = DeepSpeedEngine(models[1], build_optimizer(settings, models[1]), 4, CPU)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(8):
        clips = torch.rand(4, 3, 8, 32, 32, generator=generator)
        labels = torch.randint(5, (4,), generator=generator)
        pair = []
        for engine in (plain, deepspeed):
            loss = torch.nn.functional.cross_entropy(engine.forward(clips), labels)
            engine.step(loss, lr=0.05 / (step + 1))
            pair.append(loss.item())
        losses.append(pair)

    plain_losses, deepspeed_losses = zip(*losses, strict=True)
    assert deepspeed_losses == pytest.approx(plain_losses, abs=1e-5)
    assert len(set(plain_losses)) > 1


def test_deepspeed_state_goes_over_to_a_new_engine(one_rank: None) -> None:
    first, second = (build_network(SETTINGS.model_copy(update={"seed": seed}), 5) for seed in (0, 1))
    engines = [DeepSpeedEngine(model, build_optimizer(SETTINGS, model), 4, CPU) for model in (first, second)]
    loss = engines[0].forward(torch.rand(4, 3, 8, 32, 32)).square().mean()
    engines[0].step(loss, lr=0.1)

    engines[1].load(engines[0].state())

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    momentum = engines[1].state()["optimizer"]["state"]
    assert len(momentum) == len(list(second.parameters()))


def test_deepspeed_does_not_clip_unless_asked() -> None:
    assert deepspeed_config(4)["gradient_clipping"] == 0.0
