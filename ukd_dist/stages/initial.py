"""Initial weights (`init`): the coordinator makes them of checkpoints, each once, before trainings begin.

A directory `init/<id>/` is of one network, kind of clip and `init`. Its weights' sha256 is among the inputs
of every training that starts from them: another checkpoint under the same name is never taken in silence.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ukd_dist import manifest
from ukd_dist.errors import DataError, MismatchError, ResourceError, UkdError, UsageError
from ukd_dist.experiment import Experiment, TeacherMember, digest
from ukd_dist.initial import NONE, file_of, parent_of
from ukd_dist.models.fetching import Checkpoint, fetch, find
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context, finished_shards
from ukd_dist.training import initial_weights
from ukd_dist.training.inference import WEIGHTS
from ukd_dist.training_config import Training

KIND = "init"  # of the manifest, and its name among a training's inputs
_log = logging.getLogger(__name__)


def prepare(context: Context, trainings: Iterable[Training]) -> None:
    """Make the initial weights of trainings that are to begin, where they are not made yet.

    Raises:
        UsageError: A checkpoint is not there, or no public one is known.
        ResourceError: One cannot be fetched; says where to put it.
        DataError: One cannot be read as tensors, fits too little, or is not the published file; or the member
            that a training starts from has no weights any more.
        MismatchError: What is there was made of another checkpoint, and `replace` was not asked for.
    """
    for directory, settings in _places(context.run, trainings).items():
        _prepare(context, directory, settings)


def prepare_each(context: Context, members: Sequence[TeacherMember]) -> dict[str, UkdError]:
    """As `prepare`, but a checkpoint that is no good stops nobody else; returns what is wrong, by teacher.

    Raises:
        UsageError: As `prepare`.
        MismatchError: As `prepare`.
    """
    failed = dict[str, UkdError]()
    for place, settings in _places(context.run, [member.settings for member in members]).items():
        try:
            _prepare(context, place, settings)
        except (DataError, ResourceError) as error:
            alike = (m.id for m in members if directory_of(context.run, m.settings) == place)
            failed |= dict.fromkeys(alike, error)
    return failed


def changed(context: Context, trainings: Iterable[Training]) -> set[Path]:
    """Directories of initial weights that were made of another checkpoint than there is now.

    Where the checkpoint or the directory is gone there is nothing to compare; a URL is not asked again.

    Raises:
        MismatchError: There is one, and `replace` was not asked for.
    """
    places = _places(context.run, trainings)
    return {place for place, settings in places.items() if _is_of_another(context, place, settings)}


def check_checkpoints(run: RunDirectory, experiment: Experiment) -> None:
    """Refuse an experiment with a file or a member that is not there and that some unfinished member needs.

    Raises:
        UsageError: There is one; names it and the first member that starts from it.
    """
    check_parents(run, experiment)
    for name, _, settings in _waiting(run, experiment):
        path = file_of(settings.init)
        if path and not path.is_file():
            raise UsageError(
                f"{name} starts from {path}, which is not there",
                expected="a checkpoint's file",
                action="correct its init",
            )


def check_parents(run: RunDirectory, experiment: Experiment) -> None:
    """Refuse an experiment whose unfinished teachers wait for members that nobody trains.

    Raises:
        UsageError: There is one; names it and the first that starts from it.
    """
    finished = sorted(path.parent.name for path in run.teacher("").glob(f"*/{manifest.FILENAME}"))
    known = [*(member.id for member in experiment.teachers), *finished]
    for name, _, settings in _waiting(run, experiment):
        if (parent := parent_of(settings.init)) and parent not in known:
            nearest = difflib.get_close_matches(parent, known, n=1)
            raise UsageError(
                f"{name} starts from member {parent}, which has no weights here",
                expected=f"a teacher of the fleet, or a finished one in {run.root}",
                action=f"did you mean member:{nearest[0]}?" if nearest else "correct its init",
            )


def initial_inputs(run: RunDirectory, settings: Training, member: Path) -> dict[str, str]:
    """What a training names of its initial weights among its inputs: nothing where they are drawn.

    Their sha256; of a finished member what it was trained with, should they be gone; nobody's where they are
    not made yet.
    """
    if settings.init == NONE:
        return {}
    made, finished = manifest.read(directory_of(run, settings)), manifest.read(member)
    if made is not None:
        return {KIND: made.files[WEIGHTS].sha256}
    return {KIND: finished.inputs.get(KIND, "") if finished else ""}


def teacher_inputs(run: RunDirectory, member: TeacherMember, shards: str) -> dict[str, str]:
    """Digests of what a teacher learns from, given the shards'."""
    return {"shards": shards, **initial_inputs(run, member.settings, run.teacher(member.id))}


