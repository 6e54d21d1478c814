"""How an answer looks, whatever it is of: JSON, lines of words, aligned columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from rich.console import Console

Answer = TypeVar("Answer")


def as_documents(records: Sequence[Any]) -> list[dict[str, Any]]:
    """Dataclasses as JSON-like values."""
    return [asdict(record) for record in records]


def print_records(records: Sequence[Any]) -> None:
    """Print dataclasses of one kind, a line each, however narrow the terminal is."""
    documents = as_documents(records)
    names = [name.replace("_", " ") for name in (documents[0] if documents else ())]
    print_aligned([names, *([str(value) for value in document.values()] for document in documents)])


def print_splits(
    answers: Iterable[tuple[str, Answer]],
    several: bool,
    as_json: bool,
    document: Callable[[Answer], object],
    show: Callable[[Answer], None],
) -> None:
    """Print what a command answers of each split: under its name, where there are several.

    Args:
        answers: The splits' names and answers, printed as they come.
        several: Whether there is more than one; otherwise the answer stands for itself.
        as_json: Print one JSON document at the end, of several an object by split.
        document: An answer as JSON-like values.
        show: Prints an answer.
    """
    documents = {}
    for split, answer in answers:
        if as_json:
            documents[split] = document(answer)
            continue
        if several:
            print(f"{split}:")
        show(answer)
    for found in [documents] if several else documents.values():
        print_answer(found, as_json)


def print_answer(value: object, as_json: bool) -> None:
    """Print a value as JSON, or a mapping as lines; of other values nothing but JSON is printed."""
    if as_json:
        print(json.dumps(value, indent=1), flush=True)
    elif isinstance(value, dict):
        for key, item in value.items():
            print(f"{key}: {item}", flush=True)


def console() -> Console:
    """Where tables go, however narrow the terminal is."""
    return Console(highlight=False, soft_wrap=True)


def print_aligned(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print columns as wide as their widest word; those numbered in `right` end at their right edge."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            word.rjust(width) if column in right else word.ljust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
