"""Running sums of blocks of rows as files, beside the target that they were finished into.

A reduction that was cut off goes on with the blocks that are there, and a target of a teacher more or less
starts from the sums of another: it costs one teacher. A file's name carries the sha256 of its content, so it
is known to be whole before anything else vouches for it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ukd_dist import manifest
from ukd_dist.data.knowledge import METADATA
from ukd_dist.errors import DataError

SUMS = "sums"  # the folder's name inside a target's directory
_DIGITS = 16


def write_sums(directory: Path, begin: int, tensors: dict[str, torch.Tensor], work: str) -> Path:
    """Write the sums of the block that begins at a row.

    Args:
        directory: Where a target's sums lie.
        begin: Number of the block's first row.
        tensors: Named tensors, rows first.
        work: Digest of what was summed; `find_sums` asks for it.
    """
    entry = json.dumps({"begin": begin, "work": work}, sort_keys=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    payload = save(whole, metadata={METADATA: entry})
    path = named(directory, begin, payload)
    manifest.write_atomically(path, payload)
    return path


def find_sums(directory: Path, begin: int, work: str) -> Path | None:
    """The undamaged file of the block that begins at a row, if there is one that sums this work."""
    for path in sorted(directory.glob(f"{begin:09d}-*.safetensors")):
        payload = path.read_bytes()
        if is_whole(path, payload) and work_of(payload) == work:
            return path
    return None


def first_row(path: Path) -> int:
    """Number of the first row that a file of sums speaks of."""
    return int(path.name.partition("-")[0])


def read_sums(path: Path) -> dict[str, torch.Tensor]:
    """What `write_sums` wrote.

    Raises:
        DataError: The file is missing or was altered.
    """
    try:
        payload = path.read_bytes()
        if not is_whole(path, payload):
            raise ValueError("its content is not what its name says")
        tensors: dict[str, torch.Tensor] = load(payload)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected="the running sums of a block of rows",
            action=f"remove {path.parent.parent} to make its target again",
        ) from error
    return tensors


def drop_unnamed(target: Path) -> None:
    """Remove the sums beside a finished target that its manifest does not name: nothing starts from them.

    Beside a target that is not finished all stay: its reduction goes on from them if it is cut off.
    """
    finished = manifest.read(target)
    if finished is None:
        return
    for path in (target / SUMS).glob("*"):
        if f"{SUMS}/{path.name}" not in finished.files:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or it holds what is named
        (target / SUMS).rmdir()


def named(directory: Path, begin: int, payload: bytes) -> Path:
    """Where the file of a block lies that begins at a row: its name tells its content's sha256 too."""
    return directory / f"{begin:09d}-{_digest(payload)}.safetensors"


def is_whole(path: Path, payload: bytes) -> bool:
    """Whether a file's content is what its name says."""
    return path.stem.partition("-")[2] == _digest(payload)


def work_of(payload: bytes) -> str:
    """Which work the file of a block says that it belongs to."""
    size = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + size])
    return str(json.loads(header["__metadata__"][METADATA])["work"])


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:_DIGITS]
