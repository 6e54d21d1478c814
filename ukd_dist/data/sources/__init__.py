"""Videos from where they are: ARID's lists, a folder of classes, lists of other forms; one checked table out.

Everything that is missing or wrong in the lists is said here, before any video is decoded or anything is
written. Damage inside the videos is `video.probe`'s to find.

`arid`, `folder` and `listed` read one `data.source` each. They share `lists` (a list's text and rows, and the
files that rows name), `tables` (which label is which class), `naming` (what a path says: the key and the
recording group), `videos` (rows to videos) and `source` (what comes out, and what is held out of it).
"""

from ukd_dist.data.sources.arid import read_arid
from ukd_dist.data.sources.folder import read_folder
from ukd_dist.data.sources.listed import read_listed
from ukd_dist.data.sources.naming import MAX_KEY_BYTES
from ukd_dist.data.sources.source import ListedVideo, Source
from ukd_dist.data_config import Data
from ukd_dist.errors import UsageError

__all__ = ["MAX_KEY_BYTES", "ListedVideo", "Source", "read_source"]

_READERS = {"arid": read_arid, "synthetic": read_arid, "folder": read_folder, "csv": read_listed}


def read_source(data: Data) -> Source:
    """Find every video with its class and group, part it into splits, and hold out those of validation.

    Raises:
        UsageError: The folder, a list or the class table is missing, or data.split, data.validation or
            data.folds do not fit the videos.
        DataError: A line cannot be read, videos are missing, a label has no class, a key is unusable, a video
            comes twice, or a class has no training video.
    """
    assert data.source is not None, "where nothing is sharded, no videos are looked for"
    assert data.videos is not None, "a source of its own has been made by now"
    if not data.videos.is_dir():
        raise UsageError(
            f"data.videos {data.videos} is no folder",
            expected="the folder with the classes' folders",
            action="correct data.videos",
        )
    return _READERS[data.source](data)
