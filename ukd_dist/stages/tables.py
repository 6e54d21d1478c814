"""Tables for people and their spreadsheets: CSV under `report/`, written only where something changed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ukd_dist import manifest


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bool:
    """Write `columns` of each row as CSV with a header; None is an empty cell.

    Returns:
        Whether the file changed.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_changed(path, text.getvalue().encode())


def write_changed(path: Path, payload: bytes) -> bool:
    """Write a file atomically unless it holds exactly this; whether it was written."""
    if path.is_file() and path.read_bytes() == payload:
        return False
    manifest.write_atomically(path, payload)
    return True
