"""What targets say of training videos and students of test videos, for the report's example clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ukd_dist import manifest
from ukd_dist.data.knowledge import TARGET, logits_path, open_finished
from ukd_dist.data.rowarray import RowArray
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import UkdError
from ukd_dist.experiment import Experiment, TargetMember
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.evaluate import open_test_logits
from ukd_dist.stages.examples import Example, read_examples
from ukd_dist.stages.findings import Group
from ukd_dist.stages.reduce import TARGET_FILE

_MOST = 3  # classes of each


@dataclass(frozen=True)
class Saying:
    """What one target or student says of a video.

    Attributes:
        who: The target's or student's name.
        shares: Its most probable classes, with their probabilities, falling.
    """

    who: str
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Told:
    """An example and what is said of it."""

    example: Example
    sayings: tuple[Saying, ...]


def read_sayings(run: RunDirectory, experiment: Experiment, students: Sequence[Group]) -> list[Told]:
    """The examples with what finished targets say of training videos, and evaluated students of test videos.

    A target in logits speaks by softmax(z), as at temperature 1; of several views of a video by the first. Of
    each student it is the first evaluated seed.

    What is damaged, or made again at this moment, says nothing.
    """
    examples = read_examples(run, experiment.data.clip.gamma)
    if not examples:
        return []
    shards = ShardSet(run.shards, check=False)
    speakers = {
        "train": [*_targets(run, experiment.targets, shards)],
        "test": [*_students(run, students, shards)],
    }
    return [Told(e, tuple(_sayings(e, speakers[e.split], shards.classes))) for e in examples]


@dataclass(frozen=True)
class _Speaker:
    """Who says something of each row of a split: only the rows that are asked for are read."""

    name: str
    array: RowArray
    is_logits: bool

    def probs(self, row: int) -> Tensor:
        """Probabilities of the classes, float32 `[C]`."""
        said = self.array.read(row, row + 1)[0].float()
        said_c = said[0] if said.ndim == 2 else said
        return said_c.softmax(dim=0) if self.is_logits else said_c


def _targets(run: RunDirectory, targets: Sequence[TargetMember], shards: ShardSet) -> Iterator[_Speaker]:
    rows, num_classes = shards.rows["train"], len(shards.classes)
    for target in targets:
        directory = run.target(target.id)
        with suppress(UkdError):  # `ukd verify` names what is damaged: the page is not lost for it
            if manifest.read(directory) is not None and (directory / TARGET_FILE).is_file():
                array = open_finished(directory, TARGET_FILE, TARGET, rows, "train", num_classes)
                yield _Speaker(target.name, array, target.settings.space == "logits")


def _students(run: RunDirectory, students: Sequence[Group], shards: ShardSet) -> Iterator[_Speaker]:
    for group in students:
        evaluated = next((member for member in group.members if member.result), None)
        if evaluated is None:
            continue
        directory = run.student(evaluated.id)
        with suppress(UkdError):
            if manifest.read(logits_path(directory, "test").parent) is not None:
                yield _Speaker(group.label, open_test_logits(directory, shards), is_logits=True)


def _sayings(example: Example, speakers: Sequence[_Speaker], classes: Sequence[str]) -> Iterator[Saying]:
    for speaker in speakers:
        with suppress(UkdError):
            values, labels = torch.topk(speaker.probs(example.row), min(_MOST, len(classes)))
            named = (classes[label] for label in labels.tolist())
            yield Saying(speaker.name, tuple(zip(named, values.tolist(), strict=True)))
