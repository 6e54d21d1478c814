"""Every network by name: clips in, logits out, for both modalities and in both precisions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError
from ukd_dist.models.builders import BODIES
from ukd_dist.models.catalogue import NETWORKS, check
from ukd_dist.models.networks import VideoNetwork, build
from ukd_dist.training.inference import load_weights, save_weights
from ukd_dist.training.recompute import recompute_activations

SMALL = Clip(frames=16, stride=1, size=32, short_side=(32, 32))
CLASSES = 7


def smallest(arch: str) -> Clip:
    """The shortest and smallest clip that a network takes in training."""
    network = NETWORKS[arch]
    frames, size = network.unit[0] * max(network.every), max(32, network.least[1])
    while frames < network.least[0]:
        frames += network.unit[0] * max(network.every)
    return Clip(frames=frames, stride=1, size=size, short_side=(size, size))


def clips(arch: str, channels: int) -> torch.Tensor:
    clip = smallest(arch)
    shape = (2, channels, clip.frames, clip.size, clip.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Built:
    """A network of one modality, and two clips for it."""

    network: VideoNetwork
    clips_bcthw: torch.Tensor


@pytest.fixture(scope="module", params=list(product(NETWORKS, (3, 2))), ids=lambda of: f"{of[0]}-{of[1]}")
def built(request: pytest.FixtureRequest) -> Built:
    arch, channels = request.param
    network = build(
        arch, num_classes=CLASSES, channels=channels, clip=smallest(arch), dropout=0.1, seed=channels
    )
    return Built(network, clips(arch, channels))


def test_the_catalogue_and_the_builders_know_the_same_networks() -> None:
    assert NETWORKS.keys() == BODIES.keys()


def test_every_weight_of_a_network_learns_from_a_logit_for_each_class(built: Built) -> None:
    network = built.network.train()

    logits = network(built.clips_bcthw)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()

    assert logits.shape == (2, CLASSES)
    gradients = {name: weight.grad for name, weight in network.named_parameters()}
    assert [name for name, found in gradients.items() if found is None] == []
    assert all(torch.isfinite(found).all() for found in gradients.values() if found is not None)
    network.zero_grad(set_to_none=True)


def test_weights_that_were_saved_and_loaded_give_the_same_logits(built: Built, tmp_path: Path) -> None:
    network = built.network.eval()
    with torch.inference_mode():
        wanted = network(built.clips_bcthw)
    save_weights(network, tmp_path / "model.safetensors")
    with torch.no_grad():
        for value in network.state_dict().values():
            value.zero_()

    load_weights(network, tmp_path / "model.safetensors")

    with torch.inference_mode():
        assert torch.equal(network(built.clips_bcthw), wanted)


def test_in_bf16_a_network_says_much_the_same(built: Built) -> None:
    network = built.network.eval()

    with torch.inference_mode():
        wanted = network(built.clips_bcthw).softmax(dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(built.clips_bcthw).float().softmax(dim=1)

    assert (found - wanted).abs().max() < 0.05


@pytest.mark.parametrize("arch", ["i3d_nl_r50", "mvit_b_16x4"])
def test_recomputed_activations_change_no_gradient(arch: str) -> None:
    gradients = []
    for recompute in (False, True):
        network = build(arch, num_classes=CLASSES, channels=3, clip=smallest(arch), dropout=0.0, seed=1)
        if recompute:
            recompute_activations(network)
        network(clips(arch, 3)).sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])

    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_network_takes_whatever_clip_its_check_lets_through(arch: str) -> None:
    known = NETWORKS[arch]
    step, pixels = known.unit[0] * max(known.every), known.unit[1]
    first = -(-known.least[0] // step) * step
    for frames, size in ((first, known.least[1]), (first + step, 100), (first + 2 * step, 225)):
        size -= size % pixels
        clip = Clip(frames=frames, stride=1, size=size, short_side=(size, size))
        check(arch, clip)
        with torch.device("meta"):
            network = build(arch, num_classes=CLASSES, channels=3, clip=clip, dropout=0.1, seed=0)
            logits = network.to("meta").eval()(torch.empty(1, 3, frames, size, size))
        assert logits.shape == (1, CLASSES), clip


def test_slowfast_r50_takes_one_training_step_on_paper_sized_clips() -> None:
    clip = Clip(frames=64, stride=1, size=224, short_side=(224, 288))
    network = build("slowfast_r50_4x16", num_classes=11, channels=3, clip=clip, dropout=0.5, seed=0)
    before = network.body.blocks[-1].proj.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    loss = torch.nn.functional.cross_entropy(network(torch.rand(1, 3, 64, 224, 224)), torch.tensor([3]))
    loss.backward()
    optimizer.step()

    assert torch.isfinite(loss)
    assert not torch.equal(before, network.body.blocks[-1].proj.weight)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("arch", "frames", "seen"),
    [
        ("slowfast_r50_4x16", 64, [4, 32]),
        ("slowfast_r50_8x8", 64, [8, 32]),
        ("slow_r50", 32, [8]),
        ("ircsn_r152", 32, [32]),
        ("r2plus1d_r50", 32, [16]),
        ("x3d_xs", 32, [4]),
    ],
)
def test_a_network_sees_as_many_frames_as_its_paper_says(arch: str, frames: int, seen: list[int]) -> None:
    numbers = torch.arange(frames)

    assert [len(numbers[::n]) for n in NETWORKS[arch].every] == seen


def test_non_local_blocks_change_nothing_before_they_have_learnt() -> None:
    clip = Clip(frames=8, stride=1, size=32, short_side=(32, 32))
    network = build("i3d_nl_r50", num_classes=4, channels=3, clip=clip, dropout=0.0, seed=0).eval()
    batch = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        wanted = network(batch)
        for name, module in network.named_modules():
            if name.endswith("conv_g"):
                module.weight.mul_(7.0)  # type: ignore[operator, union-attr]
        assert torch.equal(network(batch), wanted)


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build("slowfast_tiny", num_classes=4, channels=3, clip=SMALL, dropout=0.1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = build("slowfast_tiny", num_classes=4, channels=3, clip=SMALL, dropout=0.1, seed=1)
    other = build("slowfast_tiny", num_classes=4, channels=3, clip=SMALL, dropout=0.1, seed=2)

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    message = r"unknown network 'resnet'; expected one of c2d_r50, .* or package.module:function"
    with pytest.raises(UsageError, match=message):
        check("resnet", SMALL)


@pytest.mark.parametrize(
    ("arch", "frames", "size", "message"),
    [
        (
            "slowfast_r50_4x16",
            24,
            32,
            r"4x16 cannot sample .* 24 frames; expected a multiple of 16; .*frames",
        ),
        ("i3d_r50", 4, 32, r"i3d_r50 cannot sample .* 4 frames; expected at least 8; change clip.frames"),
        ("mvit_b_16x4", 30, 32, r"expected a multiple of 4; change clip.frames"),
        (
            "mvit_b_16x4",
            32,
            30,
            r"mvit_b_16x4 cannot take clips of 30 pixels a side; expected a multiple of 4",
        ),
        ("x3d_m", 32, 24, r"x3d_m cannot take clips of 24 pixels a side; expected at least 32; .*size"),
    ],
)
def test_a_clip_that_a_network_cannot_take_is_refused(
    arch: str, frames: int, size: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check(arch, Clip(frames=frames, size=size, short_side=(size, size)))
