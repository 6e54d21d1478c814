"""Pictures of a few videos for the report: as stored, gamma-corrected, and their flow.

They are drawn once, where videos can be decoded, and kept in report/examples.json, bound to the shards. Left
out: what targets and students say of these videos (`sayings`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ukd_dist.cluster import Job
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet, SplitName
from ukd_dist.errors import UkdError
from ukd_dist.manifest import write_atomically
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context, shards_digest
from ukd_dist.stages.show import draw_rows

EXAMPLES = "examples.json"
_COUNTS: dict[SplitName, int] = {"train": 4, "test": 8}
_SIDE, _MOMENT = 160, 0
_FORM = 1  # of the file: another is drawn again


@dataclass(frozen=True)
class Example:
    """A video.

    Attributes:
        split: Its split.
        row: Its row number there.
        key: Its key.
        class_name: Its class.
        pictures: What it is a picture of -> a JPEG, base64.
    """

    split: SplitName
    row: int
    key: str
    class_name: str
    pictures: dict[str, str]


def provide_examples(context: Context) -> None:
    """Draw the pictures, once of the same shards; what goes wrong is said, and the report has none."""
    run, experiment = context.run, context.experiment
    if read_examples(run, experiment.data.clip.gamma) is not None and not context.replace:
        return
    cache, gamma = experiment.cluster.shard_cache, experiment.data.clip.gamma
    resources = experiment.students[0].settings.resources
    for outcome in context.cluster.run([Job("examples", draw_examples, (run.root, gamma, cache), resources)]):
        if outcome.error is not None:
            context.progress.say(f"no example clips in the report: {outcome.error.problem}")
            _write(run, gamma, [])


def draw_examples(root: Path, gamma: float, shard_cache: Path | None = None) -> None:
    """Write report/examples.json (a Ray task)."""
    run = RunDirectory(root)
    shards = open_to_decode(run.shards, shard_cache)
    _write(run, gamma, list(_draw(shards, gamma)))


def read_examples(run: RunDirectory, gamma: float) -> list[Example] | None:
    """The pictures of the present shards; None where they were not drawn, or of others, or otherwise."""
    try:
        document = json.loads((run.report / EXAMPLES).read_text(encoding="utf-8"))
        found = document["form"], document["gamma"], document["shards"]
        known = found == (_FORM, gamma, shards_digest(run))
        return [Example(**example) for example in document["examples"]] if known else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, UkdError):
        return None


def _write(run: RunDirectory, gamma: float, examples: Sequence[Example]) -> None:
    drawn = [asdict(example) for example in examples]
    document = {"form": _FORM, "gamma": gamma, "shards": shards_digest(run), "examples": drawn}
    write_atomically(run.report / EXAMPLES, json.dumps(document).encode())


def _draw(shards: ShardSet, gamma: float) -> Iterator[Example]:
    """A video each of some classes, other ones in each split."""
    from ukd_dist.stages.contact_sheet import jpeg, looks

    classes = np.random.default_rng(0).permutation(len(shards.classes))
    for split, count in _COUNTS.items():
        if split not in shards.splits:
            continue
        chosen, classes = classes[:count], np.roll(classes, -count)
        rows = np.concatenate([draw_rows(shards, split, int(label), 1, seed=0) for label in chosen])
        if not len(rows):
            continue
        samples = [sample for sample in shards.samples if sample.split == split]
        kinds, _ = looks(shards, split, rows, gamma, _SIDE)
        for place, row in enumerate(rows.tolist()):
            pictures = {name: jpeg(images[place, _MOMENT]) for name, images in kinds}
            encoded = {name: base64.b64encode(payload).decode() for name, payload in pictures.items()}
            yield Example(split, row, samples[row].key, samples[row].class_name, encoded)
