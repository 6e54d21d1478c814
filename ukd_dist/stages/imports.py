"""Teachers from elsewhere: another system's logits become a teacher's directory, bound to the run's rows.

Rows are matched by key and columns by class name. What the file does not say is not made up: a row that it
lacks is an error, or with `partial` a row on which this teacher has no say. Left out: its accuracy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from ukd_dist import manifest
from ukd_dist.data.foreign import ForeignLogits, first_names, read_foreign
from ukd_dist.data.knowledge import CHECKS, UNKNOWN_VIEW, logits_name, write_logits
from ukd_dist.data.rowarray import Checks
from ukd_dist.data.shards import SAMPLES, Rows, ShardSet, SplitName, keys_digest
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import REJECTS, RunDirectory, coordinating, read_json_lines
from ukd_dist.settings import Name

IMPORTED = "imported"


@dataclass(frozen=True)
class Source:
    """What is imported.

    Attributes:
        path: The file.
        teacher: Id of the teacher that it becomes.
        trained_on: Training rows that its network was trained on: `all`, `none`, or a file of keys.
        partial: Whether it may lack samples.
    """

    path: Path
    teacher: str
    trained_on: str = "all"
    partial: bool = False


def import_logits(experiment: Experiment, source: Source, *, replace: bool = False) -> Path:
    """Make a teacher of another system's logits, unless the same file made it already.

    Args:
        experiment: Whose root and shards.
        source: What is imported.
        replace: Drop an earlier import under the same id.

    Returns:
        The teacher's directory.

    Raises:
        UsageError: The id cannot be given, the file's suffix names no format, or there are no shards.
        DataError: The file is damaged, or does not fit the run's samples or classes.
        MismatchError: Another file was imported under this id.
        BusyError: Another process holds the root.
    """
    _check_id(experiment, source.teacher)
    with coordinating(experiment) as run:
        shards = ShardSet(run.shards, check=False)
        directory = run.teacher(source.teacher)
        _check_free(directory)
        foreign = read_foreign(source.path)
        trained_on = _trained_on(source.trained_on, shards)
        settings = {
            IMPORTED: True,
            "sha256": manifest.sha256_of(source.path),
            "partial": source.partial,
            "trained_on": keys_digest(sorted(trained_on)),
        }
        inputs = {"shards": shards.digest}
        if not _is_finished(directory, settings, inputs, replace):
            placed = _place(run, source, foreign, shards)
            manifest.drop(directory)
            checks = {
                logits_name(split): _write(directory, split, shards.rows[split], trained_on, *said)
                for split, said in placed.items()
            }
            summary = {"source": source.path.name, CHECKS: checks}
            manifest.commit(directory, "teacher", settings, inputs, checks, summary)
    return directory


def read_imported(directory: Path, shards: str) -> manifest.Manifest | None:
    """The manifest of an imported teacher, or None where nothing was imported.

    Raises:
        MismatchError: It was imported into other shards, or is no imported teacher.
    """
    found = manifest.read(directory)
    if found is None:
        return None
    try:
        return manifest.finished(directory, "teacher", {**found.settings, IMPORTED: True}, {"shards": shards})
    except MismatchError as error:
        raise MismatchError(
            error.problem,
            expected=error.expected,
            action="import it again (`ukd logits import ... --replace`), or give it another id",
        ) from error


def _check_id(experiment: Experiment, teacher: str) -> None:
    try:
        TypeAdapter(Name).validate_python(teacher)
    except ValidationError:
        raise UsageError(
            f"'{teacher}' is no id", expected="letters, digits, '-' and '_'", action="give --as another"
        ) from None
    if teacher in {member.id for member in experiment.teachers}:
        raise _taken(teacher)


def _check_free(directory: Path) -> None:
    """Refuse a trained teacher's directory, even one whose training was only begun."""
    found = manifest.read(directory)
    begun = {path.name for path in directory.iterdir()} - {"logits"} if directory.is_dir() else set()
    if not found.settings.get(IMPORTED) if found else begun:
        raise _taken(directory.name)


def _taken(teacher: str) -> UsageError:
    return UsageError(
        f"'{teacher}' is a teacher that is trained here",
        expected="an id of its own for a teacher from elsewhere",
        action="give --as another",
    )


def _is_finished(directory: Path, settings: dict[str, Any], inputs: dict[str, str], replace: bool) -> bool:
    try:
        return manifest.finished(directory, "teacher", settings, inputs) is not None
    except MismatchError as error:
        if replace:
            return False
        raise MismatchError(
            f"teacher '{directory.name}' was imported otherwise: {error.problem}",
            expected="the same file, options and shards",
            action="give --as another id, or --replace",
        ) from error


