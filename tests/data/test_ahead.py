"""What is made ahead is what would have been made, in its order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ukd_dist.data.ahead import ahead
from ukd_dist.errors import DataError


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_item_comes_once_and_in_order(count: int) -> None:
    assert list(ahead(iter(range(count)))) == list(range(count))


def test_an_item_may_be_false() -> None:
    assert list(ahead(iter([0, None, ""]))) == [0, None, ""]


def test_the_next_item_is_made_while_one_is_used_and_none_beyond_it() -> None:
    asked = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(asked):
            event.set()
            yield number

    given = ahead(items())
    assert next(given) == 0
    assert asked[1].wait(timeout=10)
    assert not asked[2].wait(timeout=0.1)
    assert next(given) == 1
    assert asked[2].wait(timeout=10)


def test_an_error_comes_as_it_is_in_the_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("the tar is damaged", expected="a whole one", action="make it again")

    given = ahead(items())
    assert next(given) == 1
    with pytest.raises(DataError, match=r"^the tar is damaged; expected a whole one"):
        next(given)


def test_items_that_nobody_takes_leave_no_thread() -> None:
    given = ahead(iter(range(100)))
    next(given)
    given.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
