"""Lists of videos: ARID's layout and list format in, one checked table of videos out.

Everything that is missing or wrong in the lists is said here, before any video is decoded. Damage inside the
videos is `video.probe`'s to find.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ukd_dist.config import Data, Validation
from ukd_dist.data.folds import assign_folds
from ukd_dist.data.holdout import choose_validation
from ukd_dist.errors import DataError, UsageError

MAX_KEY_BYTES = 80  # a USTAR member name holds 100 bytes, the component's extension included
# DALI's index separates its words by spaces, and GNU tar lists a backslash as two.
_KEY = re.compile(rf"[!-\[\]-~]{{1,{MAX_KEY_BYTES}}}")
_SWAPS = {".avi": ".mp4", ".mp4": ".avi"}


@dataclass(frozen=True)
class ListedVideo:
    """A video that a list names.

    Attributes:
        key: Stable name: the file's name without its extension.
        label: Class index, 0..C-1.
        group: Recording group of ARID's `<Class>_<group>_<clip>` names, or empty.
        path: The file.
    """

    key: str
    label: int
    group: str
    path: Path


@dataclass(frozen=True)
class Source:
    """The videos of one split of the data.

    Attributes:
        classes: Class names by index.
        listed_labels: For each class, the label that the lists give it.
        train: Training videos, in list order, less those of `validation`.
        test: Test videos, in list order.
        validation: What data.validation holds out of the training list, in its order.
    """

    classes: tuple[str, ...]
    listed_labels: tuple[int, ...]
    train: tuple[ListedVideo, ...]
    test: tuple[ListedVideo, ...]
    validation: tuple[ListedVideo, ...] = ()

    def digest(self) -> str:
        """sha256 over labels, names and file sizes: another video of the same size goes unnoticed."""
        lines = [
            f"{split}\t{v.key}\t{v.label}\t{v.path.stat().st_size}"
            for split in ("train", "validation", "test")
            for v in getattr(self, split)
        ]
        return hashlib.sha256("\n".join([*self.classes, *lines]).encode()).hexdigest()


def read_source(data: Data) -> Source:
    """Read the split's lists, find every video, and hold out those of the validation split.

    Raises:
        UsageError: The folder, a list or the class table is missing, or data.validation or data.folds
            do not fit the list.
        DataError: A line cannot be read, names a missing video or an unmapped class, a key is unusable or
            listed twice, or a class has no training video.
    """
    assert data.videos is not None, "a source of its own has been made by now"
    ((_, split),) = data.splits.items()
    if not data.videos.is_dir():
        raise UsageError(
            f"data.videos {data.videos} is no folder",
            expected="the folder with ARID's classes",
            action="correct data.videos",
        )
    names = read_class_table(data.classes or split.train.parent / "mapping_table.txt")
    index = {label: i for i, label in enumerate(sorted(names))}
    train = _read_list(split.train, data.videos, index)
    test = _read_list(split.test, data.videos, index)
    _refuse_twins([*train, *test], split.train, split.test)
    classes = tuple(names[label] for label in sorted(names))
    for label, name in enumerate(classes):
        if all(video.label != label for video in train):
            raise DataError(
                f"class '{name}' has no training video in {split.train}",
                expected="at least one for each class of the table",
                action="add one, or remove the class from the table",
            )
    train, validation = _hold_out(train, data.validation, classes)
    if data.folds:  # assigned anew by rows, once they are known; what does not fit is said now
        assign_folds(_labels(train), [video.group for video in train], data.folds, classes)
    return Source(classes, tuple(sorted(names)), tuple(train), tuple(test), tuple(validation))


def read_class_table(path: Path) -> dict[int, str]:
    """ARID's `label<TAB>class` table. Labels need not start at 0: classes are numbered in their order."""
    names: dict[int, str] = {}
    for number, line in _lines(path, "class table"):
        label, _, name = line.partition("\t")
        if not label.strip().isdecimal() or not name.strip():
            raise DataError(
                f"{path}:{number}: '{line}'", expected="label<TAB>class", action="correct the line"
            )
        if int(label) in names:
            raise DataError(
                f"{path}:{number}: label {label} is given twice",
                expected="each label once",
                action="remove one of the two",
            )
        names[int(label)] = name.strip()
    if len(names) < 2:
        raise DataError(
            f"{path} names {len(names)} classes", expected="at least 2", action="add the missing ones"
        )
    return names


def _read_list(path: Path, videos: Path, index: dict[int, int]) -> list[ListedVideo]:
    """Read a list in ARID v1.0's format, `index<TAB>label<TAB>path`."""
    listed = []
    for number, line in _lines(path, "list"):
        fields = line.split("\t")
        if len(fields) != 3 or not fields[1].strip().isdecimal():
            raise DataError(
                f"{path}:{number}: '{line}'", expected="index<TAB>label<TAB>path", action="correct the line"
            )
        label = int(fields[1])
        if label not in index:
            raise DataError(
                f"{path}:{number}: label {label} is no class of the class table",
                expected=f"one of {sorted(index)}",
                action="correct the label, or add its class to the table",
            )
        where = f"{path}:{number}"
        file = _find(videos, fields[2].strip(), where)
        listed.append(ListedVideo(_key(file, where), index[label], _group(file.stem), file))
    if not listed:
        raise DataError(
            f"{path} lists no video",
            expected="index<TAB>label<TAB>path on each line",
            action="add videos, or give another list",
        )
    return listed


def _hold_out(
    train: list[ListedVideo], validation: Validation | None, classes: tuple[str, ...]
) -> tuple[list[ListedVideo], list[ListedVideo]]:
    if validation is None:
        return train, []
    held_out = choose_validation(_labels(train), [video.group for video in train], validation, classes)
    parts: tuple[list[ListedVideo], list[ListedVideo]] = ([], [])
    for video, aside in zip(train, held_out, strict=True):
        parts[int(aside)].append(video)
    return parts


def _labels(videos: list[ListedVideo]) -> npt.NDArray[np.int64]:
    return np.array([video.label for video in videos], np.int64)


def _lines(path: Path, what: str) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{what} {path}: {error.strerror}", expected="a readable file", action="correct its path"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} {path} is not text ({error.reason})", expected="UTF-8", action="save it as UTF-8"
        ) from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _find(videos: Path, name: str, where: str) -> Path:
    path = videos / name
    swapped = path.with_suffix(_SWAPS.get(path.suffix.lower(), path.suffix))
    for candidate in (path, swapped):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{where}: video {path} is missing",
        expected=f"it or {swapped.name}",
        action="correct data.videos or the list",
    )


def _key(path: Path, where: str) -> str:
    key = path.stem
    if "." in key or "/" in key:
        raise DataError(
            f"{where}: key '{key}' holds a dot, at which WebDataset would split it",
            expected="a file name with one dot, before its extension",
            action="rename the file",
        )
    if not _KEY.fullmatch(key):
        raise DataError(
            f"{where}: key '{key}' does not fit a tar's plain header and DALI's index",
            expected=f"at most {MAX_KEY_BYTES} ASCII characters, none a space or a backslash",
            action="rename the file",
        )
    return key


def _group(stem: str) -> str:
    parts = stem.split("_")
    return parts[-2] if len(parts) >= 3 else ""


def _refuse_twins(videos: list[ListedVideo], train: Path, test: Path) -> None:
    seen: dict[str, Path] = {}
    for video in videos:
        if video.key in seen:
            raise DataError(
                f"key '{video.key}' is listed twice in {train} and {test} ({seen[video.key]}, {video.path})",
                expected="every video once over both lists",
                action="remove one of the lines",
            )
        seen[video.key] = video.path