def _trained_on(option: str, shards: ShardSet) -> set[str]:
    """Keys of the rows that the network was trained on; `all` are those of every split but the test's."""
    known = {key for split, rows in shards.rows.items() if split != "test" for key in rows.keys}
    if option in ("all", "none"):
        return known if option == "all" else set()
    try:
        lines = Path(option).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--trained-on {option} cannot be read ({error})",
            expected="all, none, or a file with a key a line",
            action="correct it",
        ) from error
    keys = {line.strip() for line in lines} - {""}
    strangers = sorted(keys - known)
    if strangers:
        raise DataError(
            f"{option} names {len(strangers)} keys of no training sample, first {first_names(strangers)}",
            expected=f"keys of the training samples in {shards.directory / SAMPLES}",
            action="correct them",
        )
    return keys


def _place(
    run: RunDirectory, source: Source, foreign: ForeignLogits, shards: ShardSet
) -> dict[SplitName, tuple[torch.Tensor, torch.Tensor]]:
    """Logits and covered rows of every split that the file speaks of, in the order of the run's rows."""
    _check_known(run, source.path, foreign, shards)
    logits_nc = foreign.logits_nc[:, _columns(source.path, foreign, shards.classes)]
    number = {key: n for n, key in enumerate(foreign.keys)}
    placed = {}
    for split, rows in shards.rows.items():
        numbers_n = torch.tensor([number.get(key, -1) for key in rows.keys])
        covers_n = numbers_n >= 0
        _check_covered(source, split, rows, covers_n)
        if covers_n.any():
            placed[split] = logits_nc[numbers_n.clamp(min=0)], covers_n
    return placed


def _write(
    directory: Path,
    split: SplitName,
    rows: Rows,
    trained_on: Collection[str],
    logits_nc: torch.Tensor,
    covers_n: torch.Tensor,
) -> Checks:
    return write_logits(
        directory / logits_name(split),
        logits_nc,
        rows,
        split,
        view=UNKNOWN_VIEW,
        trained_on=torch.tensor([key in trained_on for key in rows.keys]),
        covers=covers_n,
    )


def _check_known(run: RunDirectory, path: Path, foreign: ForeignLogits, shards: ShardSet) -> None:
    """Refuse samples that the run never had; one that sharding rejected is passed over."""
    known = {key for rows in shards.rows.values() for key in rows.keys}
    known |= {line["key"] for line in read_json_lines(run.shards / REJECTS, ["key"])}
    strangers = [key for key in foreign.keys if key not in known]
    if strangers:
        raise DataError(
            f"{path} names {len(strangers)} of {len(foreign.keys)} samples that the shards lack, "
            f"first {first_names(strangers)}",
            expected=f"keys as in {run.shards / SAMPLES}: {first_names(shards.rows['train'].keys)}, ...",
            action="correct the keys, or leave these samples out",
        )


def _check_covered(source: Source, split: SplitName, rows: Rows, covers_n: torch.Tensor) -> None:
    """Refuse a split of which some samples are missing, and a file without any training sample."""
    missing = [key for key, covered in zip(rows.keys, covers_n.tolist(), strict=True) if not covered]
    whole = len(missing) == len(rows)
    if not missing or (whole and split != "train") or (source.partial and not whole):
        return
    raise DataError(
        f"{source.path} lacks {len(missing)} of {len(rows)} {split} samples, first {first_names(missing)}",
        expected=f"logits of every {split} sample",
        action="add training samples: targets are made of them"
        if whole
        else "add them, or give --partial: the teacher then has no say on them",
    )


def _columns(path: Path, foreign: ForeignLogits, classes: tuple[str, ...]) -> list[int]:
    """The file's column of each of the run's classes."""
    found = foreign.classes
    if found is None and foreign.logits_nc.shape[1] == len(classes):
        return list(range(len(classes)))
    if found is None or len(found) != len(classes):
        raise DataError(
            f"{path} has {foreign.logits_nc.shape[1]} classes",
            expected=f"{len(classes)}: {', '.join(classes)}",
            action="give one column for each of these classes",
        )
    lacking = [name for name in classes if name not in found]
    if lacking:
        others = [name for name in found if name not in classes]
        raise DataError(
            f"{path} lacks {len(lacking)} classes, first {first_names(lacking)}, "
            f"and has others, first {first_names(others)}",
            expected=f"the classes {', '.join(classes)}",
            action="rename its classes",
        )
    return [found.index(name) for name in classes]
