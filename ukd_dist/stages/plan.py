"""`ukd plan`: what a fleet will take: how many teachers train at once, how long, and how much room.

Reads the run directory, or before there are shards the lists of videos; needs no cluster and changes nothing.
Left out: students, whose settings say what they reserve, and what sharding and the reduction take.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ukd_dist import manifest
from ukd_dist.attempts import with_history
from ukd_dist.config import Keep
from ukd_dist.data.shards import SPLITS, ShardSet
from ukd_dist.data.sources import read_source
from ukd_dist.data.views import steps_per_epoch
from ukd_dist.data_config import Synthetic
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.pace import Pace, Paces, measure
from ukd_dist.stages.packing import Load, Node, at_once, local_nodes, schedule
from ukd_dist.stages.sizes import Extent, TeacherSizes, target_bytes, teacher_sizes
from ukd_dist.training_config import Teacher

# A fresh process until its first step: imports, the network, opening the shards. As measured on two cores.
START_SECONDS = 10.0


@dataclass(frozen=True)
class Group:
    """Teachers that cost the same.

    Attributes:
        arch: Network.
        modality: What it sees.
        members: How many there are.
        finished: Of them, finished.
        cpus: What each reserves, by all of its ranks.
        gpus: What each reserves, by all of its ranks.
        at_once: How many the nodes hold at one time, had they nothing else to do.
        epoch_seconds: Of one training epoch; None where nothing is known.
        seconds: Of one teacher, from its start to its logits.
        pace: Where that is known from.
        sizes: Bytes of each.
    """

    arch: str
    modality: str
    members: int
    finished: int
    cpus: float
    gpus: float
    at_once: int
    epoch_seconds: float | None
    seconds: float | None
    pace: str
    sizes: TeacherSizes


@dataclass(frozen=True)
class Plan:
    """What the fleet will take.

    Attributes:
        nodes: Where it would run.
        groups: Its teachers.
        at_once: The most teachers at one time.
        whole_seconds: Of the fleet, were nothing done; None where some pace is unknown.
        left_seconds: Of what is not done.
        teacher_bytes: What stays of all teachers, under each `teachers.keep`.
        target_bytes: What the targets take, their sums included.
        training_bytes: Checkpoints of teachers while they train, where none are kept.
        free_bytes: Free room where the root is.
        notes: What the reader should know of these figures.
    """

    nodes: tuple[str, ...]
    groups: tuple[Group, ...]
    at_once: int
    whole_seconds: float | None
    left_seconds: float | None
    teacher_bytes: dict[Keep, int]
    target_bytes: int
    training_bytes: int
    free_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cost:
    """One kind of member: how fast it is, and how large."""

    pace: Pace | None
    sizes: TeacherSizes


def plan(experiment: Experiment, nodes: Sequence[Node] = (), *, measured: bool = False) -> Plan:
    """Predict what the experiment's fleet takes.

    Args:
        experiment: Whose fleet.
        nodes: Where it would run; none: what a run on this machine starts.
        measured: Take a few steps here of each network of which no history tells.

    Raises:
        UsageError: How many videos there are is not known yet.
        ResourceError: Some teacher fits on no node.
    """
    run = RunDirectory(experiment.root)
    shards = ShardSet(run.shards, check=False) if manifest.read(run.shards) else None
    extent = _extent(experiment, shards)
    where = list(nodes) or local_nodes(experiment.cluster)
    costs = _costs(experiment, Paces(run, experiment), shards, extent, measured)
    left = {member.id: _epochs_left(run, member) for member in experiment.teachers}
    groups = _groups(experiment, costs, left, where, extent)
    whole = [(m.settings, _seconds(m.settings, costs, extent, None)) for m in experiment.teachers]
    rest = [
        (m.settings, _seconds(m.settings, costs, extent, left[m.id]))
        for m in experiment.teachers
        if left[m.id] is not None
    ]
    found = Plan(
        nodes=tuple(map(str, where)),
        groups=tuple(groups),
        at_once=schedule([_load(settings, seconds or 1.0) for settings, seconds in whole], where).at_once,
        whole_seconds=_until_done(whole, where),
        left_seconds=_until_done(rest, where),
        teacher_bytes={keep: sum(g.members * g.sizes.kept(keep) for g in groups) for keep in get_args(Keep)},
        target_bytes=_target_bytes(experiment, extent),
        training_bytes=max((g.sizes.checkpoints * min(g.at_once, g.members) for g in groups), default=0),
        free_bytes=shutil.disk_usage(_existing(run.root)).free,
    )
    return replace(found, notes=tuple(_notes(experiment, found, bool(nodes), shards)))


def _costs(
    experiment: Experiment, paces: Paces, shards: ShardSet | None, extent: Extent, measured: bool
) -> dict[str, _Cost]:
    """What a member of each kind costs."""
    costs: dict[str, _Cost] = {}
    for settings in (member.settings for member in experiment.teachers):
        if _kind(settings) not in costs:
            pace = paces.of(settings)
            if pace is None and measured:
                pace = measure(settings, extent.classes, shards)
            costs[_kind(settings)] = _Cost(pace, teacher_sizes(settings, extent))
    return costs


def _extent(experiment: Experiment, shards: ShardSet | None) -> Extent:
    """Rows and classes: of the shards, else of the lists of videos."""
    data = experiment.data
    if shards is not None:
        return Extent({split: len(shards.rows[split]) for split in SPLITS}, len(shards.classes))
    if data.source == "synthetic":
        from ukd_dist.data import synthetic

        wanted, classes = data.synthetic or Synthetic(), len(synthetic.CLASSES)
        held_out = round(classes * wanted.train_clips * (data.validation.share if data.validation else 0))
        train, test = classes * wanted.train_clips - held_out, classes * wanted.test_clips
        return Extent({"train": train, "validation": held_out, "test": test}, classes)
    if data.source is None or data.shards is not None:
        raise UsageError(
            f"{experiment.root} holds no finished shards yet",
            expected="shards, which say how many videos there are",
            action="bring them there with `ukd shard`",
        )
    source = read_source(data)
    rows = {"train": source.train, "validation": source.validation, "test": source.test}
    return Extent({split: len(rows[split]) for split in SPLITS}, len(source.classes))


def _kind(settings: Teacher) -> str:
    """Settings that a teacher's cost depends on; those of one kind cost the same."""
    resources, s = settings.resources, settings
    whole = s.fold is None
    trained = (s.clip, s.views, s.epochs, s.batch_size, s.momentum > 0, whole)
    return str((s.arch, s.modality, *trained, resources, s.workers))


