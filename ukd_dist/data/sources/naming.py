"""What a file's path says of its video: the key that it goes by in shards, and its recording group."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePath, PurePosixPath

from ukd_dist.errors import DataError

MAX_KEY_BYTES = 80  # a USTAR member name holds 100 bytes, the component's extension included
# DALI's index separates its words by spaces, and GNU tar lists a backslash as two.
_KEY = re.compile(rf"[!-\[\]-~]{{1,{MAX_KEY_BYTES}}}")
_UNFIT = re.compile(r"[^!-\[\]-~]|\.")
_DIGEST_CHARACTERS = 8


def file_key(path: PurePath, where: str) -> str:
    """A file's name without its extension, as it stands: the key of ARID's videos.

    Raises:
        DataError: It holds a dot, or something that a tar or DALI's index would change.
    """
    key = path.stem
    if "." in key:
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


def path_key(path: PurePosixPath) -> str:
    """The key of a video by its path below `data.videos`, whatever the path: a function of the path alone.

    The file's name without its extension, where it says one of its folders (`Run/Run_1_1.mp4` gives Run_1_1)
    or lies in none; otherwise folders and name (`Run/0001.mp4` gives Run-0001). What does not fit a key
    becomes `_`, a key too long is cut, and either is followed by a digest of the path that keeps it apart.
    """
    # A Mac writes an accented letter as two characters, others as one: both are the same name.
    path = PurePosixPath(unicodedata.normalize("NFC", path.as_posix()))
    plain = path.stem
    if path.parent.parts and not any(_says(folder, plain) for folder in path.parent.parts):
        plain = "-".join([*path.parent.parts, plain])
    if _KEY.fullmatch(plain) and "." not in plain:
        return plain
    digest = hashlib.sha256(path.with_suffix("").as_posix().encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{_UNFIT.sub('_', plain)[: MAX_KEY_BYTES - _DIGEST_CHARACTERS - 1]}-{digest}"


def arid_group(stem: str) -> str:
    """The recording group of `<Class>_<group>_<clip>`, or empty."""
    parts = stem.split("_")
    return parts[-2] if len(parts) >= 3 else ""


def path_group(path: PurePosixPath, class_name: str, pattern: str | None) -> str:
    """The recording group of a video by its path below `data.videos`, or empty.

    Without a pattern (`data.group_pattern`), of names in UCF101's form, `v_<Class>_g<group>_c<clip>`; in
    HMDB51's, where it is the film that the clip was cut from; and in ARID's. The class in a name is that of
    the video or the name of its folder.
    """
    if pattern is not None:
        found = re.search(pattern, path.as_posix())
        return (found[1] or "") if found else ""
    classes = "|".join(re.escape(name) for name in {class_name, path.parent.name} if name)
    for form in (
        r"v_.+_(g[0-9]+)_c[0-9]+",
        rf"(.+)_(?:{classes})_[a-z]_[a-z]{{2}}_np[0-9]_[a-z]{{2}}_[a-z]{{3}}_[0-9]+",
        rf"(?:{classes})_([^_]+)_[0-9]+",
    ):
        if found := re.fullmatch(form, path.stem, re.IGNORECASE):
            return found[1]
    return ""


def _says(folder: str, stem: str) -> bool:
    """Whether a name holds its folder's as whole words."""
    return bool(re.search(rf"(?<![^\W_]){re.escape(folder)}(?![^\W_])", stem, re.IGNORECASE))
