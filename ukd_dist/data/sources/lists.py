"""A list's text as rows, and the files that rows name. What a line looks like is each format's to say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist.errors import DataError, UsageError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")
NUMBER = "[0-9]{1,9}"
_SWAPS = {".avi": ".mp4", ".mp4": ".avi"}
_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """A line of a list, as it stands.

    Attributes:
        where: The list's file and the number of the line.
        path: The video, from `data.videos`.
        label: The number of its class, or the class's name.
        group: Its recording group, where the list tells it.
    """

    where: str
    path: str
    label: int | str
    group: str = ""


def read_text(path: Path, what: str) -> str:
    r"""A file's text in UTF-8, without a byte order mark and with `\n` at each line's end.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        UsageError: It cannot be read.
        DataError: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{what} {path}: {error.strerror}", expected="a readable file", action="correct its path"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} {path} is not text ({error.reason})", expected="UTF-8", action="save it as UTF-8"
        ) from error


def is_number(label: str) -> bool:
    """Whether a label is a number, as far as a list may hold one."""
    return re.fullmatch(NUMBER, label) is not None


def lines_of(text: str) -> list[tuple[int, str]]:
    """The lines that hold anything, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def rows_of_lines(
    path: Path, lines: Sequence[tuple[int, str]], pattern: re.Pattern[str], form: str
) -> list[Row]:
    """The rows of lines of one form.

    Args:
        path: The list.
        lines: Its lines with their numbers.
        pattern: What matches a whole line: groups `path` and `label`; a line may have no label, if its class
            is its folder.
        form: The line's form, for messages.

    Raises:
        DataError: A line has another form.
    """
    rows = []
    for number, line in lines:
        found = pattern.fullmatch(line.rstrip(" "))
        if found is None:
            raise DataError(f"{path}:{number}: '{line}'", expected=form, action="correct the line")
        name, label = found["path"].strip(), found["label"]
        rows.append(Row(f"{path}:{number}", name, Path(name).parent.name if label is None else int(label)))
    return rows


def empty_list(path: Path) -> DataError:
    """The error for a list without a row."""
    return DataError(
        f"{path} lists no video", expected="one on each line", action="add videos, or give another list"
    )


def find_videos(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The file of each row: the listed one, or the same under the other of .avi and .mp4.

    Raises:
        DataError: Some are missing: how many, and the first of them.
    """
    found = [_find(folder / row.path) for row in rows]
    missing = [row for row, path in zip(rows, found, strict=True) if path is None]
    if missing:
        first = ", ".join(f"{row.path} ({row.where})" for row in missing[:_SHOWN])
        raise DataError(
            f"{len(missing)} of {len(rows)} listed videos are missing in {folder}, first {first}",
            expected="every listed video, .avi and .mp4 being taken for each other",
            action="correct data.videos or the list",
        )
    return [path for path in found if path is not None]


def _find(path: Path) -> Path | None:
    swap = _SWAPS.get(path.suffix.lower())
    candidates = [path, path.with_suffix(swap)] if swap else [path]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
