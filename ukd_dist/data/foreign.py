"""Other systems' logits: a key and one number a class for each sample, in the formats that people have.

Every format is read as data alone: nothing is unpickled. What a file can tell by itself is checked here;
whether it fits a run's samples and classes is for who imports it.

| suffix | holds |
|---|---|
| .npz | arrays `keys` (text, `[rows]`), `logits` (`[rows, classes]`) and, if wanted, `classes` (text) |
| .safetensors | tensor `logits`; metadata `keys` and, if wanted, `classes`, JSON lists of text |
| .csv | a header `key,<class>,...` and a line a sample; classes by name, or by number from 0 |
| .parquet | a column `key`, and one list column `logits` or a column a class |
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ukd_dist.errors import DataError, UsageError

_SHOWN = 3
# Sums of float16 probabilities over hundreds of classes are this near to one; no real logits all are.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class ForeignLogits:
    """What a file of another system says.

    Attributes:
        keys: Of each row, all different.
        logits_nc: float32 or float16 `[rows, classes]`, finite.
        classes: Name of each column, all different, where the file names them.
    """

    keys: tuple[str, ...]
    logits_nc: torch.Tensor
    classes: tuple[str, ...] | None


_Table = tuple[Sequence[Any], torch.Tensor, Sequence[Any] | None]


def read_foreign(path: Path) -> ForeignLogits:
    """Read the logits of another system.

    Raises:
        UsageError: There is no such file, or its suffix names no format that is read.
        DataError: It is not what its suffix says, or its numbers cannot be logits; names the first keys.
    """
    if path.suffix not in _READERS:
        raise UsageError(
            f"{path} has suffix '{path.suffix}'",
            expected=f"one of {', '.join(_READERS)}",
            action="write the logits in one of these formats",
        )
    if not path.is_file():
        raise UsageError(
            f"{path} is no file", expected="other systems' logits", action="give the path of a file"
        )
    holds, read = _READERS[path.suffix]
    try:
        keys, logits_nc, classes = read(path)
        _check_shape(keys, logits_nc, classes)
    except (
        ValueError,
        KeyError,
        EOFError,
        SafetensorError,
        csv.Error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"{path} cannot be read ({error})", expected=holds, action="write it again in this form"
        ) from error
    foreign = ForeignLogits(
        tuple(keys),
        logits_nc if logits_nc.dtype == torch.float16 else logits_nc.float(),
        tuple(classes) if classes is not None else None,
    )
    _check_numbers(path, foreign)
    return foreign


def first_names(names: Collection[str]) -> str:
    """The first few names for a message, in quotes."""
    return ", ".join(f"'{name}'" for name in list(names)[:_SHOWN])


def read_npz(path: Path) -> _Table:
    """Arrays `keys`, `logits` and perhaps `classes`."""
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array")
    with opened as file:
        classes = _text(file["classes"]) if "classes" in file else None
        return _text(file["keys"]), torch.from_numpy(file["logits"]), classes


def read_safetensors(path: Path) -> _Table:
    """Tensor `logits`; metadata `keys` and perhaps `classes`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "keys" not in metadata:
            raise ValueError("its metadata has no 'keys'")
        classes = json.loads(metadata["classes"]) if "classes" in metadata else None
        return json.loads(metadata["keys"]), file.get_tensor("logits"), classes


def read_csv(path: Path) -> _Table:
    """A header, and a line a sample."""
    keys, numbers = [], array("d")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        first, *classes = next(lines, [""])
        if first != "key":
            raise ValueError(f"line 1 begins with '{first}'")
        for line in filter(None, lines):
            if len(line) != 1 + len(classes):
                raise ValueError(f"line {lines.line_num} holds {len(line)} values, line 1 {1 + len(classes)}")
            keys.append(line[0])
            try:
                numbers.extend(map(float, line[1:]))
            except ValueError as error:
                raise ValueError(f"line {lines.line_num}: {error}") from None
    values = torch.from_numpy(np.frombuffer(numbers, np.float64).copy())
    return keys, values.reshape(len(keys), len(classes)), _named(classes)


