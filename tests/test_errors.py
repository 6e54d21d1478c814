"""What a user's error says, that it survives the way between processes, and what OSErrors become."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from ukd_dist import config, errors
from ukd_dist.errors import DataError, ResourceError, UkdError, UsageError, file_error


def kinds(base: type[UkdError] = UkdError) -> list[type[UkdError]]:
    below = [kind for child in base.__subclasses__() for kind in kinds(child)]
    return [kind for kind in (base, *below) if kind.__module__ in (errors.__name__, config.__name__)]


def test_a_message_says_what_is_wrong_what_was_expected_and_what_to_do() -> None:
    error = DataError("labels.txt:3: label 7", expected="0 or 1", action="correct the line")
    assert str(error) == "labels.txt:3: label 7; expected 0 or 1; correct the line"


def test_an_error_without_one_of_its_parts_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="expected"):
        UsageError("seed is -1", action="correct it")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="action"):
        UsageError("seed is -1", expected="0 or more")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_travels_between_processes_whole(kind: type[UkdError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("a", expected="b", action="c")))
    assert (type(copy), copy.problem, copy.expected, copy.action) == (kind, "a", "b", "c")
    assert copy.exit_code == (2 if issubclass(kind, UsageError) else 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_asks_for_room(number: int) -> None:
    answer = file_error(OSError(number, os.strerror(number), "run/shards/train-000000.tar"))
    assert isinstance(answer, ResourceError)
    assert str(answer) == (
        f"run/shards/train-000000.tar: {os.strerror(number)}; expected free space; "
        "free some space and run again: what is finished is kept"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_bytes()
    assert str(file_error(caught.value)) == (
        f"{tmp_path}: Is a directory; expected a file that can be read and written; check it and run again"
    )


def test_an_error_of_the_system_that_names_nothing_says_what_it_said() -> None:
    assert str(file_error(OSError("the socket is gone"))).startswith("a file: the socket is gone; expected")
