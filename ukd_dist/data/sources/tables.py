"""Which label is which class: tables beside the lists, or what the lists themselves tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ukd_dist.data.sources.lists import Row, is_number, lines_of, read_text
from ukd_dist.errors import DataError, UsageError

_SHOWN = 8


@dataclass(frozen=True)
class ClassTable:
    """The classes, numbered in the order of their labels.

    Attributes:
        classes: Names by index.
        listed: Labels by index, as lists give them: numbers, or the names themselves.
    """

    classes: tuple[str, ...]
    listed: tuple[int | str, ...]

    def indexes(self, rows: Sequence[Row]) -> list[int]:
        """The class index of each row, whose label is a listed one or a class's name.

        Raises:
            DataError: A label is no class of the table.
        """
        index = {label: i for i, label in (*enumerate(self.classes), *enumerate(self.listed))}
        for row in rows:
            if row.label not in index:
                raise self._unknown(row)
        return [index[row.label] for row in rows]

    def _unknown(self, row: Row) -> DataError:
        if isinstance(row.label, int):
            what, known = f"label {row.label}", str([*self.listed])
        else:
            more = ", ..." if len(self.classes) > _SHOWN else ""
            what, known = f"class '{row.label}'", ", ".join(self.classes[:_SHOWN]) + more
        return DataError(
            f"{row.where}: {what} is no class of the class table",
            expected=f"one of {known}",
            action="correct the label, or add its class to the table",
        )


def read_class_table(path: Path) -> ClassTable:
    """A table of numbers and classes: ARID's `label<TAB>class`, or `label class` as UCF101's classInd.txt.

    Labels need not start at 0: classes are numbered in their order.

    Raises:
        UsageError: There is no such file.
        DataError: A line is none, a label or class is given twice, or there are fewer than two.
    """
    names: dict[int, str] = {}
    for number, line in lines_of(read_text(path, "class table")):
        label, *name = line.split(maxsplit=1)
        if line[0].isspace() or not is_number(label) or not name:
            raise DataError(
                f"{path}:{number}: '{line}'", expected="label<TAB>class", action="correct the line"
            )
        _refuse_second(f"label {int(label)}", int(label) in names, f"{path}:{number}")
        _refuse_second(f"class '{name[0].strip()}'", name[0].strip() in names.values(), f"{path}:{number}")
        names[int(label)] = name[0].strip()
    labels = sorted(names)
    return two_classes(ClassTable(tuple(names[label] for label in labels), tuple(labels)), str(path))


def table_beside(lists: Sequence[Path], *names: str) -> ClassTable | None:
    """The class table in the folder of one of the lists, or None.

    Args:
        lists: The first whose folder has one counts.
        names: What its file may be called, the most usual name first; `*` stands for anything.

    Raises:
        UsageError: Several files of one folder could be it.
        DataError: It is no class table.
    """
    for folder in dict.fromkeys(path.parent for path in lists):
        for name in names:
            found = sorted(folder.glob(name))
            if len(found) > 1:
                raise UsageError(
                    f"{folder} holds {len(found)} class tables: {', '.join(p.name for p in found)}",
                    expected="one",
                    action="say with data.classes which",
                )
            if found:
                return read_class_table(found[0])
    return None


def table_of_folders(rows: Sequence[Row]) -> ClassTable:
    """The table that lists without one tell: of each label, the folder that its videos lie in.

    Rows whose label is a class's name already are left to `ClassTable.indexes`; where all are, the names are
    the table.

    Raises:
        DataError: A label's videos lie in several folders or in none, or a folder's have several labels.
    """
    numbered = [(row, row.label) for row in rows if isinstance(row.label, int)]
    if not numbered:
        return table_of_labels(rows)
    of_label: dict[int, Row] = {}
    of_folder: dict[str, Row] = {}
    for row, label in numbered:
        if not _folder(row):
            raise DataError(
                f"{row.where}: '{row.path}' lies in no folder, and no class table names label {label}",
                expected="<Class>/<video>, or a class table",
                action="give data.classes",
            )
        for other in (of_label.setdefault(label, row), of_folder.setdefault(_folder(row), row)):
            if (other.label, _folder(other)) != (label, _folder(row)):
                raise DataError(
                    f"{row.where}: label {label} in folder '{_folder(row)}', but {other.label} in "
                    f"'{_folder(other)}' at {other.where}, and no class table says which class is which",
                    expected="one folder a label, or a class table",
                    action="correct the label, or give data.classes",
                )
    labels = sorted(of_label)
    names = tuple(_folder(of_label[label]) for label in labels)
    return two_classes(ClassTable(names, tuple(labels)), "the lists")


def table_of_labels(rows: Sequence[Row]) -> ClassTable:
    """The table of lists whose labels are names, in the names' order, or are numbers that go unnamed.

    Raises:
        DataError: Some labels are numbers and some are names.
    """
    numbers = [row.label for row in rows if isinstance(row.label, int)]
    names = [row.label for row in rows if isinstance(row.label, str)]
    if numbers and names:
        one, other = (next(row for row in rows if row.label == labels[0]) for labels in (numbers, names))
        raise DataError(
            f"label {one.label} ({one.where}) is a number, '{other.label}' ({other.where}) a name, and no "
            "class table says which class is which",
            expected="numbers only, names only, or a class table",
            action="correct the labels, or give data.classes",
        )
    listed: tuple[int | str, ...] = tuple(sorted({*numbers})) if numbers else tuple(sorted({*names}))
    return two_classes(ClassTable(tuple(str(label) for label in listed), listed), "the lists")


def two_classes(table: ClassTable, where: str) -> ClassTable:
    """The table itself.

    Raises:
        DataError: It has fewer than two classes.
    """
    if len(table.classes) < 2:
        raise DataError(
            f"{where}: {len(table.classes)} class{'es' * (not table.classes)}",
            expected="at least 2",
            action="add the missing ones",
        )
    return table


def _folder(row: Row) -> str:
    return PurePosixPath(row.path).parent.name


def _refuse_second(what: str, given: bool, where: str) -> None:
    if given:
        raise DataError(
            f"{where}: {what} is given twice", expected="each once", action="remove one of the two"
        )
