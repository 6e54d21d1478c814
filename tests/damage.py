"""Damage to the bytes of a file: what Hypothesis draws of it, and a file that has it for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st


@st.composite
def flipped(draw: st.DrawFn, intact: bytes) -> bytes:
    """The bytes with any one of them changed to any other."""
    place, difference = draw(st.integers(0, len(intact) - 1)), draw(st.integers(1, 255))
    return intact[:place] + bytes([intact[place] ^ difference]) + intact[place + 1 :]


@st.composite
def shortened(draw: st.DrawFn, intact: bytes) -> bytes:
    """The bytes without some of them, from any place on: in the middle, at an end, or all."""
    begin = draw(st.integers(0, len(intact) - 1))
    return intact[:begin] + intact[draw(st.integers(begin + 1, len(intact))) :]


def damaged(intact: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one flipped or some missing."""
    return flipped(intact) | shortened(intact)


@contextmanager
def spoiled(path: Path, content: bytes) -> Iterator[None]:
    """The file with other content; afterwards it is as it was."""
    intact = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(intact)