def load_initial(network: nn.Module, run: RunDirectory, settings: Training) -> None:
    """Put a training's initial weights into its network (called on every rank).

    Before the engine is made, which may keep copies. Of a training that goes on its checkpoint replaces them.

    Raises:
        DataError: They are not there, or damaged.
    """
    if settings.init != NONE:
        initial_weights.load(network, directory_of(run, settings))


def directory_of(run: RunDirectory, settings: Training) -> Path:
    """Where a training's initial weights lie."""
    name = re.sub(r"[^\w.-]+", "-", f"{settings.arch}-{settings.modality}")
    return run.initial(f"{name}-{digest(_key(settings))}")


def needed(run: RunDirectory, experiment: Experiment) -> set[Path]:
    """Directories of initial weights from which some unfinished member starts."""
    return {directory for _, directory, _ in _unfinished(run, experiment)}


def awaited(run: RunDirectory, experiment: Experiment) -> set[str]:
    """Members whose weights some unfinished one is still to be given."""
    return {parent_of(settings.init) for _, _, settings in _waiting(run, experiment)}


def awaits_weights(run: RunDirectory, member: TeacherMember) -> bool:
    """Whether the member that a teacher starts from has to keep its weights for it."""
    unfinished = not (run.teacher(member.id) / manifest.FILENAME).is_file()
    return unfinished and not (directory_of(run, member.settings) / manifest.FILENAME).is_file()


def _unfinished(run: RunDirectory, experiment: Experiment) -> Iterator[tuple[str, Path, Training]]:
    """Unfinished members that start from a checkpoint: id, initial weights' directory, settings."""
    members = [
        *((member.id, run.teacher(member.id), member.settings) for member in experiment.teachers),
        *((member.id, run.student(member.id), member.settings) for member in experiment.students),
    ]
    for name, place, settings in members:
        if settings.init != NONE and not (place / manifest.FILENAME).is_file():
            yield name, directory_of(run, settings), settings


def _waiting(run: RunDirectory, experiment: Experiment) -> Iterator[tuple[str, Path, Training]]:
    """Those of `_unfinished` whose initial weights are not made."""
    for name, directory, settings in _unfinished(run, experiment):
        if not (directory / manifest.FILENAME).is_file():
            yield name, directory, settings


def _key(settings: Training) -> dict[str, Any]:
    """What initial weights depend on: the clip, as position embeddings do."""
    clip = {"frames": settings.clip.frames, "size": settings.clip.size}
    return {"arch": settings.arch, "modality": settings.modality, "init": settings.init, **clip}


def _places(run: RunDirectory, trainings: Iterable[Training]) -> dict[Path, Training]:
    """Where the initial weights of trainings lie, each directory with one of those that begin there."""
    return {directory_of(run, one): one for one in trainings if one.init != NONE}


def _is_of_another(context: Context, directory: Path, settings: Training) -> bool:
    """Whether a directory was made of another checkpoint than there is now; refused without `replace`."""
    checkpoint = _checkpoint(context.run, settings)
    if checkpoint.url or manifest.read(directory) is None:
        return False
    sha256 = checkpoint.sha256 or (manifest.sha256_of(checkpoint.path) if checkpoint.path.is_file() else "")
    try:
        if sha256:
            manifest.finished(directory, KIND, _key(settings), {"checkpoint": sha256})
    except MismatchError as error:
        if not context.replace:
            raise
        _log.warning("making %s again: %s", directory, error.problem)
        return True
    return False


def _prepare(context: Context, directory: Path, settings: Training) -> None:
    """Make one directory, where it is not there or of another checkpoint; that stays until it is made."""
    if manifest.read(directory) is not None and not _is_of_another(context, directory, settings):
        return
    checkpoint = _checkpoint(context.run, settings)
    if (parent := parent_of(settings.init)) and not checkpoint.path.is_file():
        raise DataError(
            f"member {parent}, from which others start, has no weights",
            expected="a finished teacher, and `teachers.keep: weights` or all",
            action="train it again, or start from another",
        )
    sha256 = fetch(checkpoint)
    num_classes = len(finished_shards(context.run).settings["classes"])
    report = initial_weights.make(settings, checkpoint, sha256, num_classes, directory)
    files = [WEIGHTS, initial_weights.REPORT]
    manifest.commit(directory, KIND, _key(settings), {"checkpoint": sha256}, files)
    context.progress.say(f"{settings.arch} {settings.modality}: {checkpoint.source}: {report}")


def _checkpoint(run: RunDirectory, settings: Training) -> Checkpoint:
    parent = parent_of(settings.init)
    if not parent:
        return find(settings.init, settings.arch)
    directory = run.teacher(parent)
    found = manifest.read(directory)
    expected = found.files[WEIGHTS].sha256 if found and WEIGHTS in found.files else ""
    remedy = f"remove {directory} to train it again, and run again"
    return Checkpoint(directory / WEIGHTS, "", expected, f"member {parent}", remedy)
