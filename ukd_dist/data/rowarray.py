"""Arrays over rows inside a safetensors file, read in blocks of rows and checked as they are read.

A writer takes fast checksums (xxh3) of the header and of every tensor by blocks of rows; they lie in the
manifest of the file's directory, and a reader compares a block with its own while its bytes are in the cache.
Every byte is so read once, and a flipped one is found by name. sha256, which reads a file for its own sake,
is for import and `ukd verify`. What the arrays speak of is left to `knowledge`.

safetensors: the header's length (8 bytes), the header (JSON), the tensors; all numbers little-endian.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from xxhash import xxh3_64_digest, xxh3_64_hexdigest

from ukd_dist.errors import DataError
from ukd_dist.manifest import writing_atomically

ROWS_PER_CHECK = 1024
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BOOL": torch.bool}
_DIGEST_BYTES = 8
_LENGTH_BYTES, _MAX_HEADER_BYTES = 8, 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Checks:
    """xxh3 (64 bits) of every byte of a file, in hexadecimal.

    Attributes:
        header: Of the header and its length.
        tensors: Name of a tensor -> of its blocks of rows, 16 digits each, one after another.
        rows: Rows a block.
    """

    header: str
    tensors: dict[str, str]
    rows: int = ROWS_PER_CHECK

    @classmethod
    def of(cls, payload: bytes | mmap.mmap) -> Checks:
        """The checks of a file that holds `payload`."""
        content = memoryview(payload)
        size = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "little")
        arrays = _arrays(Path(), payload[:size], None)
        return cls(
            xxh3_64_hexdigest(content[:size]),
            {
                name: "".join(
                    xxh3_64_hexdigest(content[array.place(begin) : array.place(end)])
                    for begin, end in array.blocks(0, array.shape[0], ROWS_PER_CHECK)
                )
                for name, array in arrays.items()
            },
        )


@dataclass(frozen=True)
class RowArray:
    """An array over rows in a file; small, and travels to other processes.

    Attributes:
        path: The file.
        tensor: Name of the tensor.
        shape: Rows first.
        dtype: Of its elements.
        offset: Where its first row begins, bytes.
        digests: xxh3 of each block of rows, 8 bytes each; None: blocks are not checked.
        rows_per_check: Rows of such a block.
        trained_on: Of logits: bool `[rows]`, where the network was trained on the row.
        covers: Of logits: bool `[rows]`, where there is an opinion; None: everywhere.
        view: Of logits and targets: what of each video they speak of, `clip_config.Views.name`.
    """

    path: Path
    tensor: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    digests: bytes | None = None
    rows_per_check: int = ROWS_PER_CHECK
    trained_on: RowArray | None = None
    covers: RowArray | None = None
    view: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def read(
        self, begin: int = 0, end: int | None = None, *, buffer: bytearray | None = None
    ) -> torch.Tensor:
        """Rows `begin` to `end`, `[end - begin, ...]`, each block checked that they touch.

        Only their bytes are read, widened to whole blocks: multiples of `rows_per_check` read none twice.

        Args:
            begin: The first row.
            end: The row after the last; None: all that follow.
            buffer: Where the bytes go, lengthened if need be, for a reader of many arrays, since fresh memory
                costs as much as reading into it. The rows are good until it is used again.

        Raises:
            DataError: The file was cut off, or altered in these blocks; names the rows.
        """
        end = min(self.shape[0] if end is None else end, self.shape[0])
        step = self.rows_per_check if self.digests is not None else max(1, end - begin)
        first = begin - begin % step if self.digests is not None else begin
        blocks = list(self.blocks(first, end, step))
        origin, last = self.place(first), blocks[-1][1] if blocks else first
        size = self.place(last) - origin
        buffer = bytearray() if buffer is None else buffer
        buffer.extend(bytes(max(0, size - len(buffer))))
        view = memoryview(buffer)
        with self.path.open("rb") as file:
            file.seek(origin)
            for low, high in blocks:
                part = view[self.place(low) - origin : self.place(high) - origin]
                if file.readinto(part) != len(part) or self._differs(part, low):
                    raise _altered(self.path, f"rows {low} to {high - 1} of '{self.tensor}'")
        shape = (end - begin, *self.shape[1:])
        if not prod(shape):
            return torch.empty(shape, dtype=self.dtype)
        start = self.place(begin) - origin
        return torch.frombuffer(buffer, dtype=self.dtype, count=prod(shape), offset=start).reshape(shape)

    def blocks(self, begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
        """Whole blocks of `step` rows, from the one that begins at `begin` to the one with `end - 1`."""
        for low in range(begin, end, step):
            yield low, min(low + step, self.shape[0])

    def place(self, row: int) -> int:
        """Where a row begins in the file, bytes."""
        return self.offset + row * self.row_bytes

    def _differs(self, part: memoryview, row: int) -> bool:
        if self.digests is None:
            return False
        begin = row // self.rows_per_check * _DIGEST_BYTES
        return xxh3_64_digest(part) != self.digests[begin : begin + _DIGEST_BYTES]


@dataclass(frozen=True)
class Blocks:
    """A tensor that is never whole in memory: blocks of rows on the CPU, one after another."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[torch.Tensor]


