"""Shards on a node's own disk: copied once from where they lie, checked on the way, read by its processes.

A copy's folder is named by the digest of the shard set, so that two sets never mix, and is itself a shards
directory, its manifest written last; beside each tar lie the checksums that it is read with. Removing copies
that nobody needs any more is left to the operator.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.data.places import Place, place_of
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.tarchecks import TarChecks, checks_bytes, checks_path, digest
from ukd_dist.errors import DataError, MismatchError, ResourceError, UsageError
from ukd_dist.manifest import FILENAME, FileRecord, Manifest
from ukd_dist.rundir import holder, write_holder

_FILES_AT_ONCE = 4  # a store answers one request slowly and several no slower
_log = logging.getLogger(__name__)


def open_to_decode(shards: Path, cache: Path | None) -> ShardSet:
    """A run's shards, as a process opens them that reads their tars.

    Args:
        shards: The run's shards directory.
        cache: The node's folder of copies; None: the tars are read where they lie, and checked first.

    Raises:
        UsageError: There are none, or they are in a store and there is no folder for a copy.
        DataError: A file is missing or altered.
        MismatchError: Where they were made, there are other shards now.
        ResourceError: They cannot be read or copied.
    """
    found = manifest.read(shards)
    if found is None:
        return ShardSet(shards)
    place = place_of(shards)
    if cache is not None:
        copy = _copy_of(place, found, cache)
        return ShardSet(copy, check=False, checks=TarChecks(copy))
    if place.folder is None:
        raise UsageError(
            f"{shards} are those of {place.name}, and there is no cluster.shard_cache",
            expected="a folder on every node's own disk with room for a copy of the shards",
            action="set cluster.shard_cache",
        )
    opened = ShardSet(place.folder)
    if opened.digest != found.digest():
        raise MismatchError(
            f"{place.name} holds other shards than when this run began",
            expected=f"those of {shards / FILENAME}",
            action="use another root, or run `ukd shard` with --replace",
        )
    return opened


def _copy_of(place: Place, found: Manifest, cache: Path) -> Path:
    """The folder of a whole copy, made or mended if need be; who copies is alone, and the others wait."""
    copy = cache / found.digest()
    if _is_whole(copy, found):
        return copy
    try:
        copy.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{copy.name}.lock", copy):
            if not _is_whole(copy, found):
                _make_whole(place, found, copy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(place, found, copy) from error
        raise
    return copy


def _is_whole(copy: Path, found: Manifest) -> bool:
    """Whether the copy was finished and nothing was cut off since; tars are checked as they are read."""
    try:
        finished = manifest.read(copy)
    except DataError:
        return False
    return finished is not None and finished.digest() == found.digest() and not _lacking(copy, found)


def _lacking(copy: Path, found: Manifest) -> list[str]:
    return [name for name, record in found.files.items() if not _is_there(copy / name, record)]


def _is_there(path: Path, record: FileRecord) -> bool:
    """Whether a file of the copy is as long as it should be; of all but a tar, whether it is unaltered."""
    try:
        if path.stat().st_size != record.bytes:
            return False
        if path.suffix == ".tar":
            return checks_path(path).stat().st_size == checks_bytes(record.bytes)
        return manifest.sha256_of(path) == record.sha256
    except FileNotFoundError:
        return False


def _make_whole(place: Place, found: Manifest, copy: Path) -> None:
    lacking = _lacking(copy, found)
    needed = sum(found.files[name].bytes for name in lacking)
    if lacking:
        _log.warning("copying %d files, %d bytes, from %s to %s", len(lacking), needed, place.name, copy)
    if needed > shutil.disk_usage(copy).free:
        raise _no_room(place, found, copy)

    def copy_one(name: str) -> None:
        _copy_file(place, found.files[name], copy / name)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        for _ in threads.map(copy_one, lacking):  # the first error ends it, and cancels what was not begun
            pass
    manifest.write(copy, found)


def _copy_file(place: Place, record: FileRecord, path: Path) -> None:
    """One file, under its name only when it is whole and on the disk; a tar after its checksums."""
    partial, checks = path.with_name(f".{path.name}.partial"), bytearray()
    try:
        with manifest.naming(path), partial.open("wb") as file:
            for block in place.blocks(path.name, record):
                file.write(block)
                checks += digest(block)
            file.flush()
            os.fsync(file.fileno())
        if path.suffix == ".tar":
            manifest.write_atomically(checks_path(path), bytes(checks))
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _no_room(place: Place, found: Manifest, copy: Path) -> ResourceError:
    needed = sum(found.files[name].bytes for name in _lacking(copy, found))
    return ResourceError(
        f"{copy.parent} has no room for a copy of the shards from {place.name}",
        expected=f"{needed} bytes free",
        action="remove copies of other shards there, or set another cluster.shard_cache",
    )


@contextmanager
def _alone(lock: Path, copy: Path) -> Iterator[None]:
    """Hold the kernel's lock (flock), which a killed process does not keep."""
    with lock.open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("waiting for %s, which copies the shards to %s", holder(file), copy)
            fcntl.flock(file, fcntl.LOCK_EX)
        write_holder(file)
        yield
