from __future__ import annotations

import pytest
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError
from ukd_dist.models.catalogue import NETWORKS, check
from ukd_dist.models.networks import build

SMALL = Clip(frames=16, stride=1, size=32, short_side=(32, 32))
CPU_NETWORKS = ("slowfast_tiny", "x3d_tiny")


@pytest.mark.parametrize("arch", CPU_NETWORKS)
@pytest.mark.parametrize("channels", [2, 3])
def test_a_network_gives_a_logit_for_each_class_and_modality(arch: str, channels: int) -> None:
    network = build(arch, num_classes=7, channels=channels, clip=SMALL, dropout=0.1, seed=0)

    logits = network(torch.rand(2, channels, 16, 32, 32))

    assert logits.shape == (2, 7)


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


def test_slowfast_r50_4x16_has_its_published_size() -> None:
    clip = Clip(frames=64, stride=1, size=224, short_side=(224, 256))
    network = build("slowfast_r50_4x16", num_classes=400, channels=3, clip=clip, dropout=0.5, seed=0)

    # 34.4 M for Kinetics-400: PySlowFast's model zoo.
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(34.4e6, rel=0.01)


def test_slowfast_4x16_sees_four_slow_and_thirty_two_fast_of_64_frames() -> None:
    frames = torch.arange(64)

    assert [len(frames[::n]) for n in NETWORKS["slowfast_r50_4x16"].every] == [4, 32]


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
    with pytest.raises(
        UsageError, match=r"unknown network 'resnet'; expected one of c2d_r50, .* or package.module:function"
    ):
        check("resnet", SMALL)


def test_a_clip_that_does_not_divide_among_the_pathways_is_refused() -> None:
    with pytest.raises(UsageError, match=r"4x16 cannot sample .* 24 frames; expected a multiple of 16"):
        check("slowfast_r50_4x16", Clip(frames=24, size=32, short_side=(32, 32)))
