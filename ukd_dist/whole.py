"""An experiment as a whole: what commands do with it, split by split where it has several.

Each split goes the way of `pipeline`, one after the other, on one cluster. What belongs to all of them is
done here: the outer root is held, videos are drawn once, and there is a joint report. To an experiment of one
split nothing is added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ukd_dist import pipeline
from ukd_dist.cancellation import cancellable
from ukd_dist.coordination import cluster_of
from ukd_dist.data.sources import read_source
from ukd_dist.data_config import Synthetic
from ukd_dist.errors import BusyError, IncompleteError, MismatchError, UkdError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, coordinating, open_run
from ukd_dist.scaling import studying
from ukd_dist.splits import begun, has_several, naming_split, open_parts, parts
from ukd_dist.stages.garbage import Collection, collect
from ukd_dist.stages.initial import check_checkpoints, check_parents
from ukd_dist.stages.joint import joint_report
from ukd_dist.stages.packing import Node
from ukd_dist.stages.plan import Plan
from ukd_dist.stages.plan import plan as predict
from ukd_dist.stages.report import report
from ukd_dist.stages.scaled import Scaled
from ukd_dist.stages.shard import draw
from ukd_dist.stages.studied import Study
from ukd_dist.stages.verify import Verdict


def run(
    experiment: Experiment,
    stages: Sequence[str] = tuple(pipeline.STAGES),
    *,
    split: str | None = None,
    replace: bool = False,
    workers: int | None = None,
    progress: Progress,
) -> Path:
    """As `pipeline.run`, of every split.

    What stops one stops those after it as well, unless it lacks teachers alone and has enough of them.

    Args:
        experiment: What is to be done.
        stages: Names from `pipeline.STAGES`.
        split: The only split that is gone through; None: all of them.
        replace: Make again what was made from other settings or inputs.
        workers: Ranks of every student in place of its own `workers`.
        progress: Who is told.

    Returns:
        The report's page; of several splits the joint one.

    Raises:
        UsageError: There is no such split.
        MismatchError: The root holds one split and the experiment several, or the other way round.
        IncompleteError: Everything is done but by some teachers (`teachers.quorum`).
        UkdError: What stopped a stage. What was finished stays.
    """
    chosen = parts(experiment, split)
    _refuse_other_layout(experiment)
    if not has_several(experiment):
        return pipeline.run(experiment, stages, replace=replace, workers=workers, progress=progress)
    _check_parts(experiment, chosen, stages)
    missing, refused = list[IncompleteError](), None
    with holding(experiment), cluster_of(experiment, progress) as cluster:
        _draw(experiment, stages, progress)
        for name, part in chosen.items():
            progress.say(f"{name}: {part.root}")
            try:
                with naming_split(experiment, name):
                    pipeline.run(
                        part, stages, replace=replace, workers=workers, progress=progress, cluster=cluster
                    )
            except IncompleteError as error:
                missing.append(error)
            except (BusyError, MismatchError, UsageError) as error:
                if name == next(iter(chosen)):  # refused: the root is as it was
                    raise
                refused = error  # splits before it were not: the outer root says what they hold
                break
            except UkdError:
                joint_report(experiment)
                raise
        page = joint_report(experiment)
    if refused is not None:
        raise refused
    _refuse_missing(missing)
    return page


def _refuse_missing(missing: Sequence[IncompleteError]) -> None:
    """Say at the end what some splits went without."""
    if missing:
        problems = "; ".join(error.problem for error in missing)
        raise IncompleteError(problems, expected=missing[0].expected, action=missing[0].action)


@contextmanager
def holding(experiment: Experiment) -> Iterator[None]:
    """Hold the outer root of several splits and stop when `ukd cancel` asks there; of one split do nothing.

    Raises:
        BusyError: Another process holds it.
    """
    if not has_several(experiment):
        yield
        return
    with coordinating(experiment) as outer, cancellable(outer):
        yield


def study(
    experiment: Experiment, *, split: str | None = None, replace: bool = False, progress: Progress
) -> Iterator[tuple[str, tuple[Scaled, Path]]]:
    """As `pipeline.study`, of every split, by its name; what lacks teachers stops no other split.

    Raises:
        UkdError: As `pipeline.study`.
    """
    chosen, missing = parts(experiment, split), list[IncompleteError]()
    _refuse_other_layout(experiment)
    for part in chosen.values():
        studying(part)  # what is wrong with it is said before anything is written
    if has_several(experiment):
        _check_parts(experiment, chosen, list(pipeline.STAGES))
    with holding(experiment), cluster_of(experiment, progress) as cluster:
        if has_several(experiment):
            _draw(experiment, list(pipeline.STAGES), progress)
        for name, part in chosen.items():
            try:
                with naming_split(experiment, name):
                    done = pipeline.study(part, replace=replace, progress=progress, cluster=cluster)
            except IncompleteError as error:
                missing.append(error)
                continue
            yield name, done
        if has_several(experiment):
            joint_report(experiment)
    _refuse_missing(missing)


def score(
    experiment: Experiment, scope: Mapping[str, object], *, split: str | None = None, progress: Progress
) -> Iterator[tuple[str, tuple[Study, Path]]]:
    """As `pipeline.score`, of every split, by its name."""
    with holding(experiment):
        for name, part in parts(experiment, split).items():
            with naming_split(experiment, name):
                scored = pipeline.score(part, scope, progress=progress)
            yield name, scored


def plan(
    experiment: Experiment, nodes: Sequence[Node], *, split: str | None = None, measured: bool = False
) -> Iterator[tuple[str, Plan]]:
    """As `stages.plan.plan`, of every split, by its name."""
    for name, part in parts(experiment, split).items():
        with naming_split(experiment, name):
            check_parents(RunDirectory(part.root), part)
        yield name, predict(_before_drawing(experiment, name, part), nodes, measured=measured)


def verify(experiment: Experiment, num_rows: int = 0, seed: int = 0) -> Iterator[Verdict]:
    """As `pipeline.verify`, of every split that was begun; directories are named from the outer root."""
    for name, part in begun(experiment).items():
        for verdict in pipeline.verify(part, num_rows, seed):
            directory = f"{name}/{verdict.directory}" if has_several(experiment) else verdict.directory
            yield dataclasses.replace(verdict, directory=directory)


def collect_garbage(experiment: Experiment, *, removed: bool = False, dry_run: bool = False) -> Collection:
    """As `garbage.collect`, of every split that was begun."""
    open_run(experiment.root)  # or nothing is there, and nothing is to be written
    with nullcontext() if dry_run else holding(experiment):
        found = [collect(part, removed=removed, dry_run=dry_run) for part in begun(experiment).values()]
    excess = tuple(item for collection in found for item in collection.excess)
    return Collection(excess, tuple(damage for collection in found for damage in collection.damaged))


def write_reports(root: Path) -> Path:
    """Write the report of a run, finished or not; of several splits each one's and the joint one.

    Returns:
        The report's page; of several splits the joint one.

    Raises:
        UsageError: There is no run at `root`.
    """
    outer, experiment = open_run(root)
    pages = [report(*opened) for opened in open_parts(root).values()]
    whole = dataclasses.replace(experiment, root=outer.root)
    return joint_report(whole) if has_several(whole) else pages[0]


def _refuse_other_layout(experiment: Experiment) -> None:
    """Refuse a root of one split for several, or of several for one: all would be made again beside it."""
    root, several = experiment.root, has_several(experiment)
    splits = sorted(path.parent.name for path in root.glob(f"*/{RunDirectory(root).experiment.name}"))
    if several and RunDirectory(root).shards.is_dir():
        raise MismatchError(
            f"{root} holds a run of one split, and the experiment has several",
            expected="each split in a directory of its own",
            action=f"move what is there to {root}/NAME, by the split's name, or choose another root",
        )
    if splits and not several:
        raise MismatchError(
            f"{root} holds {', '.join(splits)}, and the experiment has one split",
            expected="the root of one split",
            action=f"set root to {root / splits[0]}, or choose another",
        )


def _check_parts(experiment: Experiment, chosen: Mapping[str, Experiment], stages: Sequence[str]) -> None:
    """Refuse what is wrong with any split's lists or first weights before the first one is worked on."""
    data = experiment.data
    for name, part in chosen.items():
        with naming_split(experiment, name):
            if "shard" in stages and data.shards is None and data.source != "synthetic":
                read_source(part.data)
            if {"teach", "distill"}.intersection(stages):
                check_checkpoints(RunDirectory(part.root), part)


def _draw(experiment: Experiment, stages: Sequence[str], progress: Progress) -> None:
    """Draw a synthetic source's videos, once for all splits."""
    data = experiment.data
    if "shard" in stages and data.shards is None and data.source == "synthetic":
        draw(data, RunDirectory(experiment.root).videos, progress)


def _before_drawing(experiment: Experiment, split: str, part: Experiment) -> Experiment:
    """A part whose videos are not drawn yet, with their numbers in place of the lists to come."""
    data = experiment.data
    if part is experiment or data.source != "synthetic" or (part.data.videos and part.data.videos.is_dir()):
        return part
    from ukd_dist.data import synthetic

    wanted = data.synthetic or Synthetic()
    drawn = synthetic.plan(seed=wanted.seed, train_clips=wanted.train_clips, test_clips=wanted.test_clips)
    divisions = synthetic.divide(*drawn, wanted.splits)
    train, test = (len(v) // len(synthetic.CLASSES) for v in divisions[data.split_names.index(split)])
    own = wanted.model_copy(update={"train_clips": train, "test_clips": test, "splits": 1})
    undrawn = part.data.model_copy(update={"source": "synthetic", "synthetic": own})
    return dataclasses.replace(part, data=undrawn)
