"""`source: folder`: a folder for each class, whatever is below it, parted by `data.split`.

Names alone decide: classes and videos are sorted by name, so the same names give the same splits anywhere.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePath, PurePosixPath

from ukd_dist.data.holdout import choose_test
from ukd_dist.data.sources.lists import VIDEO_SUFFIXES
from ukd_dist.data.sources.naming import path_group, path_key
from ukd_dist.data.sources.source import ListedVideo, Source, complete, labels_of, part
from ukd_dist.data.sources.tables import ClassTable, two_classes
from ukd_dist.data.sources.videos import refuse_twins
from ukd_dist.data_config import Data
from ukd_dist.errors import DataError


def read_folder(data: Data) -> Source:
    """The source of a folder of class folders.

    Raises:
        UsageError: data.split, data.validation or data.folds do not fit the videos.
        DataError: There are fewer than two classes, a class has no video, a video lies beside the classes'
            folders, videos would share a key, a link leads nowhere, or a name is not UTF-8.
    """
    assert data.videos is not None
    assert data.split is not None
    names = sorted(path.name for path in _visible(data.videos) if path.is_dir())
    table = two_classes(ClassTable(tuple(names), tuple(names)), f"data.videos {data.videos}")
    _refuse_loose(data.videos)
    videos = [
        _video(path, label, name, data)
        for label, name in enumerate(names)
        for path in _videos_below(data.videos / name)
    ]
    refuse_twins(videos, [f"class {names[video.label]}" for video in videos], len(videos))
    groups = [video.group for video in videos]
    train, test = part(videos, choose_test(labels_of(videos), groups, data.split, table.classes))
    return complete(train, test, table, data)


def _video(path: Path, label: int, class_name: str, data: Data) -> ListedVideo:
    assert data.videos is not None
    below = PurePosixPath(path.relative_to(data.videos).as_posix())
    if not _is_text(str(below)):
        raise DataError(
            f"the name of {str(path)!a} is not UTF-8", expected="names in UTF-8", action="rename the file"
        )
    return ListedVideo(path_key(below), label, path_group(below, class_name, data.group_pattern), path)


def _videos_below(folder: Path) -> list[Path]:
    """The videos of one class, by name."""
    below = sorted((path.relative_to(folder) for path in folder.rglob("*")), key=PurePath.as_posix)
    visible = (folder / path for path in below if not any(part.startswith(".") for part in path.parts))
    files = [path for path in visible if not path.is_dir()]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        others = Counter(path.suffix for path in files).most_common(3)
        only = f", only {', '.join(f'{count} {suffix}' for suffix, count in others)}" if others else ""
        raise DataError(
            f"class folder {folder} holds no video{only}",
            expected=f"files in {', '.join(VIDEO_SUFFIXES)}",
            action="add videos, or remove the folder",
        )
    for video in videos:
        if not video.is_file():
            raise DataError(
                f"video {video} is a link that leads nowhere",
                expected="a file",
                action="mend the link, or remove it",
            )
    return videos


def _refuse_loose(folder: Path) -> None:
    loose = sorted(p.name for p in _visible(folder) if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if loose:
        raise DataError(
            f"{len(loose)} videos lie in {folder} itself, first {loose[0]}",
            expected="every video in its class's folder",
            action="move them into their classes' folders, or away",
        )


def _visible(folder: Path) -> list[Path]:
    """What lies in the folder; names with a leading dot are the system's."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: bytes that are not come as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
