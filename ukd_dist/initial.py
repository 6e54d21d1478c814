"""What `init` says: where a training's first weights come from, and who has to be trained before whom."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ukd_dist.settings import SettingsError

NONE = "none"  # drawn from the seed
KINETICS = "kinetics400"
_MEMBER = "member:"
_SCHEMES = ("http", "https", "file")
FORMS = f"{NONE}, {KINETICS}, a file's path or URL, or {_MEMBER}ID"


def check_form(init: str) -> str:
    """`init` as it is.

    Raises:
        SettingsError: It is none of the forms that there are.
    """
    scheme, is_url, _ = init.partition("://")
    if is_url and scheme not in _SCHEMES:
        raise SettingsError(
            f"init {init} is of scheme '{scheme}'",
            expected=f"one of {', '.join(_SCHEMES)}",
            action="fetch the file yourself, and give its path",
        )
    if scheme == "file" and is_url and not _is_of_this_machine(init):
        raise SettingsError(
            f"init {init} names no file of this machine",
            expected="file:///path, with %23 for # and the like",
            action="give the file's path instead",
        )
    if init not in (NONE, KINETICS) and not parent_of(init) and not is_url and not _is_path(init):
        nearest = difflib.get_close_matches(init, [NONE, KINETICS, _MEMBER], n=1, cutoff=0.4)
        raise SettingsError(
            f"init '{init}' is unknown",
            expected=FORMS,
            action=f"did you mean '{nearest[0]}'?" if nearest else f"write a file's path as ./{init}",
        )
    return init


def with_absolute_path(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of an experiment file, its grid not expanded yet, with absolute paths where `init` has any."""
    found = dict(entry)
    if "init" in entry:
        found["init"] = _absolute(entry["init"])
    if isinstance(grid := entry.get("grid"), dict) and isinstance(inits := grid.get("init"), list):
        found["grid"] = {**grid, "init": [_absolute(init) for init in inits]}
    return found


def parent_of(init: str) -> str:
    """Id of the member whose weights it starts from, or empty."""
    return init.removeprefix(_MEMBER) if init.startswith(_MEMBER) else ""


def file_of(init: str) -> Path | None:
    """The file that is named by a path or a file: URL; None where `init` says something else."""
    if init.startswith("file://"):
        return Path(url2pathname(urlsplit(init).path))
    return Path(init) if _is_path(init) else None


def generations(inits: Mapping[str, str]) -> list[list[str]]:
    """Members by id, each in a generation after the one that it starts from.

    There are no circles: an id is a digest of all settings, `init` included.

    Args:
        inits: Each member's `init`; a parent that is not among them is finished.
    """
    depths: dict[str, int] = {}

    def depth(member: str) -> int:
        if member not in depths:
            parent = parent_of(inits[member])
            depths[member] = depth(parent) + 1 if parent in inits else 0
        return depths[member]

    found: list[list[str]] = [[] for _ in range(max(map(depth, inits), default=-1) + 1)]
    for member in inits:
        found[depths[member]].append(member)
    return found


def _absolute(init: Any) -> Any:
    """Whatever a file says, which nobody has checked yet."""
    if not isinstance(init, str) or not _is_path(init):
        return init
    return str(Path(os.path.expanduser(init)).absolute())  # noqa: PTH111 (Path's raises for nobody's home)


def _is_of_this_machine(url: str) -> bool:
    """Whether a file: URL has a path and nothing else."""
    parts = urlsplit(url)
    return parts.path.startswith("/") and not (parts.netloc or parts.query or parts.fragment)


def _is_path(init: str) -> bool:
    return "://" not in init and not init.startswith(_MEMBER) and ("/" in init or "." in init)
