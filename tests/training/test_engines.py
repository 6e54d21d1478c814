from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy

from tests.devices import CPU, DEVICES, skip_where_deepspeed_is_the_cpus
from tests.training.ranks import member_of_group, on_ranks
from ukd_dist.training.engines import DeepSpeedEngine, Engine, PlainEngine, deepspeed_config
from ukd_dist.training.partitions import repartition
from ukd_dist.training.setup import build_network, build_optimizer
from ukd_dist.training_config import Student

# A CPU adds in one order. A GPU adds in whatever order, in TF32 or with the 8 bits of bf16.
SAME = {("cpu", False): 1e-4, ("cpu", True): 1e-4, ("cuda", False): 5e-3, ("cuda", True): 5e-2}
SETTINGS = Student(
    name="student",
    targets="none",
    arch="slowfast_tiny",
    modality="rgb",
    batch_size=4,
    lr=0.01,
    dropout=0.0,
    clip={"frames": 8, "stride": 2, "size": 32, "short_side": (32, 40)},
)
STEPS = 20


def changed(**change: object) -> Student:
    return Student.model_validate({**SETTINGS.model_dump(), **change})


def deepspeed_engine(settings: Student, device: torch.device = CPU) -> DeepSpeedEngine:
    model = build_network(settings, 5)
    return DeepSpeedEngine(model, build_optimizer(settings, model), device, settings)


def plain_engine(settings: Student, device: torch.device = CPU) -> PlainEngine:
    model = build_network(settings, 5)
    return PlainEngine(model, build_optimizer(settings, model), device, settings)


def batch(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    clips = torch.rand(size, 3, 8, 32, 32, generator=generator)
    return clips, torch.randint(5, (size,), generator=generator)


def losses_of(engine: Engine, settings: Student, steps: range) -> list[float]:
    """Each step's loss on this rank's share of the batch."""
    found = []
    share = slice(engine.rank, None, engine.ranks)
    for step in steps:
        clips, labels = (tensor[share].to(engine.device) for tensor in batch(step, settings.batch_size))
        losses = []
        for part in range(settings.accumulate):
            size = len(clips) // settings.accumulate
            own = slice(part * size, (part + 1) * size)
            loss = cross_entropy(engine.forward(clips[own]).float(), labels[own])
            engine.step(loss, lr=settings.lr / (step + 1))
            losses.append(loss.item())
        found.append(sum(losses) / len(losses))
    return found


@pytest.fixture(scope="module", params=DEVICES)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[torch.device]:
    """A device, with a process group of one rank: gloo, or NCCL."""
    device: torch.device = request.param
    skip_where_deepspeed_is_the_cpus(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        with member_of_group(0, 1, tmp_path_factory.mktemp("ranks") / "rendezvous", device):
            yield device


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lr": 0.05},
        {"optimizer": "adamw", "lr": 0.001},
        {"accumulate": 2},
        {"clip_norm": 0.5},
        {"precision": "bf16"},
        {"recompute": True},
        {"zero": 1},
        {"zero": 2, "accumulate": 2, "clip_norm": 0.5},
    ],
    ids=str,
)
def test_deepspeed_takes_the_steps_that_plain_torch_takes(
    device: torch.device, change: dict[str, object]
) -> None:
    settings = changed(**change)

    plain = losses_of(plain_engine(settings, device), settings, range(STEPS))
    deepspeed = losses_of(deepspeed_engine(settings, device), settings, range(STEPS))

    assert deepspeed == pytest.approx(plain, abs=SAME[device.type, settings.precision == "bf16"])
    if device.type == "cpu" and settings.precision == "float32":
        assert deepspeed[:8] == pytest.approx(plain[:8], abs=1e-5)
    assert len(set(plain)) == STEPS


def test_steps_in_bf16_stay_near_those_in_float32(device: torch.device) -> None:
    """On clips of noise a gradient is off by a tenth of its length, and every step adds its own error."""
    found = {}
    for precision in ("bf16", "float32"):
        engine = plain_engine(settings := changed(precision=precision), device)
        found[precision] = losses_of(engine, settings, range(8))
        assert {weight.dtype for weight in engine.network.parameters()} == {torch.float32}
    assert found["bf16"][0] == pytest.approx(found["float32"][0], rel=0.005)
    assert found["bf16"] == pytest.approx(found["float32"], rel=0.05)
    assert found["bf16"] != found["float32"]