def read_parquet(path: Path) -> _Table:
    """Column `key`, and `logits` or a column a class."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        keys = table.column("key").to_pylist()
        table = table.drop_columns("key")
        if any(column.null_count for column in table.columns):
            raise ValueError("it has empty cells")
        if table.column_names != ["logits"]:
            columns = [column.cast(pyarrow.float64()).to_numpy() for column in table.columns]
            return keys, torch.from_numpy(np.stack(columns, axis=1)), _named(table.column_names)
        lengths = pyarrow.compute.list_value_length(table.column("logits")).unique().to_pylist()
        if len(lengths) != 1:
            raise ValueError(f"its lists hold {sorted(lengths)} numbers")
        numbers = pyarrow.compute.list_flatten(table.column("logits")).to_numpy()
        return keys, torch.tensor(numbers).reshape(len(keys), lengths[0]), None
    except (pyarrow.ArrowException, TypeError) as error:
        raise ValueError(str(error)) from error


_READERS: dict[str, tuple[str, Callable[[Path], _Table]]] = {
    ".npz": ("arrays 'keys' (text), 'logits' [rows, classes] and, if wanted, 'classes'", read_npz),
    ".safetensors": ("tensor 'logits' [rows, classes], metadata 'keys': a JSON list", read_safetensors),
    ".csv": ("a header 'key,<class>,...', and a key and a number for each class a line", read_csv),
    ".parquet": ("a column 'key', and a list column 'logits' or a column a class", read_parquet),
}


def _text(names: Any) -> list[str]:
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"keys or classes are {names.dtype} {list(names.shape)}, not a row of text")
    return [str(name) for name in names]


def _named(columns: Sequence[str]) -> Sequence[str] | None:
    """The classes that column names tell, or None where they only count from 0."""
    return None if list(columns) == [str(n) for n in range(len(columns))] else columns


def _check_shape(keys: Any, logits_nc: torch.Tensor, classes: Any) -> None:
    for what, names in (("keys", keys), ("classes", classes)):
        if names is not None and not (
            isinstance(names, list) and all(isinstance(n, str) and n for n in names)
        ):
            raise ValueError(f"{what} are not all text")
        twice = [name for name, count in Counter(names or []).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} {what} come twice, first {first_names(twice)}")
    if logits_nc.ndim != 2 or not logits_nc.is_floating_point():
        raise ValueError(f"logits are {str(logits_nc.dtype).removeprefix('torch.')} {list(logits_nc.shape)}")
    if len(keys) != len(logits_nc) or not len(keys):
        raise ValueError(f"{len(keys)} keys for {len(logits_nc)} rows of logits")
    if classes is not None and len(classes) != logits_nc.shape[1]:
        raise ValueError(f"{len(classes)} classes for {logits_nc.shape[1]} columns")


def _check_numbers(path: Path, foreign: ForeignLogits) -> None:
    finite_n = torch.isfinite(foreign.logits_nc).all(dim=1)
    if not finite_n.all():
        bad = [key for key, finite in zip(foreign.keys, finite_n.tolist(), strict=True) if not finite]
        raise DataError(
            f"{path}: logits of {len(bad)} samples are not finite, first {first_names(bad)}",
            expected="finite numbers",
            action="mend these samples, or leave them out and import with --partial",
        )
    sums_n = foreign.logits_nc.sum(dim=1, dtype=torch.float64)
    if (foreign.logits_nc >= 0).all() and ((sums_n - 1).abs() < _SUM_TOLERANCE).all():
        raise DataError(
            f"{path} holds probabilities: every row sums to one",
            expected="logits, as they are before the softmax",
            action="give logits; where there are none, the probabilities' logarithms",
        )