def _epochs_left(run: RunDirectory, member: TeacherMember) -> int | None:
    """Epochs that are still to be trained; None where the teacher is finished."""
    directory = run.teacher(member.id)
    if (directory / manifest.FILENAME).is_file():
        return None
    return max(0, member.settings.epochs - len(read_history(with_history(directory))))


def _clips_per_epoch(settings: Teacher, extent: Extent) -> int:
    rows = extent.rows["train"]
    if settings.folds is not None:
        rows -= rows // settings.folds.count
    return steps_per_epoch(rows, settings.batch_size) * min(settings.batch_size, rows)


def _epoch_seconds(settings: Teacher, pace: Pace, extent: Extent) -> float:
    return pace.seconds * _clips_per_epoch(settings, extent) / settings.workers


def _seconds(settings: Teacher, costs: dict[str, _Cost], extent: Extent, epochs: int | None) -> float | None:
    """Of one teacher with so many epochs to train; None: all of them."""
    pace = costs[_kind(settings)].pace
    if pace is None:
        return None
    epoch_seconds = _epoch_seconds(settings, pace, extent)
    training = (settings.epochs if epochs is None else epochs) * epoch_seconds
    clips = sum(
        rows * (settings.views if split == "train" else settings.views.evaluated).count
        for split, rows in extent.rows.items()
    )
    return START_SECONDS + training + clips * pace.logits_seconds


def _groups(
    experiment: Experiment,
    costs: dict[str, _Cost],
    left: dict[str, int | None],
    nodes: Sequence[Node],
    extent: Extent,
) -> list[Group]:
    kinds: dict[str, list[TeacherMember]] = {}
    for member in experiment.teachers:
        kinds.setdefault(_kind(member.settings), []).append(member)
    groups = []
    for kind, members in kinds.items():
        settings, cost = members[0].settings, costs[kind]
        groups.append(
            Group(
                arch=settings.arch,
                modality=settings.modality,
                members=len(members),
                finished=sum(left[member.id] is None for member in members),
                cpus=settings.workers * settings.resources.cpus,
                gpus=settings.workers * settings.resources.gpus,
                at_once=at_once(settings.resources, nodes, settings.workers),
                epoch_seconds=_epoch_seconds(settings, cost.pace, extent) if cost.pace else None,
                seconds=_seconds(settings, costs, extent, None),
                pace=cost.pace.source if cost.pace else "nothing measured",
                sizes=cost.sizes,
            )
        )
    return groups


def _load(settings: Teacher, seconds: float) -> Load:
    return Load(settings.resources, seconds, settings.workers)


def _until_done(members: Sequence[tuple[Teacher, float | None]], nodes: Sequence[Node]) -> float | None:
    known = [_load(settings, seconds) for settings, seconds in members if seconds is not None]
    return schedule(known, nodes).seconds if len(known) == len(members) else None


def _target_bytes(experiment: Experiment, extent: Extent) -> int:
    keep = experiment.cluster.keep_sums
    return sum(
        target_bytes(target.settings, target.views, len(target.teachers), extent, keep)
        for target in experiment.targets
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _notes(experiment: Experiment, found: Plan, nodes_given: bool, shards: ShardSet | None) -> Iterator[str]:
    unknown = [f"{group.arch} {group.modality}" for group in found.groups if group.seconds is None]
    if unknown:
        yield f"nothing was measured of {', '.join(unknown)}: give --measure, or let one of them train first"
    if experiment.cluster.address and not nodes_given:
        yield "cluster.address names a cluster, which is not asked: give its nodes with --node"
    if shards is None:
        yield "there are no shards yet: videos that sharding rejects are counted here"
    left = [(g.members - g.finished) * g.sizes.kept(experiment.keep) for g in found.groups]
    if sum(left) + found.training_bytes > found.free_bytes and any(left):
        yield "there is no room for the teachers that are left: free some, or choose another teachers.keep"
