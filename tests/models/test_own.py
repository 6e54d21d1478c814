"""A function of the user's as a network: what it is asked, what it may give, and what else is told."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError
from ukd_dist.models.catalogue import check
from ukd_dist.models.networks import VideoNetwork, build
from ukd_dist.resolution import parse
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Teacher

CLIP = Clip(frames=4, stride=1, size=16, short_side=(16, 16))
MODULE = """
from torch import nn

class Mean(nn.Module):
    def __init__(self, channels, num_classes, dropout):
        super().__init__()
        self.conv = nn.Conv3d(channels, 6, 3)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(6, num_classes)

    def forward(self, clips):
        return self.classify(self.dropout(self.conv(clips).relu().mean(dim=(2, 3, 4))))

def mean(*, num_classes, channels, clip, dropout):
    assert (clip.frames, clip.size) == (4, 16)
    return Mean(channels, num_classes, dropout)

def one_more(num_classes, channels, dropout, **others):
    return Mean(channels, num_classes + 1, dropout)

class Twice(Mean):
    def forward(self, clips):
        return super().forward(clips), 0

def twice(num_classes, channels, clip, dropout):
    return Twice(channels, num_classes, dropout)

def nothing(**arguments):
    return None

def failing(**arguments):
    raise KeyError("width")

def positional(num_classes, frames):
    return None

number = 7
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `mynets` on Python's path."""
    folder = tmp_path / "mynets"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "wide.py").write_text(MODULE)
    (folder / "broken.py").write_text("import a_library_that_nobody_has\n")
    (folder / "unfinished.py").write_text("def network(:\n")
    (folder / "raising.py").write_text("1 / 0\n")
    (folder / "silent.py").write_text("raise AssertionError('this was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynets"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def built(function: str, channels: int = 3, seed: int = 0) -> VideoNetwork:
    return build(
        f"mynets.wide:{function}", num_classes=5, channels=channels, clip=CLIP, dropout=0.5, seed=seed
    )


@pytest.mark.parametrize(("modality", "channels"), [("rgb", 3), ("flow", 2)])
def test_a_function_of_the_users_is_a_network(modality: str, channels: int) -> None:
    settings = Teacher.model_validate({"arch": "mynets.wide:mean", "modality": modality, "clip": CLIP})
    network = build_network(settings, 5)
    batch = torch.randn(2, channels, 4, 16, 16)

    logits = network(batch)

    assert logits.shape == (2, 5)
    assert network.body.dropout.p == settings.dropout
    assert network.body.classify.weight.shape == (5, 6)
    with torch.inference_mode():
        assert torch.equal(network.eval()(batch), network.body(batch)), "it sees every decoded frame"


def test_the_seed_decides_its_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (built("mean", seed=seed).body.classify.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_built_for_real_where_networks_are_only_counted() -> None:
    with torch.device("meta"):
        network = built("mean")
    assert {weight.device.type for weight in network.parameters()} == {"cpu"}


def test_a_teachers_id_names_a_directory_and_a_check_runs_nothing_of_the_users() -> None:
    document = textwrap.dedent("""
        name: own
        root: run
        data: {source: synthetic}
        teachers: {fleet: [{arch: "mynets.silent:network", modality: rgb}]}
        students: {runs: [{name: any, arch: x3d_tiny, modality: rgb, targets: none}]}
    """)
    (teacher,) = parse(document, "own.yaml", []).teachers
    check(teacher.settings.arch, teacher.settings.clip)
    assert teacher.id.startswith("mynets-silent-network-rgb-s0-")


def test_teachers_are_named_in_fusions_and_published_figures_as_in_their_ids() -> None:
    document = textwrap.dedent("""
        name: own
        root: run
        data: {source: synthetic, modalities: [rgb, flow]}
        teachers: {fleet: [{arch: "mynets.wide:mean", grid: {modality: [rgb, flow]}}]}
        students: {runs: [{name: any, arch: x3d_tiny, modality: rgb, targets: none}]}
        evaluate:
          fusion: {both: [mynets-wide-mean-rgb, mynets-wide-mean-flow]}
          published: {mynets-wide-mean-rgb: 50.0}
    """)
    experiment = parse(document, "own.yaml", [])
    assert {member.settings.name for member in experiment.teachers} == set(experiment.evaluate.fusion["both"])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("nonets.wide:mean", "arch nonets.wide:mean: there is no module nonets; expected a module that .*"),
        (
            "mynets.narrow:mean",
            "there is no module mynets.narrow; .* on every node; correct arch, or install",
        ),
        ("mynets.wide.deep:mean", "there is no module mynets.wide.deep"),
        ("__main__:mean", "there is no module __main__"),
        ("mynets/wide.py:mean", "is not of the form package.module:function; .* as in mynets.wide:network"),
        ("mynets.wide:", "is not of the form package.module:function"),
    ],
)
def test_a_module_that_is_not_there_is_refused_before_anything_runs(arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(arch, CLIP)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("mynets.broken:net", "does not import: .*: No module named 'a_library_that_nobody_has'"),
        ("mynets.unfinished:net", r"does not import: SyntaxError: .* \(unfinished.py, line 1\); expected"),
        ("mynets.raising:net", r"does not import: ZeroDivisionError: .* \(.*raising.py, line 1\); expected"),
        (
            "mynets.wide:failing",
            r"failed: KeyError: 'width' \(.*wide.py, line \d+\); .*; correct the function",
        ),
        ("mynets.wide:means", "module mynets.wide has no means; expected .*, one of mean, one_more, twice"),
        ("mynets.wide:number", "module mynets.wide holds something that cannot be called as number"),
        ("mynets.wide:positional", "arguments num_classes, channels, clip, dropout; give it these"),
        ("mynets.wide:nothing", r"arch mynets.wide:nothing returned NoneType; expected a torch.nn.Module"),
    ],
)
def test_a_function_that_is_not_as_it_has_to_be_is_refused(arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(arch, num_classes=5, channels=3, clip=CLIP, dropout=0.5, seed=0)


@pytest.mark.parametrize(
    ("function", "found"), [("one_more", r"a tensor of shape \[2, 6\]"), ("twice", "tuple")]
)
def test_something_else_than_a_logit_a_class_is_refused(function: str, found: str) -> None:
    message = rf"gives {found} for clips of shape \[2, 3, 4, 16, 16\]; expected logits \[batch, 5\]"
    with pytest.raises(UsageError, match=message):
        built(function)(torch.randn(2, 3, 4, 16, 16))


def test_recomputing_what_has_no_known_blocks_is_refused() -> None:
    settings = {"arch": "mynets.wide:mean", "modality": "rgb", "clip": CLIP, "recompute": True}
    with pytest.raises(
        UsageError, match=r"recompute: true of a network without blocks .* leave recompute out"
    ):
        build_network(Teacher.model_validate(settings), 5)
