"""Sizes and costs of the networks beside those that were published, and the papers' tables of layers.

pytorchvideo's zoo counts five operations for each value that goes into a batch or layer norm for the networks
marked `norms`; all other figures count multiply-adds in convolutions and matrix products alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.models.catalogue import NETWORKS
from ukd_dist.models.costs import Cost, cost
from ukd_dist.models.networks import VideoNetwork, build

PTV = "pytorchvideo, docs/source/model_zoo.md; testing crop"
VMZ = "VMZ, c2/tutorials/model_zoo.md (which names the training crop); as many parameters in mmaction2"
X3D = "PySlowFast, MODEL_ZOO.md; X3D, Table 4; training crop"
NONLOCAL = "SlowFast, Table 2; X3D, Table 4: 128 frames, testing crop"
TPN = "mmaction2, configs/recognition/tpn/metafile.yml; testing crop, 8 frames, without its auxiliary head"
# The auxiliary head: a convolution of 1024 to 2048 channels, its batch norm, and a classifier of 400.
TPN_AUXILIARY = 9 * 1024 * 2048 + 2 * 2048 + 2048 * 400 + 400


@dataclass(frozen=True)
class Published:
    """Parameters in 10^6, 10^9 operations of a clip of so many decoded frames and pixels a side."""

    parameters: float
    operations: float
    frames: int
    size: int
    source: str
    norms: bool = False


PUBLISHED = {
    "c2d_r50": Published(24.33, 25.89, 32, 256, PTV, norms=True),
    "i3d_r50": Published(28.04, 37.53, 32, 256, PTV, norms=True),
    "slow_r50": Published(32.45, 54.52, 32, 256, PTV),
    "slowfast_r50_4x16": Published(34.48, 36.69, 64, 256, PTV, norms=True),
    "slowfast_r50_8x8": Published(34.57, 65.71, 64, 256, PTV),
    "slowfast_r101": Published(62.83, 127.20, 64, 256, PTV, norms=True),
    "r2plus1d_r50": Published(28.11, 76.45, 32, 256, PTV, norms=True),
    "mvit_b_16x4": Published(36.61, 70.80, 32, 224, PTV, norms=True),
    "x3d_xs": Published(3.79, 0.60, 32, 160, X3D),
    "x3d_s": Published(3.79, 1.96, 26, 160, X3D),
    "x3d_m": Published(3.79, 4.73, 32, 224, X3D),
    "x3d_l": Published(6.15, 18.37, 32, 312, X3D),
    "ircsn_r152": Published(29.703568, 96.7, 32, 256, VMZ),
    "ipcsn_r152": Published(33.016592, 108.8, 32, 256, VMZ),
    "i3d_nl_r50": Published(35.3, 282, 128, 256, NONLOCAL),
    "i3d_nl_r101": Published(54.3, 359, 128, 256, NONLOCAL),
    "tpn_r50": Published((91_498_336 - TPN_AUXILIARY) / 1e6, 66.01457664, 8, 256, TPN),
}
UNPUBLISHED = {"slowfast_tiny", "x3d_tiny"}


def for_kinetics(arch: str, frames: int, size: int) -> VideoNetwork:
    clip = Clip(frames=frames, stride=1, size=size, short_side=(size, size))
    with torch.device("meta"):
        return build(arch, num_classes=400, channels=3, clip=clip, dropout=0.5, seed=0)


def counted(arch: str, frames: int, size: int) -> Cost:
    return cost(for_kinetics(arch, frames, size), 3, frames, size)


def test_for_every_network_a_figure_is_published_but_for_the_tiny_ones() -> None:
    assert PUBLISHED.keys() == NETWORKS.keys() - UNPUBLISHED


@pytest.mark.parametrize(("arch", "published"), PUBLISHED.items())
def test_a_network_is_as_large_and_costly_as_published(arch: str, published: Published) -> None:
    found = counted(arch, published.frames, published.size)
    operations = found.gmacs + (5 * found.normalised if published.norms else 0.0)

    assert found.parameters / 1e6 == pytest.approx(published.parameters, rel=0.01)
    assert operations == pytest.approx(published.operations, rel=0.01)


@pytest.mark.parametrize("arch", NETWORKS)
def test_the_catalogue_states_what_is_counted(arch: str) -> None:
    figures = NETWORKS[arch].figures
    found = counted(arch, figures.frames, figures.size)

    assert found.parameters == figures.parameters
    assert found.gmacs == pytest.approx(figures.gmacs, rel=0.001, abs=0.0005)


def shapes(network: VideoNetwork, names: list[str], frames: int) -> list[tuple[int, ...]]:
    """Channels, frames, height, width of what modules give for a clip of 224 pixels a side."""
    found: dict[str, tuple[int, ...]] = {}
    modules = dict(network.named_modules())
    for name in names:
        modules[name].register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: tuple(output.shape[1:])})
        )
    network.to("meta").eval()(torch.empty(1, 3, frames, 224, 224, device="meta"))
    return [found[name] for name in names]


def test_nonlocal_i3d_has_the_layers_of_table_1_of_its_paper() -> None:
    stages = ["conv", "pool", "1", "2", "3", "4", "5"]
    names = [f"body.blocks.{'0.' if name in ('conv', 'pool') else ''}{name}" for name in stages]

    assert shapes(for_kinetics("i3d_nl_r50", 32, 224), names, 32) == [
        (64, 16, 112, 112),  # conv1
        (64, 8, 56, 56),  # pool1
        (256, 8, 56, 56),  # res2
        (256, 4, 56, 56),  # pool2
        (512, 4, 28, 28),  # res3
        (1024, 4, 14, 14),  # res4
        (2048, 4, 7, 7),  # res5
    ]


@pytest.mark.parametrize(("arch", "after"), [("i3d_nl_r50", (1, 3, 5)), ("i3d_nl_r101", (6, 13, 20))])
def test_nonlocal_i3d_adds_two_blocks_to_res3_and_three_to_res4(arch: str, after: tuple[int, ...]) -> None:
    network = for_kinetics(arch, 32, 224)
    blocks = [name for name, _ in network.named_modules() if name.endswith(".conv_theta")]
    res4 = [block.branch2.conv_a.kernel_size for block in network.body.blocks[4].res_blocks]

    places = [(3, 1), (3, 3), *((4, i) for i in after)]
    assert blocks == [f"body.blocks.{stage}.nonlocal_blocks.{i}.conv_theta" for stage, i in places]
    assert [i for i, kernel in enumerate(res4) if kernel == (3, 1, 1)] == [0, 2, 4]


def test_the_temporal_pyramid_fuses_res4_and_res5_as_its_paper_says() -> None:
    names = [
        "body.blocks.3",
        "body.blocks.4",
        "body.neck.spatial_modulation.spatial_modulation.0",
        "body.neck.temporal_modulation_ops.0",
        "body.neck.level_fusion_1",
        "body.neck.level_fusion_2",
        "body.neck",
    ]

    assert shapes(for_kinetics("tpn_r50", 32, 224), names, 32) == [
        (1024, 32, 14, 14),
        (2048, 32, 7, 7),
        (2048, 32, 7, 7),
        (1024, 32, 7, 7),
        (2048, 1, 7, 7),
        (2048, 1, 7, 7),
        (2048, 1, 7, 7),
    ]
