"""Checkpoints of each system's form in networks of ours: every tensor in its place, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models import checkpoints
from tests.models.checkpoints import Naming, Shapes
from ukd_dist.clip_config import Clip
from ukd_dist.errors import DataError, UsageError
from ukd_dist.models.fitting import classifier_of, fit
from ukd_dist.models.networks import build

CLIP = Clip(frames=64, size=64, short_side=(64, 64))
OWN = """
from torch import nn

class Wide(nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.conv = nn.Conv3d(channels, 4, 1, bias=False)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, clips):
        return self.fc(self.conv(clips).mean((2, 3, 4)))

def network(num_classes, channels, **_):
    return Wide(num_classes, channels)

class Residual(nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        conv = lambda inputs: nn.Sequential(nn.Conv3d(inputs, 4, 1), nn.BatchNorm3d(4))
        self.fc = nn.Linear(4, num_classes)
        self.stem = conv(channels)
        self.layer1 = nn.Sequential(nn.ModuleDict({"conv1": conv(4), "conv2": conv(4)}))

def residual(num_classes, channels, **_):
    return Residual(num_classes, channels)

class Around(nn.Module):
    def __init__(self, name, around):
        super().__init__()
        self.add_module(name, around)

def model(num_classes, channels, **_):
    return Around("model", Wide(num_classes, channels))

def body(num_classes, channels, **_):
    return Around("body", Wide(num_classes, channels))

def frames(num_classes, channels, **_):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Conv2d(4, num_classes, 1))

def twice(num_classes, channels, **_):
    return nn.Sequential(nn.Conv3d(channels, num_classes, 1), nn.Linear(num_classes, num_classes))

def functional(num_classes, channels, **_):
    return nn.Sequential(nn.BatchNorm3d(channels))
"""
PARALLEL = partial(checkpoints.pytorchvideo, parallel=True)
POOLED = partial(checkpoints.pytorchvideo, pooled=True)
IR = checkpoints.pytorchvideo
IP = partial(checkpoints.pytorchvideo, preserved=True)
IR_SHAPES = partial(checkpoints.csn_r152, preserved=False)
IP_SHAPES = partial(checkpoints.csn_r152, preserved=True)

# The network, whose names the checkpoint has, its places, its names of them, and ours.
RESIDUAL: list[tuple[str, str, Callable[[], Shapes], Naming, Naming]] = [
    ("slowfast_r50_4x16", "our", checkpoints.slowfast_r50, PARALLEL, PARALLEL),
    ("slowfast_r50_4x16", "PySlowFast's", checkpoints.slowfast_r50, checkpoints.pyslowfast, PARALLEL),
    ("slowfast_r50_4x16", "Caffe2's", checkpoints.slowfast_r50, checkpoints.caffe2, PARALLEL),
    ("i3d_nl_r50", "Caffe2's", checkpoints.i3d_nl_r50, checkpoints.caffe2, POOLED),
    ("i3d_nl_r50", "PySlowFast's", checkpoints.i3d_nl_r50, checkpoints.pyslowfast, POOLED),
    ("ircsn_r152", "MMAction2's", IR_SHAPES, partial(checkpoints.mmaction2_csn, preserved=False), IR),
    ("ircsn_r152", "VMZ's", IR_SHAPES, partial(checkpoints.vmz, preserved=False), IR),
    ("ircsn_r152", "VMZ's Caffe2's", IR_SHAPES, partial(checkpoints.vmz_caffe2, preserved=False), IR),
    ("ipcsn_r152", "MMAction2's", IP_SHAPES, partial(checkpoints.mmaction2_csn, preserved=True), IP),
    ("ipcsn_r152", "VMZ's", IP_SHAPES, partial(checkpoints.vmz, preserved=True), IP),
    ("ipcsn_r152", "VMZ's Caffe2's", IP_SHAPES, partial(checkpoints.vmz_caffe2, preserved=True), IP),
]


@lru_cache(maxsize=1)
def built(arch: str) -> nn.Module:
    """A network that nobody changes."""
    return network(arch)


def network(arch: str, channels: int = 3, num_classes: int = 11, clip: Clip = CLIP) -> nn.Module:
    return build(arch, num_classes=num_classes, channels=channels, clip=clip, dropout=0.0, seed=0)


def fitted(model: nn.Module, tensors: dict[str, torch.Tensor], channels: int = 3) -> dict[str, torch.Tensor]:
    return fit(model, tensors, channels=channels, where="theirs.pth")[0]


def refusal(model: nn.Module, tensors: dict[str, torch.Tensor]) -> str:
    with pytest.raises(DataError) as refused:
        fit(model, tensors, channels=3, where="theirs.pth")
    return str(refused.value)


@pytest.fixture(scope="module")
def slowfast() -> nn.Module:
    return network("slowfast_r50_4x16")


@pytest.fixture
def theirs() -> dict[str, torch.Tensor]:
    """SlowFast R50 4x16 as PySlowFast's zoo has it."""
    return checkpoints.numbered(checkpoints.slowfast_r50(), checkpoints.pyslowfast)


