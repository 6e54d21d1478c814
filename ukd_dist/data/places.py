"""Where finished shards lie: a folder, or a prefix of an S3-compatible store; read file by file and checked.

A run directory whose shards were made elsewhere holds their manifest, table and indexes, and in `place.json`
where the tars are. Of a store's address, region and credentials this module knows nothing but the standard
environment (AWS_ENDPOINT_URL, AWS_REGION and what else Arrow's client reads). Writing to a store is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from ukd_dist import manifest
from ukd_dist.data.tarchecks import BLOCK_BYTES
from ukd_dist.errors import DataError, ResourceError, UsageError
from ukd_dist.manifest import FILENAME, FileRecord, Manifest

_PLACE = "place.json"
_SCHEME = "s3://"
_CONNECT_SECONDS, _SILENCE_SECONDS, _TRIES = 5, 10, 3
_BYTES_PER_REQUEST = 16 * BLOCK_BYTES
_SILENT = "a store that answers", "check AWS_ENDPOINT_URL, AWS_REGION and the network, and run again"
_REFUSED = "leave to read it", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may read"
_UNREADABLE = "a file that can be read", "check it and run again"
# Words of Arrow's client -> what was expected, and what to do.
_ANSWERS = {
    "NETWORK_CONNECTION": _SILENT,
    "ACCESS_DENIED": _REFUSED,
    "INVALID_ACCESS_KEY_ID": _REFUSED,
    "SIGNATURE": _REFUSED,
}


@dataclass(frozen=True)
class Place:
    """A place of finished shards.

    Attributes:
        name: `s3://bucket/prefix`, or a folder's absolute path.
    """

    name: str

    @property
    def folder(self) -> Path | None:
        """The folder, or None in a store."""
        return None if self.name.startswith(_SCHEME) else Path(self.name)

    def manifest(self) -> Manifest:
        """The manifest of the shards.

        Raises:
            UsageError: There are no finished shards.
            DataError: The manifest is damaged.
            ResourceError: The place cannot be read.
        """
        try:
            with self._reading(FILENAME) as file:
                payload = file.read()
        except DataError as error:
            raise UsageError(
                f"{self.name} holds no finished shards",
                expected=f"a {FILENAME} there, which comes last",
                action="correct data.shards, or bring whole shards there",
            ) from error
        found = manifest.parse(payload, f"{self.name}/{FILENAME}", self._remedy)
        strange = [name for name in found.files if Path(name).name != name or name.startswith(".")]
        if found.kind != "shards" or strange:
            raise UsageError(
                f"{self.name} holds {f'a file {strange[0]}' if strange else f'a finished {found.kind}'}",
                expected="shards, all of them in one folder",
                action="correct data.shards",
            )
        return found

    def blocks(self, name: str, record: FileRecord) -> Iterator[bytes]:
        """A file's bytes, a MiB at a time; they are its own only when the last was taken without an error.

        Raises:
            DataError: The file is missing, cut off, too long or altered.
            ResourceError: It cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        with self._reading(name) as file:
            while size <= record.bytes and (block := file.read(BLOCK_BYTES)):
                digest.update(block)
                size += len(block)
                yield block
        if size != record.bytes:
            held = f"more than {record.bytes}" if size > record.bytes else str(size)
            raise DataError(
                f"{self.name}/{name} holds {held} bytes",
                expected=f"{record.bytes} by its manifest",
                action=self._remedy,
            )
        if digest.hexdigest() != record.sha256:
            raise DataError(
                f"{self.name}/{name} was altered",
                expected=f"sha256 {record.sha256[:12]}... by its manifest",
                action=self._remedy,
            )

    def check(self, name: str, record: FileRecord) -> None:
        """Read a file for the sake of its sha256.

        Raises:
            DataError: As `blocks`.
            ResourceError: As `blocks`.
        """
        for _ in self.blocks(name, record):
            pass

    @contextmanager
    def _reading(self, name: str) -> Iterator[BinaryIO]:
        try:
            with self._open(name) as file:
                yield file
        except FileNotFoundError as error:
            raise DataError(
                f"{self.name}/{name} is missing", expected="every file of the manifest", action=self._remedy
            ) from error
        except OSError as error:
            raise _refusal(f"{self.name}/{name}", error) from error

    def _open(self, name: str) -> BinaryIO:
        if self.folder is not None:
            return (self.folder / name).open("rb")
        path = f"{self.name.removeprefix(_SCHEME)}/{name}"
        stream: BinaryIO = self._store.open_input_stream(
            path, compression=None, buffer_size=_BYTES_PER_REQUEST
        )
        return stream

    @cached_property
    def _store(self) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return S3FileSystem(
            endpoint_override=endpoint,
            region=region or ("us-east-1" if endpoint else None),
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_SILENCE_SECONDS,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        )

    @property
    def _remedy(self) -> str:
        if self.folder is None:
            return "bring the shards there again, the manifest last"
        return f"remove {self.name} to make it again, or bring the shards there again"


def place_of(shards: Path) -> Place:
    """Where the tars of a run's shards directory are.

    Raises:
        DataError: What it says of that is damaged.
    """
    path = shards / _PLACE
    try:
        return Place(str(json.loads(path.read_bytes())["shards"]))
    except FileNotFoundError:
        return Place(str(shards))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected="where the tars of these shards are",
            action=f"remove {shards} and run `ukd shard`",
        ) from error


def write_place(shards: Path, place: Place) -> None:
    """Say in a run's shards directory where their tars are."""
    manifest.write_atomically(shards / _PLACE, json.dumps({"shards": place.name}).encode())


def _refusal(what: str, error: OSError) -> ResourceError:
    said = " ".join(str(error.strerror or error).split())
    expected, action = next((answer for word, answer in _ANSWERS.items() if word in said), _UNREADABLE)
    return ResourceError(f"{what}: {said}", expected=expected, action=action)
