"""Manifests: a stage's output directory is done when it holds a valid one.

A manifest records the resolved settings, the digests of the inputs, and bytes and sha256 of each file. It is
written last and atomically, so that a directory without it was cut off and is worked on again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ukd_dist.errors import DataError, MismatchError

SCHEMA = 1
FILENAME = "manifest.json"
_DROPPED = "dropped"  # in the summary: names of files that were removed since, as they are not to be kept


@dataclass(frozen=True)
class FileRecord:
    """One file of a finished directory."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished directory says of itself.

    Attributes:
        kind: Stage output: shards, teacher, target or student.
        settings: Resolved settings, JSON values.
        inputs: Name of each input -> its digest.
        files: Path inside the directory -> its record.
        summary: Figures of the work (counts, seconds), not part of what is compared.
    """

    kind: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileRecord] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def present(self) -> list[str]:
        """Names of the files that are to be there: all but those that `drop_files` removed since."""
        dropped = self.summary.get(_DROPPED, [])
        return [name for name in self.files if name not in dropped]

    def digest(self) -> str:
        """sha256 over the settings, inputs and files: what a later stage names as its input."""
        document = asdict(self)
        del document["summary"]
        return _sha256_of_document(document)


def commit(
    directory: Path,
    kind: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    files: Iterable[str],
    summary: dict[str, Any] | None = None,
) -> Manifest:
    """Write the manifest over files that are complete, which makes the directory finished."""
    records = {
        name: FileRecord((directory / name).stat().st_size, sha256_of(directory / name))
        for name in sorted(files)
    }
    manifest = Manifest(kind, settings, inputs, records, summary or {})
    write(directory, manifest)
    return manifest


def write(directory: Path, manifest: Manifest) -> None:
    """Write a manifest over files that are as it says, which makes the directory finished."""
    document = asdict(manifest)
    document["sha256"] = _sha256_of_document(document)
    write_atomically(directory / FILENAME, json.dumps(document, indent=1).encode())


def read(directory: Path) -> Manifest | None:
    """The directory's manifest, or None where it is not finished.

    Raises:
        DataError: There is a manifest, but it cannot be read.
    """
    path = directory / FILENAME
    try:
        return parse(path.read_bytes(), str(path), f"remove {directory} to make it again")
    except FileNotFoundError:
        return None


def parse(payload: bytes, where: str, remedy: str) -> Manifest:
    """A manifest from the bytes of its file.

    Args:
        payload: The bytes.
        where: Names the file in messages.
        remedy: What to do where it is damaged.

    Raises:
        DataError: It cannot be read.
    """
    try:
        document = json.loads(payload)
        if document["schema"] != SCHEMA:
            raise DataError(
                f"{where} has schema {document['schema']}",
                expected=f"schema {SCHEMA}",
                action="use the version of ukd-dist that wrote it, or another root",
            )
        if document.pop("sha256") != _sha256_of_document(document):
            raise ValueError("it does not match its own sha256")
        files = {name: FileRecord(**record) for name, record in document.pop("files").items()}
        return Manifest(files=files, **document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"manifest {where} is damaged ({error})",
            expected="a manifest as it was written",
            action=remedy,
        ) from error


def finished(directory: Path, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> Manifest | None:
    """The manifest of a directory that holds exactly this work, or None where it is still to do.

    Raises:
        MismatchError: The directory was finished from other settings or inputs; names the first field.
    """
    manifest = read(directory)
    if manifest is None:
        return None
    wanted = json.loads(json.dumps({"kind": kind, "settings": settings, "inputs": inputs}, default=str))
    found = {"kind": manifest.kind, "settings": manifest.settings, "inputs": manifest.inputs}
    difference = first_difference(found, wanted)
    if difference:
        name, was, now = difference
        raise MismatchError(
            f"{directory} was made with {name} = {was}",
            expected=f"{now}, as the experiment says now",
            action="use another root, or remove the directory (`--replace` does) to make it again",
        )
    return manifest


def first_difference(found: Any, wanted: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The dotted name and both values of the first field in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in found if k not in wanted)]:
            place = f"{name}.{key}" if name else key
            if key not in found or key not in wanted:
                return place, found.get(key, "nothing"), wanted.get(key, "nothing")
            inner = first_difference(found[key], wanted[key], place)
            if inner:
                return inner
        return None
    return None if found == wanted else (name, found, wanted)


def verify(directory: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Check bytes and sha256 of every file that is to be there, or of those in `names`.

    Raises:
        DataError: Names the first file that is missing, cut off or altered.
    """
    for name in manifest.present if names is None else names:
        record = manifest.files[name]
        path = directory / name
        try:
            found_bytes = path.stat().st_size
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing",
                expected=f"{record.bytes} bytes by its manifest",
                action=f"remove {directory} to make it again",
            ) from None
        if found_bytes != record.bytes:
            raise DataError(
                f"{path} holds {found_bytes} bytes",
                expected=f"{record.bytes} by its manifest",
                action=f"remove {directory} to make it again",
            )
        if sha256_of(path) != record.sha256:
            raise DataError(
                f"{path} was altered",
                expected=f"sha256 {record.sha256[:12]}... by its manifest",
                action=f"remove {directory} to make it again",
            )


def drop_files(directory: Path, manifest: Manifest, names: Iterable[str]) -> Manifest:
    """Remove some files of a finished directory, which stays finished and keeps its digest.

    The manifest goes on saying what they were, and that they are gone. It says so first: a kill leaves a file
    too many, never one that is missing.
    """
    names = list(names)
    dropped = sorted({*manifest.summary.get(_DROPPED, []), *names})
    assert manifest.files.keys() >= set(dropped), f"{directory} never held all of {dropped}"
    smaller = replace(manifest, summary={**manifest.summary, _DROPPED: dropped})
    write(directory, smaller)
    for name in names:
        (directory / name).unlink(missing_ok=True)
    return smaller


def drop(directory: Path) -> None:
    """Remove a directory, its manifest first: a kill must not leave it over files that are gone."""
    (directory / FILENAME).unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)


def _sha256_of_document(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError that names none: a write that finds no room does not know where it goes."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that a reader, or a run after a crash, sees all of it or none."""
    with writing_atomically(path) as file:
        file.write(payload)


@contextmanager
def writing_atomically(path: Path) -> Iterator[BinaryIO]:
    """As `write_atomically`, piece by piece: the file is there once the block is left without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with naming(path), partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
