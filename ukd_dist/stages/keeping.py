"""What stays on disk of a finished teacher (`teachers.keep`), and how the rest goes.

A finished teacher needs its logits alone: targets, accuracy and the report are made of them. Its checkpoints
serve a training that was cut off, its weights `ukd verify --recompute`, whoever wants to use the network, and
students that keep their teachers in memory and teachers that start from others: these find them, whatever is
to be kept, until they are trained.
What is dropped changes no id and no digest: the manifest goes on naming it and says that it is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS
from ukd_dist.config import Keep
from ukd_dist.experiment import Experiment, StudentMember
from ukd_dist.initial import parent_of
from ukd_dist.rundir import CHECKPOINTS, RunDirectory
from ukd_dist.stages.initial import awaits_weights
from ukd_dist.training.inference import WEIGHTS


@dataclass(frozen=True)
class Excess:
    """Something on disk that nothing needs.

    Attributes:
        what: What it is, as people call it.
        path: A file or a folder.
        bytes: Its size, of a folder the sum of its files'.
    """

    what: str
    path: Path
    bytes: int

    @classmethod
    def of(cls, what: str, path: Path) -> Excess:
        """What lies at `path`, measured."""
        return cls(what, path, _size(path))


def keep_of(
    run: RunDirectory, experiment: Experiment, teacher: str, students: Sequence[StudentMember]
) -> Keep:
    """What is to be kept of a teacher: its weights too while others wait for them.

    These are the students that keep it in memory (`targets: online`) and teachers that start from it.
    """
    waiting = any(
        teacher in student.teachers and not (run.student(student.id) / manifest.FILENAME).is_file()
        for student in students
    ) or any(
        teacher == parent_of(child.settings.init) and awaits_weights(run, child)
        for child in experiment.teachers
    )
    return "weights" if waiting and experiment.keep == "logits" else experiment.keep


def keep_only(directory: Path, keep: Keep) -> list[Excess]:
    """Drop what is not to be kept of a finished teacher; does nothing where it is not finished.

    May be called again at any time, and after a kill in the middle: then it drops what is left.

    Returns:
        What was dropped.

    Raises:
        DataError: As `drop_excess`.
    """
    if keep == "all":
        return []
    excess = teacher_excess(directory, keep)
    if excess:
        drop_excess(directory, excess)
    return excess


def teacher_excess(directory: Path, keep: Keep) -> list[Excess]:
    """What a finished teacher's directory holds beyond what is to be kept; nothing where it is not finished.

    Attempts are excess whatever is kept: what they made was committed, or nobody wants it.
    """
    if not (directory / manifest.FILENAME).is_file():
        return []
    unwanted = {"attempts": ATTEMPTS}
    if keep != "all":
        unwanted["checkpoints"] = CHECKPOINTS
    if keep == "logits":
        unwanted["weights"] = WEIGHTS
    paths = {what: directory / name for what, name in unwanted.items()}
    return [Excess.of(what, path) for what, path in paths.items() if path.exists()]


def drop_excess(directory: Path, excess: Sequence[Excess]) -> None:
    """Remove some of what a finished directory holds; files that its manifest names go last, and together.

    Raises:
        DataError: The manifest, or a file that stays of those that it names, is damaged. Then everything
            stays: what is damaged may have to be made again of it.
    """
    found = manifest.read(directory)
    assert found is not None, f"{directory} is not finished"
    names = [item.path.relative_to(directory).as_posix() for item in excess]
    named = [name for name in names if name in found.files]
    if named:
        manifest.verify(directory, found, [name for name in found.present if name not in named])
    for name in names:
        if name not in named:
            remove(directory / name)
    if named:
        manifest.drop_files(directory, found, named)


def remove(path: Path) -> None:
    """Remove a file or a folder; of a finished directory its manifest goes first."""
    if path.is_dir():
        manifest.drop(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