def test_what_ranks_share_goes_through_the_devices_own_collectives(device: torch.device) -> None:
    engine = deepspeed_engine(SETTINGS, device)
    before = {name: buffer.clone() for name, buffer in engine.network.named_buffers()}
    engine.share_buffers()
    engine.wait_for_ranks()
    assert engine.sum_over_ranks(torch.tensor([1.5, 2.0], device=device)).tolist() == [1.5, 2.0]
    assert engine.from_rank_0(7) == 7
    assert distributed.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
    assert all(torch.equal(before[name], buffer) for name, buffer in engine.network.named_buffers())


def both_ways(zeros: tuple[int, ...]) -> dict[str, list[float]]:
    """Losses of a rank under torch's own data parallelism, and under DeepSpeed in each ZeRO stage."""
    settings = changed(workers=2)
    model = build_network(settings, 5)
    optimizer = build_optimizer(settings, model)
    parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    found: dict[str, list[float]] = {"torch": []}
    for step in range(STEPS):
        clips, labels = (tensor[distributed.get_rank() :: 2] for tensor in batch(step, settings.batch_size))
        loss = cross_entropy(parallel(clips), labels)
        optimizer.param_groups[0]["lr"] = settings.lr / (step + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found["torch"].append(loss.item())
    for zero in zeros:
        staged = changed(workers=2, zero=zero)
        found[f"zero {zero}"] = losses_of(deepspeed_engine(staged), staged, range(STEPS))
    return found


def test_on_two_ranks_deepspeed_takes_the_steps_of_torchs_data_parallelism(tmp_path: Path) -> None:
    ranks = on_ranks(2, tmp_path, both_ways, (0, 1, 2))

    assert ranks[0]["torch"] != ranks[1]["torch"], "each rank has clips of its own"
    for rank in ranks:
        for stage in ("zero 0", "zero 1", "zero 2"):
            assert rank[stage] == pytest.approx(rank["torch"], abs=1e-4)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_deepspeed_saved_goes_on_in_a_new_engine(
    device: torch.device, zero: int, optimizer: str
) -> None:
    settings = changed(zero=zero, optimizer=optimizer)
    first = deepspeed_engine(settings, device)
    losses_of(first, settings, range(3))
    torch.save((first.state(), [first.part()]), saved := io.BytesIO())
    saved.seek(0)
    state, parts = torch.load(saved, weights_only=True, map_location=CPU)
    expected = losses_of(first, settings, range(3, 6))

    second = deepspeed_engine(settings.model_copy(update={"seed": 1}), device)
    second.load(state, parts)

    exactly = 0.0 if device.type == "cpu" else SAME[device.type, False]
    assert losses_of(second, settings, range(3, 6)) == pytest.approx(expected, abs=exactly)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (4, 1), (3, 3)])
def test_what_ranks_keep_of_the_optimizer_is_parted_anew(before: int, after: int) -> None:
    sizes = [11, 8]

    def parted(ranks: int) -> list[dict[str, object]]:
        found = []
        for rank in range(ranks):
            state = {}
            for group, size in enumerate(sizes):
                each = -(-size // ranks)
                whole = torch.cat([torch.arange(size) + 100.0 * group, torch.zeros(each * ranks - size)])
                state[group] = {"momentum": whole[rank * each : (rank + 1) * each], "step": torch.tensor(7.0)}
            found.append({"state": state, "param_groups": [{"lr": 0.1}]})
        return found

    each = [-(-size // after) for size in sizes]
    found = [repartition(parted(before), sizes, each, rank) for rank in range(after)]

    torch.testing.assert_close(found, parted(after))


def test_deepspeed_does_not_clip_unless_asked() -> None:
    assert deepspeed_config(SETTINGS, 1)["gradient_clipping"] == 0.0
    assert deepspeed_config(changed(clip_norm=2.0), 1)["gradient_clipping"] == 2.0


def test_the_batch_is_shared_by_ranks_and_passes() -> None:
    config = deepspeed_config(changed(batch_size=24, workers=3, accumulate=2), 3)

    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 2
