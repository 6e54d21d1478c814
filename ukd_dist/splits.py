"""Experiments of several splits: one experiment a split, each with a run directory below the root.

What a stage is given is always one split's experiment, so no stage knows of the others, and no id says
anything of splits. The outer root holds the resolved whole, videos that were drawn for all splits, and the
joint report.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ukd_dist.data_config import Data, Split
from ukd_dist.errors import UkdError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory, open_run


def has_several(experiment: Experiment) -> bool:
    """Whether it is an experiment of several splits."""
    return len(experiment.data.split_names) > 1


def parts(experiment: Experiment, split: str | None = None) -> dict[str, Experiment]:
    """Its splits' experiments by the splits' names, in the file's order.

    Args:
        experiment: Of one split, which is its own only part, or of several.
        split: The only one that is wanted; None: all of them.

    Raises:
        UsageError: There is no such split.
    """
    names = experiment.data.split_names
    if split is not None and split not in names:
        raise UsageError(
            f"{experiment.name} has no split '{split}'",
            expected=f"one of {', '.join(names)}" if names else "none to be named: its one split has no name",
            action="correct --split, or leave it out",
        )
    if not has_several(experiment):
        return {names[0] if names else "": experiment}
    return {name: _part(experiment, name) for name in names if split in (None, name)}


def only_part(experiment: Experiment, split: str | None = None) -> Experiment:
    """The one part of an experiment that is spoken of.

    Raises:
        UsageError: There is no such split, or there are several and none was named.
    """
    found = parts(experiment, split)
    if len(found) > 1:
        raise UsageError(
            f"{experiment.name} has {len(found)} splits",
            expected="one of them, since this speaks of one split's videos",
            action=f"give --split {' or --split '.join(found)}",
        )
    (part,) = found.values()
    return part


def begun(experiment: Experiment) -> dict[str, Experiment]:
    """Of `parts` those that anything was begun of, or all where nothing was."""
    found = parts(experiment)
    there = {name: part for name, part in found.items() if RunDirectory(part.root).experiment.is_file()}
    return there or found


def open_parts(root: Path) -> dict[str, tuple[RunDirectory, Experiment]]:
    """Each split's run directory and experiment, by the split's name, wherever the root lies by now.

    Raises:
        UsageError: There is no run at `root`.
    """
    run, experiment = open_run(root)
    if not has_several(experiment):
        return dict.fromkeys(parts(experiment), (run, experiment))
    found = parts(replace(experiment, root=run.root))
    return {name: (RunDirectory(part.root), part) for name, part in found.items()}


def as_drawn(data: Data, home: Path) -> Data:
    """Synthetic data with its drawn videos and their lists in place."""
    lists = home / "lists"
    splits = {
        name: Split(train=lists / f"{name}_train.txt", test=lists / f"{name}_test.txt")
        for name in data.split_names
    }
    return data.model_copy(update={"videos": home / "videos", "splits": splits})


@contextmanager
def naming_split(experiment: Experiment, split: str) -> Iterator[None]:
    """Name the split in a user's errors, where there are several."""
    try:
        yield
    except UkdError as error:
        if not has_several(experiment):
            raise
        problem = f"{split}: {error.problem}"
        raise type(error)(problem, expected=error.expected, action=error.action) from error


def _part(experiment: Experiment, split: str) -> Experiment:
    """One split of several: as a file of its own would resolve to it."""
    name, root = f"{experiment.name}-{split}", experiment.root / split
    data = _part_of_data(experiment, split)
    evaluate = experiment.evaluate.model_copy(update={"published": experiment.evaluate.figures(split)})
    own = {
        "name": name,
        "root": str(root),
        "data": data.model_dump(mode="json"),
        "evaluate": evaluate.model_dump(mode="json"),
    }
    document = {**experiment.document, **own}
    return replace(experiment, name=name, root=root, data=data, evaluate=evaluate, document=document)


def _part_of_data(experiment: Experiment, split: str) -> Data:
    data = experiment.data
    if data.source == "synthetic":  # drawn once for all: what a split sees of it are lists, as ARID's
        drawn = as_drawn(data, RunDirectory(experiment.root).videos)
        data = drawn.model_copy(update={"source": "arid", "synthetic": None})
    shards = data.shards and f"{data.shards}/{split}"
    return data.model_copy(update={"splits": {split: data.splits[split]}, "shards": shards})
