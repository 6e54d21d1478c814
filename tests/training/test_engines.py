from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from tests.devices import DEVICES, skip_where_deepspeed_is_the_cpus
from tests.training.test_loop import SETTINGS
from ukd_dist.config import Teacher
from ukd_dist.method.losses import distillation_loss
from ukd_dist.training.engines import DeepSpeedEngine, Engine, PlainEngine, deepspeed_config
from ukd_dist.training.setup import build_network, build_optimizer

PLAIN = SETTINGS.model_copy(update={"dropout": 0.0})
STEPS = 8
# Of which the slow pathway sees 4. With 2, a CPU's gradients in bf16 are wrong, now and then NaN (oneDNN in
# torch 2.13: those of a kernel over 3 frames where there are 2).
FRAMES = 16
# A CPU adds in one order. A GPU adds in whatever order, in TF32 or with the 8 bits of bf16.
SAME = {("cpu", False): 1e-5, ("cpu", True): 1e-5, ("cuda", False): 5e-3, ("cuda", True): 5e-2}


@pytest.fixture(scope="module", params=DEVICES)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[torch.device]:
    """A device, with a process group of one rank: gloo, or NCCL."""
    device: torch.device = request.param
    skip_where_deepspeed_is_the_cpus(device)
    rendezvous = tmp_path_factory.mktemp("ranks") / "rendezvous"
    backend = "nccl" if device.type == "cuda" else "gloo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        distributed.init_process_group(backend, init_method=f"file://{rendezvous}", rank=0, world_size=1)
        yield device
        distributed.destroy_process_group()


class InBf16(nn.Module):
    """A network under autocast. Around an engine it would do nothing: DeepSpeed switches it off inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        with torch.autocast(clips_bcthw.device.type, torch.bfloat16):
            logits: torch.Tensor = self.network(clips_bcthw)
        return logits


def engine_of(
    kind: str, device: torch.device, settings: Teacher = PLAIN, *, bf16: bool = False
) -> tuple[Engine, nn.Module]:
    torch.set_num_threads(1)
    network = build_network(settings, 5)
    model = InBf16(network) if bf16 else network
    optimizer = build_optimizer(settings, model)
    if kind == "deepspeed":
        return DeepSpeedEngine(model, optimizer, 4, device), model
    return PlainEngine(model, optimizer, device), model


def losses_of(kind: str, device: torch.device, *, bf16: bool = False) -> list[float]:
    """Of some steps from the same weights with the same clips."""
    engine, model = engine_of(kind, device, bf16=bf16)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(STEPS):
        clips = torch.rand(4, 3, FRAMES, 32, 32, generator=generator).to(device)
        labels = torch.randint(5, (4,), generator=generator).to(device)
        target = torch.randn(4, 5, generator=generator).to(device)
        logits = engine.forward(clips)
        loss = distillation_loss(logits, labels, target, alpha=0.5, temperature=20, space="logits").total
        engine.step(loss, lr=0.05 / (step + 1))
        losses.append(loss.item())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert len(set(losses)) == STEPS
    return losses


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_deepspeed_takes_the_steps_that_plain_torch_takes(bf16: bool, device: torch.device) -> None:
    plain, deepspeed = (losses_of(kind, device, bf16=bf16) for kind in ("plain", "deepspeed"))
    assert deepspeed == pytest.approx(plain, abs=SAME[device.type, bf16])


def test_steps_in_bf16_stay_near_those_in_float32(device: torch.device) -> None:
    """On clips of noise a gradient is off by a tenth of its length, and every step adds its own error."""
    in_bf16, in_float32 = (losses_of("plain", device, bf16=bf16) for bf16 in (True, False))
    assert in_bf16[0] == pytest.approx(in_float32[0], rel=0.005)
    assert in_bf16 == pytest.approx(in_float32, rel=0.05)
    assert in_bf16 != in_float32


def test_deepspeed_state_goes_over_to_a_new_engine(device: torch.device) -> None:
    (old, first), (new, second) = (
        engine_of("deepspeed", device, SETTINGS.model_copy(update={"seed": seed})) for seed in (0, 1)
    )
    loss = old.forward(torch.rand(4, 3, FRAMES, 32, 32, device=device)).square().mean()
    old.step(loss, lr=0.1)

    new.load(old.state())

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    momentum = new.state()["optimizer"]["state"]
    assert len(momentum) == len(list(second.parameters()))


def test_what_ranks_share_goes_through_the_devices_own_collectives(device: torch.device) -> None:
    engine, model = engine_of("deepspeed", device)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    engine.share_buffers()
    assert engine.sum_over_ranks(torch.tensor([1.5, 2.0], device=device)).tolist() == [1.5, 2.0]
    assert engine.from_rank_0(7) == 7
    assert distributed.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_deepspeed_does_not_clip_unless_asked() -> None:
    assert deepspeed_config(4)["gradient_clipping"] == 0.0
