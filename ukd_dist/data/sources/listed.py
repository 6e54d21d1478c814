"""`source: csv`: lists as CSV with a header, UCF101's official lists, and HMDB51's, a file a class."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path, PurePosixPath
from typing import Literal

from ukd_dist.data.sources.lists import (
    NUMBER,
    VIDEO_SUFFIXES,
    Row,
    empty_list,
    is_number,
    lines_of,
    read_text,
    rows_of_lines,
)
from ukd_dist.data.sources.naming import path_group, path_key
from ukd_dist.data.sources.source import Source
from ukd_dist.data.sources.tables import (
    ClassTable,
    read_class_table,
    table_beside,
    table_of_folders,
    table_of_labels,
)
from ukd_dist.data.sources.videos import Naming, source_of_rows, the_split
from ukd_dist.data_config import Data
from ukd_dist.errors import DataError, UsageError

Format = Literal["csv", "ucf101", "hmdb51"]
Part = Literal["train", "test"]

_HEADER = "path,label and, if wanted, group"
_SUFFIX = "|".join(re.escape(suffix) for suffix in VIDEO_SUFFIXES)
_UCF101 = (
    re.compile(rf"(?P<path>[^\t]*[^\s](?i:{_SUFFIX}))(?: +(?P<label>{NUMBER}))?"),
    "'<Class>/<video>.avi <label>', or without the label",
)
_HMDB51_NAME = re.compile(r"(?P<class>.+)_test_split[0-9]+\.txt")
_HMDB51 = (re.compile(r"(?P<path>\S.*) +(?P<label>[012])"), "'<video>.avi 1' (training), 2 (test) or 0")
_HMDB51_PARTS: dict[Part, int] = {"train": 1, "test": 2}


def read_listed(data: Data) -> Source:
    """The source of lists in one of the three formats.

    Raises:
        UsageError: A list or the class table is missing, data.group_pattern contradicts a list, or
            data.validation or data.folds do not fit.
        DataError: As `source_of_rows`; a list has no known format, or leads out of data.videos.
    """
    split = the_split(data)
    format_, of_test = (format_of(path, data.format) for path in (split.train, split.test))
    if of_test != format_:
        raise DataError(
            f"{split.train} is a list in the format {format_}, {split.test} one in {of_test}",
            expected="one format",
            action="give both lists in one",
        )
    train, test = read_list(split.train, format_, "train"), read_list(split.test, format_, "test")
    rows = [*train, *test]
    _refuse_outside(rows)
    return source_of_rows(train, test, _table(data, format_, rows), data, _naming(data, rows))


def format_of(path: Path, wanted: Literal["auto", Format]) -> Format:
    """The format of a list: the wanted one, or what its content says.

    Raises:
        UsageError: It cannot be read.
        DataError: It is empty, or of no known format.
    """
    if wanted != "auto":
        return wanted
    if "*" in path.name:
        return "hmdb51"
    if path.is_dir():
        raise UsageError(
            f"list {path} is a folder",
            expected="a file, or of HMDB51 a pattern that names a file for each class",
            action=f"give, for example, {path}/*_test_split1.txt",
        )
    lines = lines_of(read_text(path, "list"))
    if not lines:
        raise empty_list(path)
    number, first = lines[0]
    if "path" in [name.strip() for name in first.split(",")]:
        return "csv"
    if _UCF101[0].fullmatch(first.rstrip(" ")):
        return "ucf101"
    raise DataError(
        f"{path}:{number}: '{first}' begins no list of a known format",
        expected=f"a header {_HEADER}, or UCF101's {_UCF101[1]}",
        action="correct the line, or say with data.format what it is",
    )


def read_list(path: Path, format_: Format, part: Part) -> list[Row]:
    """The rows of a list; of HMDB51, those of one part in all files that the path, a pattern, names.

    Raises:
        UsageError: There is no such file.
        DataError: There is no row, or a line has another form.
    """
    if format_ == "hmdb51":
        rows = _read_hmdb51(path, part)
    elif format_ == "csv":
        rows = _read_csv(path)
    else:
        rows = rows_of_lines(path, lines_of(read_text(path, "list")), *_UCF101)
    if not rows:
        raise empty_list(path)
    return rows


def _read_csv(path: Path) -> list[Row]:
    """A header of `path`, `label` and perhaps `group`, in any order, and a row a video."""
    reader = csv.reader(io.StringIO(read_text(path, "list")), strict=True, skipinitialspace=True)
    try:
        filled = (fields for fields in reader if len(fields) > 1 or "".join(fields).strip())
        columns = _checked_header(next(filled, []), f"{path}:{reader.line_num}")
        return [_csv_row(fields, columns, f"{path}:{reader.line_num}") for fields in filled]
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: {error}", expected="CSV", action="correct the line's quotes"
        ) from error


def _checked_header(header: list[str], where: str) -> list[str]:
    columns = [name.strip() for name in header]
    if sorted(columns) not in (["label", "path"], ["group", "label", "path"]):
        raise DataError(
            f"{where}: header '{','.join(header)}'",
            expected=_HEADER,
            action="correct it, or remove other columns",
        )
    return columns


def _csv_row(fields: list[str], columns: list[str], where: str) -> Row:
    if len(fields) != len(columns):
        raise DataError(
            f"{where}: {len(fields)} fields",
            expected=f"{len(columns)}, as the header {','.join(columns)}",
            action="correct the line; a field with a comma stands in double quotes",
        )
    named = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    for name in ("path", "label"):
        if not named[name]:
            raise DataError(f"{where}: the {name} is empty", expected="one", action="give it")
    label = named["label"]
    return Row(where, named["path"], int(label) if is_number(label) else label, named.get("group", ""))


def _read_hmdb51(path: Path, part: Part) -> list[Row]:
    """The part's rows of `<class>_test_split<n>.txt` for each class."""
    rows: list[Row] = []
    read: dict[str, Path] = {}
    for file in sorted(path.parent.glob(path.name)):
        found = _HMDB51_NAME.fullmatch(file.name)
        if found is None:
            raise DataError(
                f"{file} names no class", expected="<class>_test_split<number>.txt", action=f"correct {path}"
            )
        name = found["class"]
        if name in read:
            raise DataError(
                f"{read[name]} and {file} are both lists of class '{name}'",
                expected="the lists of one split",
                action="give a pattern that names one, for example *_test_split1.txt",
            )
        read[name] = file
        marked = rows_of_lines(file, lines_of(read_text(file, "list")), *_HMDB51)
        wanted = [row for row in marked if row.label == _HMDB51_PARTS[part]]
        if not wanted:
            raise DataError(
                f"{file} has no {part} video",
                expected=f"lines that end in {_HMDB51_PARTS[part]}",
                action="mark some, or leave the class out",
            )
        rows += [Row(row.where, f"{name}/{row.path}", name) for row in wanted]
    if not read:
        raise UsageError(
            f"list {path}: no file matches",
            expected="a pattern that names a file for each class",
            action="correct it, for example to .../*_test_split1.txt",
        )
    return rows


def _table(data: Data, format_: Format, rows: list[Row]) -> ClassTable:
    if data.classes:
        return read_class_table(data.classes)
    if format_ != "ucf101":
        return table_of_labels(rows)
    split = the_split(data)
    return table_beside([split.train, split.test], "classInd.txt") or table_of_folders(rows)


def _naming(data: Data, rows: list[Row]) -> Naming:
    told = next((row.where for row in rows if row.group), None)
    if told and data.group_pattern:
        raise UsageError(
            f"{told} tells the recording group, which data.group_pattern tells as well",
            expected="one of the two",
            action="remove data.group_pattern, or the column group",
        )

    def name(row: Row, class_name: str) -> tuple[str, str]:
        path = PurePosixPath(row.path)
        group = row.group if told else path_group(path, class_name, data.group_pattern)
        return path_key(path), group

    return name


def _refuse_outside(rows: list[Row]) -> None:
    for row in rows:
        path = PurePosixPath(row.path)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{row.where}: path {row.path} does not start from data.videos",
                expected="a path below that folder, without ..",
                action="shorten it, or set data.videos to a folder above",
            )
