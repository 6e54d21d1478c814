"""The checked table of videos that every source gives, and what is held out of its training part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ukd_dist.data.folds import assign_folds
from ukd_dist.data.holdout import choose_validation
from ukd_dist.data.sources.naming import arid_group
from ukd_dist.data.sources.tables import ClassTable
from ukd_dist.data_config import Data, Validation


@dataclass(frozen=True)
class ListedVideo:
    """A video of a source.

    Attributes:
        key: Stable name, for example the file's name without its extension.
        label: Class index, 0..C-1.
        group: Recording group, or empty.
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
        listed_labels: For each class, the label that the lists give it: a number, or its name.
        train: Training videos, in list order, less those of `validation`.
        test: Test videos, in list order.
        validation: What data.validation holds out of the training list, in its order.
    """

    classes: tuple[str, ...]
    listed_labels: tuple[int | str, ...]
    train: tuple[ListedVideo, ...]
    test: tuple[ListedVideo, ...]
    validation: tuple[ListedVideo, ...] = ()

    def digest(self) -> str:
        """sha256 over labels, names and file sizes: another video of the same size goes unnoticed.

        A group that ARID's name for the video does not tell already is part of it.
        """
        lines = [
            f"{split}\t{v.key}\t{v.label}\t{v.path.stat().st_size}"
            + (f"\t{v.group}" if v.group != arid_group(v.key) else "")
            for split in ("train", "validation", "test")
            for v in getattr(self, split)
        ]
        return hashlib.sha256("\n".join([*self.classes, *lines]).encode()).hexdigest()


def complete(
    train: Sequence[ListedVideo], test: Sequence[ListedVideo], table: ClassTable, data: Data
) -> Source:
    """The source of these videos, less what data.validation holds out.

    Raises:
        UsageError: data.validation or data.folds do not fit the training videos.
    """
    train, validation = _hold_out(train, data.validation, table.classes)
    if data.folds:  # assigned anew by rows, once they are known; what does not fit is said now
        assign_folds(labels_of(train), [video.group for video in train], data.folds, table.classes)
    return Source(table.classes, table.listed, tuple(train), tuple(test), tuple(validation))


def labels_of(videos: Sequence[ListedVideo]) -> npt.NDArray[np.int64]:
    """The videos' class indexes, int64 `[n]`."""
    return np.array([video.label for video in videos], np.int64)


def part(
    videos: Sequence[ListedVideo], aside_n: npt.NDArray[np.bool_]
) -> tuple[list[ListedVideo], list[ListedVideo]]:
    """The videos that stay, and those that are set aside, each in their order."""
    parts: tuple[list[ListedVideo], list[ListedVideo]] = ([], [])
    for video, aside in zip(videos, aside_n, strict=True):
        parts[int(aside)].append(video)
    return parts


def _hold_out(
    train: Sequence[ListedVideo], validation: Validation | None, classes: tuple[str, ...]
) -> tuple[Sequence[ListedVideo], Sequence[ListedVideo]]:
    if validation is None:
        return train, []
    groups = [video.group for video in train]
    return part(train, choose_validation(labels_of(train), groups, validation, classes))