def write_blocks(path: Path, tensors: Mapping[str, Blocks], metadata: Mapping[str, str]) -> Checks:
    """Write a file atomically, of the very bytes that safetensors' `save` gives of whole tensors.

    Args:
        path: The file.
        tensors: In safetensors' order: wider numbers first, then by name.
        metadata: Its entries.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    names, end = {dtype: name for name, dtype in DTYPES.items()}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
    entries = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    entries += b" " * (-len(entries) % _LENGTH_BYTES)
    with writing_atomically(path) as file:
        file.write(len(entries).to_bytes(_LENGTH_BYTES, "little") + entries)
        for tensor in tensors.values():
            for block in tensor.blocks:
                file.write(block.contiguous().numpy().data)
        assert file.tell() == _LENGTH_BYTES + len(entries) + end, f"{path}: blocks of another size"
    with path.open("rb") as written, mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return Checks.of(content)


def open_arrays(path: Path, checks: Checks | None) -> tuple[dict[str, str], dict[str, RowArray]]:
    """A file's metadata and its tensors by name; the header is checked, the tensors are when they are read.

    Args:
        path: The file.
        checks: What its manifest says of it; None: nothing is checked.

    Raises:
        DataError: The header was altered, or a tensor's numbers are of another kind.
        SafetensorError: The file is no safetensors, or cut off.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        length = file.read(_LENGTH_BYTES)
        header = length + file.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES))
    if checks is not None and xxh3_64_hexdigest(header) != checks.header:
        raise _altered(path, "its header")
    with safe_open(path, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    return metadata, _arrays(path, header, checks)


def _arrays(path: Path, header: bytes, checks: Checks | None) -> dict[str, RowArray]:
    entries = json.loads(header[_LENGTH_BYTES:])
    entries.pop("__metadata__", None)
    arrays = {}
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise DataError(
                f"{path}: '{name}' holds {entry['dtype']}",
                expected=f"one of {', '.join(DTYPES)}",
                action="import it with `ukd logits import`",
            )
        arrays[name] = RowArray(
            path,
            name,
            tuple(entry["shape"]),
            DTYPES[entry["dtype"]],
            len(header) + entry["data_offsets"][0],
            bytes.fromhex(checks.tensors[name]) if checks else None,
            checks.rows if checks else ROWS_PER_CHECK,
        )
    return arrays


def _altered(path: Path, where: str) -> DataError:
    return DataError(
        f"{path} was altered in {where}",
        expected="the bytes whose checksums its manifest holds",
        action="remove its member to make it again",
    )
