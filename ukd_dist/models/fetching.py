"""A checkpoint's file: in its place, in this machine's cache, or fetched into it once.

The cache is `$UKD_CACHE`, else ~/.cache/ukd-dist; a file lies there as its URL says. Left out: going on with
a download that was cut off.
"""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

from ukd_dist.errors import DataError, ResourceError, UsageError
from ukd_dist.initial import KINETICS, file_of
from ukd_dist.manifest import sha256_of, writing_atomically
from ukd_dist.models.pretrained import published

_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint comes from.

    Attributes:
        path: The file, once it is fetched.
        url: Where it is fetched from; empty for a file of the user's.
        sha256: The first digits that are publicly known; empty where none are.
        source: Who it is from, for people.
        remedy: What to do where the file is another one.
    """

    path: Path
    url: str
    sha256: str
    source: str
    remedy: str = "remove it, and run again"


def find(init: str, arch: str) -> Checkpoint:
    """What `init`, a path, a URL or kinetics400, means for a network.

    Raises:
        UsageError: No public weights of the network are known.
    """
    if (path := file_of(init)) is not None:
        return Checkpoint(path, "", "", str(path))
    if init == KINETICS:
        known = published(arch)
        return Checkpoint(cached(known.url), known.url, known.sha256, f"{init} ({known.source})")
    return Checkpoint(cached(init), init, "", init)


def cached(url: str) -> Path:
    """Where a URL's file lies, or is to lie."""
    parts = urlsplit(url)
    name = quote(f"{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else ""), safe="/")
    folder = os.environ.get("UKD_CACHE")
    place = Path(folder) if folder else Path.home() / ".cache" / "ukd-dist"
    return place / "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def fetch(checkpoint: Checkpoint) -> str:
    """Have the file where it is to lie; returns its sha256.

    Raises:
        UsageError: A file of the user's is not there.
        ResourceError: It cannot be fetched; says where to put it.
        DataError: It is another file than the published one.
    """
    if not checkpoint.path.is_file():
        if not checkpoint.url:
            raise UsageError(
                f"there is no checkpoint {checkpoint.path}",
                expected="a file with a network's weights",
                action="correct init",
            )
        _download(checkpoint)
    found = sha256_of(checkpoint.path)
    if not found.startswith(checkpoint.sha256):
        raise DataError(
            f"{checkpoint.path} has sha256 {found}",
            expected=f"{checkpoint.sha256}... by {checkpoint.url or 'its manifest'}",
            action=checkpoint.remedy,
        )
    return found


def _download(checkpoint: Checkpoint) -> None:
    """Fetch into the cache, whole or not at all."""
    try:
        with (
            urllib.request.urlopen(checkpoint.url, timeout=_TIMEOUT_SECONDS) as response,
            writing_atomically(checkpoint.path) as file,
        ):
            fetched = 0
            while chunk := response.read(_CHUNK_BYTES):
                fetched += file.write(chunk)
            length = response.headers.get("Content-Length")
            if length is not None and fetched != int(length):
                raise ValueError(f"cut off after {fetched} of {length} bytes")
    except (OSError, ValueError, HTTPException) as error:  # URLError and its like are OSErrors
        raise ResourceError(
            f"{checkpoint.url} cannot be fetched: {getattr(error, 'reason', None) or error}",
            expected=f"a network, or the file at {checkpoint.path}",
            action="fetch it where there is a network, put it there, and run again",
        ) from error
