"""The next item is made while the last one is used.

Beside a training step this hides what is done to clips outside DALI's own threads: reading, checksums,
gamma, normalisation. One item is made at a time, in one thread, in order: nothing that is seen changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each of which is asked for when the one before it is given out.

    Args:
        items: What is given out must stay valid until the next but one is asked for.

    Raises:
        Exception: What `items` raises, in the place of the item that it was asked for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:
        coming = maker.submit(_take, items)
        while given := coming.result():
            coming = maker.submit(_take, items)
            yield from given


def _take(items: Iterator[Item]) -> list[Item]:
    """The next item alone; nothing after the last one. A future cannot carry StopIteration."""
    return list(islice(items, 1))
