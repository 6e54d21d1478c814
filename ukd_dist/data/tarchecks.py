"""Checksums (xxh3) of every MiB of a tar, taken while it is copied and compared when it is first read.

A copy was held against its sha256 as it was written. To hold it against it again in every process that opens
it would cost a reading of all tars before the first step; so what a process reads is checked as it reads it,
each block once, and what it does not read costs nothing. `shard_cache` writes them.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_64_digest

from ukd_dist.errors import DataError

BLOCK_BYTES = 2**20
_DIGEST_BYTES = 8


def checks_path(tar: Path) -> Path:
    """Where a tar's checksums lie."""
    return tar.with_suffix(".xxh3")


def checks_bytes(tar_bytes: int) -> int:
    """Bytes of the checksums of a tar of so many bytes."""
    return -(-tar_bytes // BLOCK_BYTES) * _DIGEST_BYTES


def digest(block: bytes | memoryview) -> bytes:
    """A block's checksum."""
    return xxh3_64_digest(block)


class TarChecks:
    """Compares the tars of a directory with the checksums beside them, each block once.

    Args:
        directory: Holds tars and their checksums.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._digests: dict[str, bytes] = {}
        self._sound: dict[str, set[int]] = {}

    def check(self, tar: str, content: mmap.mmap, offset: int, size: int) -> None:
        """Compare the blocks that `size` bytes from `offset` on touch.

        Raises:
            DataError: One was altered. The tar is gone then: whoever opens the copy next makes it again.
        """
        path = self._directory / tar
        if tar not in self._digests:
            self._digests[tar] = checks_path(path).read_bytes()
        sound = self._sound.setdefault(tar, set())
        for number in range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)):
            if number in sound:
                continue
            begin = number * BLOCK_BYTES
            wanted = self._digests[tar][number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
            with memoryview(content) as whole, whole[begin : begin + BLOCK_BYTES] as block:
                found = digest(block)
            if found != wanted:
                with suppress(OSError):
                    path.unlink()
                raise DataError(
                    f"{path} was altered in bytes {begin} to {min(begin + BLOCK_BYTES, len(content)) - 1}",
                    expected="the copy that was checked when it was made",
                    action="run again, it is copied again; where it recurs, check the node's disk and memory",
                )
            sound.add(number)
