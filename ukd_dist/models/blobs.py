"""Caffe2's blobs: a pickled mapping of names to numpy arrays, read without pickle's power to run code.

Of everything that a pickle may name, only what an array consists of is known here, and none of it is numpy's
own: stand-ins take an array's shape, type and bytes. Anything else is refused before it is looked up.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALTERED = (  # what unpickling raises of bytes that are not as they were written
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # a length
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_KINDS = "fiub"  # numbers: no objects, strings or records


class _Type:
    """Stands for numpy.dtype."""

    def __init__(self, code: str, *_: object) -> None:
        self._code, self._order = code, ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = state[1]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numbers' type."""
        if self._code[:1] not in _KINDS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype('{self._code}')")
        return np.dtype(f"{self._order}{self._code}")


class _Array:
    """Stands for numpy.ndarray, and makes one of what was pickled."""

    array: Array

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        numbers = np.frombuffer(_bytes(content), kind.numpy)
        self.array = numbers.reshape(shape, order="F" if by_columns else "C")


def _scalar(kind: _Type, content: bytes | str) -> Any:
    return np.frombuffer(_bytes(content), kind.numpy)[0]


def _bytes(content: bytes | str) -> bytes:
    """What Python 2 called a string."""
    return content.encode("latin1") if isinstance(content, str) else content


def _encode(text: str, *_: object) -> bytes:
    """Stands for codecs.encode, by which Python 3 writes bytes for Python 2."""
    return text.encode("latin1")


_KNOWN = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}") from None

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("GLOBAL persistent object")


def read_blobs(path: Path) -> dict[str, Array]:
    """Every array of numbers of a Caffe2 checkpoint, by its blob's name.

    Raises:
        pickle.UnpicklingError: It names something else than arrays: `GLOBAL` and what.
        ALTERED: It is not as it was written.
    """
    with path.open("rb") as file:
        found = _Unpickler(file, encoding="latin1").load()
    blobs = found.get("blobs", found) if isinstance(found, Mapping) else found
    pairs: list[tuple[Any, Any]] = list(blobs.items()) if isinstance(blobs, Mapping) else []
    return {
        str(name): value.array
        for name, value in pairs
        if isinstance(value, _Array) and hasattr(value, "array")
    }
