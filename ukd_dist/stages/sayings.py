"""What targets say of training videos and students of test videos, for the report's example clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ukd_dist import manifest
from ukd_dist.data.knowledge import TARGET, logits_path, open_finished
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import UkdError
from ukd_dist.experiment import Experiment, TargetMember
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.evaluate import test_logits
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
    probs = {
        "train": dict(_of_targets(run, experiment.targets, shards)),
        "test": dict(_of_students(run, students, shards)),
    }
    return [Told(example, _sayings(example, probs[example.split], shards.classes)) for example in examples]


def _of_targets(
    run: RunDirectory, targets: Sequence[TargetMember], shards: ShardSet
) -> Iterator[tuple[str, Tensor]]:
    rows, num_classes = shards.rows["train"], len(shards.classes)
    for target in targets:
        directory = run.target(target.id)
        with suppress(UkdError):  # `ukd verify` names what is damaged: the page is not lost for it
            if manifest.read(directory) is None or not (directory / TARGET_FILE).is_file():
                continue
            found = open_finished(directory, TARGET_FILE, TARGET, rows, "train", num_classes).read().float()
            first = found[:, 0] if found.ndim == 3 else found
            yield target.name, first.softmax(dim=1) if target.settings.space == "logits" else first


def _of_students(
    run: RunDirectory, students: Sequence[Group], shards: ShardSet
) -> Iterator[tuple[str, Tensor]]:
    for group in students:
        evaluated = next((member for member in group.members if member.result), None)
        if evaluated is None:
            continue
        directory = run.student(evaluated.id)
        with suppress(UkdError):
            if manifest.read(logits_path(directory, "test").parent) is not None:
                yield group.label, test_logits(directory, shards).softmax(dim=1)


def _sayings(example: Example, probs: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[Saying, ...]:
    found = []
    for who, probs_nc in probs.items():
        values, labels = torch.topk(probs_nc[example.row], min(_MOST, len(classes)))
        shares = [
            (classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)
        ]
        found.append(Saying(who, tuple(shares)))
    return tuple(found)
