"""What an attempt made becomes the member's, by the coordinator alone and with the manifest last.

A finished attempt holds a manifest in its own directory. Committing renames the files that it names, then the
manifest: a kill in between leaves the rest where the next coordinator finds it. Of several finished attempts
the one of the highest number is committed, so that no other's files get among those moved before a kill.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS, attempt_directory, attempt_numbers, reached
from ukd_dist.errors import DataError
from ukd_dist.manifest import FILENAME, Manifest
from ukd_dist.rundir import CHECKPOINTS


def commit(member: Path, number: int, digest: str) -> None:
    """Make a finished attempt's files the member's, then drop all attempts.

    Nothing is read again but sizes: the attempt computed the checksums as it wrote.

    Args:
        member: The member's directory.
        number: The attempt.
        digest: Of the manifest that it says it wrote.

    Raises:
        DataError: Its files are not what it says.
    """
    attempt = attempt_directory(member, number)
    made = manifest.read(attempt)
    if made is None or made.digest() != digest:
        raise DataError(
            f"{attempt} does not hold what attempt {number} says it made",
            expected="the same files on every node",
            action="mount the same shared file system on every node",
        )
    _commit(member, attempt, made)


def finish_interrupted(member: Path, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Commit the attempt that ended last, where the coordinator that it worked for did not come to it.

    Returns:
        Whether there was one.

    Raises:
        MismatchError: It made other work.
    """
    for number in reversed(attempt_numbers(member)):
        attempt = attempt_directory(member, number)
        made = manifest.finished(attempt, kind, settings, inputs)
        if made is not None:
            try:
                _commit(member, attempt, made)
            except DataError:  # it lost a file since: its checkpoints may be good
                (attempt / FILENAME).unlink()
                return False
            return True
    return False


def drop_attempts(member: Path) -> None:
    """Drop what attempts left of a member that is finished: after a kill, or by one that was cut off."""
    if (member / ATTEMPTS).is_dir():
        shutil.rmtree(member / ATTEMPTS, ignore_errors=True)  # one that was cut off may be writing still


def drop_older(member: Path, number: int) -> None:
    """Drop the attempts before one that holds their newest checkpoints; on shaky nodes there are many."""
    if reached(attempt_directory(member, number)):
        for older in attempt_numbers(member):
            if older < number:
                shutil.rmtree(attempt_directory(member, older), ignore_errors=True)


def _commit(member: Path, attempt: Path, made: Manifest) -> None:
    for name, file in made.files.items():
        _check_size(attempt / name if (attempt / name).exists() else member / name, file.bytes)
    for name in made.files:
        if (attempt / name).exists():
            (member / name).parent.mkdir(parents=True, exist_ok=True)
            (attempt / name).replace(member / name)
    if (attempt / CHECKPOINTS).is_dir():
        shutil.rmtree(member / CHECKPOINTS, ignore_errors=True)
        (attempt / CHECKPOINTS).replace(member / CHECKPOINTS)
    for directory in {member, *((member / name).parent for name in made.files)}:
        _sync(directory)
    (attempt / FILENAME).replace(member / FILENAME)
    _sync(member)
    drop_attempts(member)


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        raise DataError(
            f"{path} holds {found} bytes" if found is not None else f"{path} is missing",
            expected=f"{size} bytes, as the attempt wrote it",
            action="run again: it is made again",
        )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
