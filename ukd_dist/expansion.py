"""From the entries of a file to validated settings: defaults, merging, grids; errors name their place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from ukd_dist.errors import UsageError
from ukd_dist.settings import Settings, SettingsError, unknown_key
from ukd_dist.training_config import Training

# What pydantic's sentences hold beside what was expected.
_BESIDE = re.compile(
    r"^\w+ (should|is not) (be |have |match )?| or instance of \w+$| for <.*>$| after validation, not \d+$"
)

AnySettings = TypeVar("AnySettings", bound=Settings)
AnyTraining = TypeVar("AnyTraining", bound=Training)


def expand(
    kind: type[AnyTraining],
    entries: list[dict[str, Any]],
    defaults: dict[str, Any],
    inherited: dict[str, Any],
    where: str,
    section: str,
) -> list[AnyTraining]:
    """Every entry's grid point as settings: what is inherited, then the defaults, then the entry's own.

    Args:
        kind: Teacher or Student.
        entries: As the file has them; `grid` expands to its product.
        defaults: Of the section.
        inherited: Of the whole file.
        where: Names the file in messages.
        section: Names the list in messages, for example `teachers.fleet`.

    Raises:
        UsageError: A key is unknown, a value is out of range, or settings contradict each other.
    """
    known = sorted(kind.model_fields)
    _refuse_unknown(defaults, known, f"{where}: {section.partition('.')[0]}.defaults")
    for index, entry in enumerate(entries):
        _refuse_unknown(entry, [*known, "grid"], f"{where}: {section}[{index}]")
    return [
        validate(kind, _merge(inherited, defaults, point), where, (section, index))
        for index, entry in enumerate(entries)
        for point in _grid(entry, f"{where}: {section}[{index}]")
    ]


def _refuse_unknown(given: dict[str, Any], known: list[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise _placed(unknown_key(key, known), where)


_MERGED = ("clip", "views", "resources")


def _merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Later layers win; `clip`, `views` and `resources` are merged field by field."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            inner = merged.get(key) if key in _MERGED else None
            merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _grid(entry: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    plain = {key: value for key, value in entry.items() if key != "grid"}
    grid = entry.get("grid", {})
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UsageError(
            f"{where}: grid is {grid!r}",
            expected="a mapping of fields to lists of values",
            action="write it like {seed: [0, 1, 2]}",
        )
    for twice in grid.keys() & plain.keys():
        raise UsageError(
            f"{where}: '{twice}' is given by the entry and by its grid",
            expected="one of the two",
            action="remove the other",
        )
    for values in itertools.product(*grid.values()):
        yield {**plain, **dict(zip(grid, values, strict=True))}


def validate(
    kind: type[AnySettings], document: Any, where: str, prefix: tuple[str | int, ...]
) -> AnySettings:
    """A document as settings; `prefix` is its place in the file.

    Raises:
        UsageError: As `expand`.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _first_problem(error, where, prefix) from error


def _first_problem(error: ValidationError, where: str, prefix: tuple[str | int, ...]) -> UsageError:
    first = error.errors()[0]
    place = ""
    for part in (*prefix, *first["loc"]):
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    others = f" (the first of {error.error_count()} problems)" if error.error_count() > 1 else ""
    refusal = first.get("ctx", {}).get("error")
    if isinstance(refusal, SettingsError):
        return _placed(refusal, f"{where}: {place}" if place else where, others)
    if first["type"] == "missing":
        return UsageError(f"{where}: {place} is missing{others}", expected="a value", action="give it one")
    return UsageError(
        f"{where}: {place} is {first['input']!r}{others}",
        expected=_BESIDE.sub("", first["msg"]),
        action="correct it",
    )


def _placed(error: SettingsError, where: str, others: str = "") -> UsageError:
    """The error with its place before it."""
    return UsageError(f"{where}: {error.problem}{others}", expected=error.expected, action=error.action)
