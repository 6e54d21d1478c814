"""`source: arid`: the lists of ARID v1.0, v1.1 and v1.5, each told by its content, and its class tables.

The training and the test list may be of different versions, with or without a class table: v1.5's test list
comes alone.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ukd_dist.data.sources.lists import NUMBER, Row, empty_list, lines_of, read_text, rows_of_lines
from ukd_dist.data.sources.naming import arid_group, file_key
from ukd_dist.data.sources.source import Source
from ukd_dist.data.sources.tables import ClassTable, read_class_table, table_beside, table_of_folders
from ukd_dist.data.sources.videos import source_of_rows, the_split
from ukd_dist.data_config import Data
from ukd_dist.errors import DataError

_V1_0 = (
    re.compile(rf"[^\t]*\t *(?P<label>{NUMBER}) *\t(?P<path>[^\t]*\S[^\t]*)"),
    "index<TAB>label<TAB>path",
)
_V1_1_HEADER = "VideoID,Video,ClassID"
_V1_1 = (re.compile(rf"[^,]*,(?P<path>[^,]*[^,\s][^,]*), *(?P<label>{NUMBER})"), _V1_1_HEADER)
_V1_5 = (re.compile(rf"(?P<path>.*[^\s0-9].*) (?P<label>{NUMBER})"), "path label")


def read_arid(data: Data) -> Source:
    """The source of ARID's lists.

    Raises:
        UsageError: A list or the class table is missing, or data.validation or data.folds do not fit.
        DataError: As `source_of_rows`; a list has no known format, or no table tells the classes.
    """
    split = the_split(data)
    train, test = read_arid_list(split.train), read_arid_list(split.test)
    return source_of_rows(train, test, _table(data, [*train, *test]), data, _name)


def read_arid_list(path: Path) -> list[Row]:
    """The rows of a list of ARID, whichever version's format it has.

    Raises:
        UsageError: It cannot be read.
        DataError: It is no text, empty, of no known format, or a line has another format than the first.
    """
    lines = lines_of(read_text(path, "list"))
    if not lines:
        raise empty_list(path)
    number, first = lines[0]
    if first.strip().lower() == _V1_1_HEADER.lower():
        if not lines[1:]:
            raise empty_list(path)
        return rows_of_lines(path, lines[1:], *_V1_1)
    if "\t" in first:
        return rows_of_lines(path, lines, *_V1_0)
    if _V1_5[0].fullmatch(first.rstrip(" ")):
        return rows_of_lines(path, lines, *_V1_5)
    raise DataError(
        f"{path}:{number}: '{first}' is no line of a list of ARID",
        expected=f"{_V1_0[1]} (v1.0), a header {_V1_1_HEADER} (v1.1) or '{_V1_5[1]}' (v1.5)",
        action="give a list in one of these formats, or set source: csv",
    )


def _table(data: Data, rows: list[Row]) -> ClassTable:
    if data.classes:
        return read_class_table(data.classes)
    split = the_split(data)
    beside = table_beside([split.train, split.test], "mapping_table.txt", "mapping_table*.txt")
    return beside or table_of_folders(rows)


def _name(row: Row, _class_name: str) -> tuple[str, str]:
    path = PurePosixPath(row.path)
    return file_key(path, row.where), arid_group(path.stem)