@pytest.mark.parametrize(
    ("arch", "system", "shapes", "theirs", "ours"),
    RESIDUAL,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_tensor_of_a_published_form_finds_its_place(
    arch: str, system: str, shapes: Callable[[], Shapes], theirs: Naming, ours: Naming
) -> None:
    model = built(arch)
    wanted = checkpoints.numbered(shapes(), lambda place: f"body.{ours(place)}")
    head = classifier_of(model)

    found, report = fit(model, checkpoints.numbered(shapes(), theirs), channels=3, where="theirs.pth")

    assert report.system == system
    assert (report.missing, report.misshapen, report.unknown) == ((), (), ())
    assert found.keys() == wanted.keys() - head
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    assert report.loaded == len(found) == len(wanted) - len(head)


def test_tpns_backbone_is_renamed_and_its_neck_keeps_its_names() -> None:
    backbone = checkpoints.numbered(checkpoints.slow_r50(), checkpoints.mmaction2)
    ours = checkpoints.numbered(
        checkpoints.slow_r50(), lambda place: f"body.{checkpoints.pytorchvideo(place)}"
    )
    head = {"cls_head.fc_cls.weight": (400, 2048), "cls_head.fc_cls.bias": (400,)}
    rest = {**checkpoints.tpn_neck(), **head, **checkpoints.tpn_auxiliary()}
    neck = {name: torch.full(shape, float(number)) for number, (name, shape) in enumerate(rest.items())}

    found, report = fit(network("tpn_r50"), backbone | neck, channels=3, where="theirs.pth")

    assert (report.missing, report.misshapen) == ((), ())
    assert set(report.unknown) == set(checkpoints.tpn_auxiliary())
    assert set(report.head) == {f"body.{name}" for name in head}
    assert found.keys() == ours.keys() | {f"body.{name}" for name in checkpoints.tpn_neck()}
    assert all(torch.equal(found[name], ours[name]) for name in ours)
    assert all(torch.equal(found[f"body.{name}"], neck[name]) for name in checkpoints.tpn_neck())


def test_x3ds_stem_squeeze_and_excitation_and_head_are_found() -> None:
    model = network("x3d_s")
    own = {
        name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    tensors = {checkpoints.pyslowfast_x3d(name.removeprefix("body.")): own[name] for name in own}
    assert len(tensors) == len(own)
    assert {"s1.pathway0_stem.conv_xy.weight", "s2.pathway0_res0.branch2.se.fc1.bias"} < tensors.keys()

    found, report = fit(model, tensors, channels=3, where="theirs.pth")

    assert (report.system, report.missing, report.misshapen, report.unknown) == ("PySlowFast's", (), (), ())
    assert found.keys() == own.keys() - set(report.head)
    assert all(torch.equal(found[name], own[name]) for name in found)


def test_position_embeddings_are_interpolated_to_another_clip() -> None:
    clips = [Clip(frames=f, size=s, short_side=(s, s)) for f, s in ((32, 96), (16, 64))]
    published, model = (network("mvit_b_16x4", clip=clip) for clip in clips)
    tensors = {name.removeprefix("body."): value for name, value in published.state_dict().items()}
    space, time = (f"cls_positional_encoding.pos_embed_{kind}" for kind in ("spatial", "temporal"))
    tensors[space] = torch.arange(24.0).expand(24, 24).reshape(1, 576, 1).repeat(1, 1, 96)
    tensors[time] = torch.arange(8.0).reshape(1, 8, 1).repeat(1, 1, 96)

    found, report = fit(model, tensors, channels=3, where="theirs.pth")

    assert report.interpolated == (f"body.{space}", f"body.{time}")
    assert "2 position embeddings interpolated" in str(report)
    assert report.misshapen == ()
    columns = found[f"body.{space}"][0, :, 0].reshape(16, 16)
    torch.testing.assert_close(columns[:, 4:12], (torch.arange(4.0, 12) * 1.5 + 0.25).expand(16, 8))
    torch.testing.assert_close(found[f"body.{time}"][0, :, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], nn.Module]:
    """Networks of the user's by their functions."""
    (tmp_path / "wide.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda function: network(f"wide:{function}")


def test_a_network_of_the_users_takes_its_own_names(own: Callable[[str], nn.Module]) -> None:
    model = own("network")
    tensors = {
        "conv.weight": torch.ones(4, 3, 1, 1, 1),
        "fc.weight": torch.ones(400, 4),
        "fc.bias": torch.ones(400),
    }
    found, report = fit(model, tensors, channels=3, where="theirs.pth")
    assert found.keys() == {"body.conv.weight"}
    assert (report.head, report.missing, report.unknown) == (("body.fc.weight", "body.fc.bias"), (), ())


def test_names_that_the_network_has_are_not_taken_for_another_systems(
    own: Callable[[str], nn.Module],
) -> None:
    model = own("residual")
    tensors = {name.removeprefix("body."): value + 1 for name, value in model.state_dict().items()}
    assert "layer1.0.conv1.0.weight" in tensors, "as VMZ calls it"

    found, report = fit(model, tensors, channels=3, where="theirs.pth")

    assert report.system == "our"
    assert report.head == ("body.fc.weight", "body.fc.bias"), "wherever it is among the layers"
    assert found.keys() == model.state_dict().keys() - set(report.head)
    assert all(torch.equal(value, tensors[name.removeprefix("body.")]) for name, value in found.items())


@pytest.mark.parametrize("function", ["network", "model", "body"])
@pytest.mark.parametrize("around", ["", "module.", "model.", "body.", "module.model."])
def test_prefixes_of_what_wrapped_the_network_go_and_those_of_its_own_stay(
    function: str, around: str, own: Callable[[str], nn.Module]
) -> None:
    model = own(function)
    tensors = {around + name.removeprefix("body."): value for name, value in model.state_dict().items()}
    found, report = fit(model, tensors, channels=3, where="theirs.pth")
    assert found.keys() == model.state_dict().keys() - set(report.head)
    assert (report.system, len(report.head), report.unknown) == ("our", 2, ())


@pytest.mark.parametrize(("arch", "around"), [("slowfast_r50_4x16", "module."), ("i3d_nl_r50", "model.")])
def test_prefixes_of_what_wrapped_another_systems_network_go(arch: str, around: str) -> None:
    shapes = {"slowfast_r50_4x16": checkpoints.slowfast_r50, "i3d_nl_r50": checkpoints.i3d_nl_r50}[arch]()
    tensors = checkpoints.numbered(shapes, lambda place: around + checkpoints.pyslowfast(place))
    _, report = fit(built(arch), tensors, channels=3, where="theirs.pth")
    assert (report.system, report.missing, report.unknown) == ("PySlowFast's", (), ())


def test_the_classifier_may_be_any_convolution(own: Callable[[str], nn.Module]) -> None:
    assert classifier_of(own("frames")) == {"body.1.weight", "body.1.bias"}


@pytest.mark.parametrize(
    ("function", "told"), [("twice", r"2 have 11 outputs \(0, 1\)"), ("functional", "0 have")]
)
def test_a_classifier_that_cannot_be_told_is_refused(
    function: str, told: str, own: Callable[[str], nn.Module]
) -> None:
    message = rf"^arch wide:{function}: which layer is its classifier cannot be told: {told}.*; expected one"
    with pytest.raises(UsageError, match=message):
        fit(own(function), {"0.weight": torch.ones(3)}, channels=3, where="theirs.pth")


def test_the_classifier_stays_as_it_was_drawn(slowfast: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    before = {name: value.clone() for name, value in slowfast.state_dict().items()}
    found, report = fit(slowfast, theirs, channels=3, where="theirs.pth")
    slowfast.load_state_dict(found, strict=False)
    after = slowfast.state_dict()
    assert report.head == ("body.blocks.6.proj.weight", "body.blocks.6.proj.bias")
    assert all(torch.equal(after[name], before[name]) for name in report.head)
    assert str(report).startswith(
        "550 tensors loaded (PySlowFast's names), 2 of the head drawn anew, 0 missing"
    )
    slowfast.load_state_dict(before)


def test_both_first_convolutions_of_a_flow_network_are_averaged_and_answer_a_constant_alike() -> None:
    model = network("slowfast_r50_4x16", channels=2)
    tensors = checkpoints.numbered(checkpoints.slowfast_r50(), checkpoints.pyslowfast)
    for pathway in (0, 1):
        name = f"s1.pathway{pathway}_stem.conv.weight"
        tensors[name] = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(pathway))

    found, report = fit(model, tensors, channels=2, where="theirs.pth")

    assert report.averaged == tuple(f"body.blocks.0.multipathway_blocks.{p}.conv.weight" for p in (0, 1))
    for pathway, name in enumerate(report.averaged):
        before, after = tensors[f"s1.pathway{pathway}_stem.conv.weight"], found[name]
        assert after.shape[1] == 2
        assert torch.equal(after[:, 0], after[:, 1])
        torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1))
    assert "2 first convolutions averaged" in str(report)


def test_a_changed_name_is_drawn_and_named(slowfast: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    theirs["s3.pathway0_res1.branch2.d.weight"] = theirs.pop("s3.pathway0_res1.branch2.a.weight")
    _, report = fit(slowfast, theirs, channels=3, where="theirs.pth")
    missing = "body.blocks.2.multipathway_blocks.0.res_blocks.1.branch2.conv_a.weight"
    assert report.missing == (missing,)
    assert report.unknown == ("s3.pathway0_res1.branch2.d.weight",)
    assert str(report).endswith(
        f"1 missing ({missing}), 0 of another shape, 1 unknown (s3.pathway0_res1.branch2.d.weight)"
    )


def test_a_changed_shape_is_drawn_and_named(slowfast: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    theirs["s1_fuse.conv_f2s.weight"] = torch.ones(16, 8, 7, 1, 1)
    _, report = fit(slowfast, theirs, channels=3, where="theirs.pth")
    name = "body.blocks.0.multipathway_fusion.conv_fast_to_slow.weight"
    assert report.misshapen == (f"{name} 16x8x7x1x1 instead of 16x8x5x1x1",)


def test_another_class_count_is_the_heads_affair_alone(slowfast: nn.Module) -> None:
    shapes = checkpoints.slowfast_r50() | checkpoints.head(2304, classes=600)
    found, report = fit(
        slowfast, checkpoints.numbered(shapes, checkpoints.pyslowfast), channels=3, where="theirs.pth"
    )
    assert (report.loaded, report.misshapen, report.unknown) == (len(found), (), ())


def test_a_checkpoint_of_another_network_is_refused_with_the_first_names(slowfast: nn.Module) -> None:
    tensors = checkpoints.numbered(checkpoints.slow_r50(), checkpoints.mmaction2)
    told = refusal(slowfast, tensors)
    assert told.startswith("theirs.pth fits ")
    assert "of 550 tensors (MMAction2's names): " in told
    assert "missing (body.blocks.0.multipathway_blocks.1.conv.weight, " in told
    assert told.endswith(
        "expected at least 90% of the network without its classifier; "
        "take a checkpoint of the same architecture"
    )


def test_names_that_nobody_gives_are_refused(slowfast: nn.Module) -> None:
    told = refusal(slowfast, {"encoder.weight": torch.ones(3), "encoder.bias": torch.ones(3)})
    assert told.startswith("theirs.pth fits 0 of 550 tensors (our names): 550 missing (")
    assert "2 unknown (encoder.weight, encoder.bias)" in told


def test_values_that_are_not_finite_are_refused(slowfast: nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    theirs["s1_fuse.conv_f2s.weight"][0] = torch.nan
    name = "body.blocks.0.multipathway_fusion.conv_fast_to_slow.weight"
    assert refusal(slowfast, theirs).startswith(f"theirs.pth: {name} holds values that are not finite")


def test_half_precision_is_taken_as_the_networks(
    slowfast: nn.Module, theirs: dict[str, torch.Tensor]
) -> None:
    found = fitted(slowfast, {name: value.half() for name, value in theirs.items()})
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_ones_own_weights_fit_with_their_counters_and_keep_the_classifier_where_it_is_asked_for() -> None:
    small = Clip(frames=16, size=32, short_side=(32, 32))
    model = network("slowfast_tiny", clip=small)
    other = build("slowfast_tiny", num_classes=11, channels=3, clip=small, dropout=0.0, seed=1).state_dict()

    found, report = fit(model, other, channels=3, where="model.safetensors", keep_head=True)

    assert found.keys() == other.keys()
    assert all(torch.equal(found[name], other[name]) for name in other)
    assert (report.head, report.missing, report.unknown) == ((), (), ())
