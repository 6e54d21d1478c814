"""From the rows of lists to videos: each found, named, listed once, and of a class with training videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ukd_dist.data.sources.lists import Row, find_videos
from ukd_dist.data.sources.source import ListedVideo, Source, complete
from ukd_dist.data.sources.tables import ClassTable
from ukd_dist.data_config import Data, Split
from ukd_dist.errors import DataError

# The key and the recording group of a row's video, given the name of its class.
Naming = Callable[[Row, str], tuple[str, str]]


def the_split(data: Data) -> Split:
    """The list files: a run directory holds one split."""
    (split,) = data.splits.values()
    return split


def source_of_rows(
    train: Sequence[Row], test: Sequence[Row], table: ClassTable, data: Data, name: Naming
) -> Source:
    """The source that the rows of a training and a test list describe.

    Raises:
        UsageError: data.validation or data.folds do not fit the training list.
        DataError: A label has no class, videos are missing, a key is unusable, a video or a key comes twice,
            or a class has no training video.
    """
    assert data.videos is not None
    rows = [*train, *test]
    labels = table.indexes(rows)
    videos = []
    for row, label, path in zip(rows, labels, find_videos(rows, data.videos), strict=True):
        key, group = name(row, table.classes[label])
        videos.append(ListedVideo(key, label, group, path))
    refuse_twins(videos, [row.where for row in rows], len(train))
    _refuse_empty_classes(set(labels[: len(train)]), table.classes, the_split(data).train)
    return complete(videos[: len(train)], videos[len(train) :], table, data)


def refuse_twins(videos: Sequence[ListedVideo], places: Sequence[str], num_train: int) -> None:
    """Refuse a video that comes twice, and videos that would share a key.

    Args:
        videos: Those of training, then those of the test.
        places: Where each comes from.
        num_train: How many are of training.

    Raises:
        DataError: There are such.
    """
    seen: dict[str, int] = {}
    for number, video in enumerate(videos):
        first = seen.setdefault(video.key, number)
        if first == number:
            continue
        if videos[first].path != video.path:
            raise DataError(
                f"{videos[first].path} ({places[first]}) and {video.path} ({places[number]}) "
                f"both give the key '{video.key}'",
                expected="a name of its own for each video",
                action="rename one of the files, or leave one out",
            )
        across = first < num_train <= number
        what = "is in the training and in the test list" if across else "is listed twice"
        raise DataError(
            f"video {video.path} {what} ({places[first]}, {places[number]})",
            expected="every video once over both lists",
            action="remove one of the lines",
        )


def _refuse_empty_classes(trained: set[int], classes: Sequence[str], path: Path) -> None:
    for label, name in enumerate(classes):
        if label not in trained:
            raise DataError(
                f"class '{name}' has no training video in {path}",
                expected="at least one for each class of the table",
                action="add one, or remove the class from the table",
            )
