"""A finished member as a network that can be used: what it was trained with, and its weights.

Read are the member's manifest and weights, and the manifest of the shards, which names the classes and says
how videos are stored; no tar, target or logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ukd_dist import manifest
from ukd_dist.clip_config import Clip, Views
from ukd_dist.data.shards import check_flow
from ukd_dist.data_config import Codec, Encoding, Modality
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.expansion import validate
from ukd_dist.models.networks import VideoNetwork
from ukd_dist.rundir import RunDirectory
from ukd_dist.training.inference import WEIGHTS, load_weights
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Student, Teacher, Training

_SETTINGS: dict[str, type[Student] | type[Teacher]] = {"student": Student, "teacher": Teacher}
_SHOWN = 5


@dataclass(frozen=True)
class Trained:
    """What a finished member's directory says of it.

    Attributes:
        directory: Where it lies.
        id: Its id.
        kind: student or teacher.
        settings: Its training's.
        views: What evaluation sees of a video.
        classes: Names by label.
        codec: How the shards hold rgb.
        encoding: Size and quality of the videos in the shards.
        digests: Of the member's manifest, of its weights (their sha256) and of the shards.
    """

    directory: Path
    id: str
    kind: str
    settings: Training
    views: Views
    classes: tuple[str, ...]
    codec: Codec
    encoding: Encoding
    digests: dict[str, str]


class TrainedNetwork(nn.Module):
    """A finished member's network.

    Attributes:
        trained: All that is known of it.
        classes: Names of its logits.
        clip: Frames, size and gamma of its clips.
        modality: What its clips show.
    """

    def __init__(self, network: VideoNetwork, trained: Trained) -> None:
        super().__init__()
        self.network = network
        self.trained = trained
        self.classes: tuple[str, ...] = trained.classes
        self.clip: Clip = trained.settings.clip
        self.modality: Modality = trained.settings.modality

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, classes]` of normalised clips, float32 `[batch, channels, frames, size, size]`."""
        logits: torch.Tensor = self.network(clips_bcthw)
        return logits


def load_network(directory: Path) -> TrainedNetwork:
    """A finished member's network with its weights, on the CPU and in evaluation mode.

    Args:
        directory: ROOT/students/ID or ROOT/teachers/ID.

    Raises:
        UsageError: No trained network lies there.
        MismatchError: The run's shards are not those that it was trained on.
        DataError: A file is missing or damaged, or of another version; names it.
    """
    trained = read_trained(directory)
    network = build_network(trained.settings, len(trained.classes))
    load_weights(network, trained.directory / WEIGHTS)
    return TrainedNetwork(network, trained).eval()


def read_trained(directory: Path) -> Trained:
    """What a finished member's directory says, its weights being checked against their sha256.

    Raises:
        UsageError: No trained network lies there.
        MismatchError: The run's shards are not those that it was trained on.
        DataError: A file is missing or damaged, or of another version; names it.
    """
    directory = directory.resolve()
    found = _member(directory)
    manifest.verify(directory, found, [WEIGHTS])
    settings = _settings(directory, found)
    shards = _shards(directory, found)
    if settings.modality == "flow":
        check_flow(RunDirectory(directory.parents[1]).shards, shards.settings)
    return Trained(
        directory=directory,
        id=directory.name,
        kind=found.kind,
        settings=settings,
        views=_views(directory, settings),
        classes=tuple(shards.settings["classes"]),
        codec=shards.settings.get("codec", "vp9"),
        encoding=Encoding(**shards.settings["encoding"]),
        digests={"member": found.digest(), "weights": found.files[WEIGHTS].sha256, "shards": shards.digest()},
    )


def _member(directory: Path) -> manifest.Manifest:
    found = manifest.read(directory)
    if found is None or found.kind not in _SETTINGS:
        raise UsageError(
            f"{directory} holds no finished student or teacher",
            expected=_expected(directory),
            action="name one that `ukd status ROOT` calls done",
        )
    if WEIGHTS not in found.files:
        raise UsageError(
            f"{directory} holds imported logits and no network",
            expected="a student or teacher that was trained here",
            action="name another",
        )
    return found


def _expected(place: Path) -> str:
    """The members that a run's root holds, where `place` is one."""
    finished = sorted(path.parent for path in place.glob(f"[st]*/*/{manifest.FILENAME}"))
    known = [str(path) for path in finished if path.parent.name in ("students", "teachers")]
    if not known:
        return "ROOT/students/ID or ROOT/teachers/ID"
    return f"one of {', '.join(known[:_SHOWN])}" + (", ..." if len(known) > _SHOWN else "")


def _settings(directory: Path, found: manifest.Manifest) -> Student | Teacher:
    try:
        return validate(_SETTINGS[found.kind], found.settings, str(directory / manifest.FILENAME), ())
    except UsageError as error:
        raise DataError(
            error.problem, expected=error.expected, action="use the version of ukd-dist that trained it"
        ) from error


def _views(directory: Path, settings: Student | Teacher) -> Views:
    """What evaluation sees of a video; of a student that is not evaluated yet, its centre."""
    if isinstance(settings, Teacher):
        return settings.views.evaluated
    evaluated = manifest.read(directory / "logits")
    return (Views.named(evaluated.settings.get("views", "")) if evaluated else None) or Views()


def _shards(directory: Path, found: manifest.Manifest) -> manifest.Manifest:
    """The manifest of the shards that the member was trained on."""
    place = RunDirectory(directory.parents[1]).shards
    shards = manifest.read(place)
    if shards is None:
        raise UsageError(
            f"{place} holds no finished shards",
            expected=f"the {manifest.FILENAME} of those that {directory.name} was trained on, "
            "which names the classes",
            action=f"keep the member's folder in a run, or {manifest.FILENAME} beside it as there",
        )
    if shards.digest() != found.inputs["shards"]:
        raise MismatchError(
            f"{directory} was trained on shards {found.inputs['shards'][:12]}...",
            expected=f"those of {place}, {shards.digest()[:12]}...",
            action="train it again, or bring the shards' manifest back",
        )
    return shards
