"""An attempt's files become the member's, whenever the coordinator is killed."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ukd_dist import manifest
from ukd_dist.attempts import ATTEMPTS, attempt_directory, attempt_numbers, new_attempt
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.stages.commits import commit, drop_attempts, drop_older, finish_interrupted

WORK: dict[str, Any] = {"kind": "teacher", "settings": {"lr": 0.1}, "inputs": {"shards": "aa"}}
FILES = ["model.safetensors", "history.jsonl", "logits/train.safetensors", "logits/test.safetensors"]


def attempt(member: Path, word: str, work: dict[str, Any] = WORK) -> tuple[int, str]:
    """A finished attempt whose files hold a word; its number and its manifest's digest."""
    number = new_attempt(member)
    directory = attempt_directory(member, number)
    for name in [*FILES, "checkpoint/epoch-0003/state.pt"]:
        manifest.write_atomically(directory / name, f"{word} {name}".encode())
    return number, manifest.commit(directory, **work, files=FILES).digest()


def holds(member: Path) -> dict[str, str]:
    files = [path for path in member.rglob("*") if path.is_file() and path.name != manifest.FILENAME]
    return {str(path.relative_to(member)): path.read_text() for path in files}


def expected(word: str) -> dict[str, str]:
    return {name: f"{word} {name}" for name in [*FILES, "checkpoint/epoch-0003/state.pt"]}


def is_finished(member: Path) -> bool:
    found = manifest.finished(member, **WORK)
    if found is not None:
        manifest.verify(member, found)
    return found is not None


def test_what_an_attempt_made_becomes_the_members_and_attempts_are_gone(tmp_path: Path) -> None:
    attempt(tmp_path, "first")
    commit(tmp_path, *attempt(tmp_path, "second"))
    assert is_finished(tmp_path)
    assert holds(tmp_path) == expected("second")
    assert not (tmp_path / ATTEMPTS).exists()


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it, and nothing is tidied up."""


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Kill before the rename or the removal of that number."""
    left = iter(range(moment))
    replace, rmtree = Path.replace, shutil.rmtree

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return function(*args, **options)

        return call

    monkeypatch.setattr(Path, "replace", counted(replace))
    monkeypatch.setattr(shutil, "rmtree", counted(rmtree))


RENAMES_AND_REMOVALS = len(FILES) + 4  # the checkpoint's old and new place, the manifest, the attempts


@pytest.mark.parametrize("moment", range(RENAMES_AND_REMOVALS))
@pytest.mark.parametrize("again", [None, 2])
def test_a_coordinator_killed_while_it_commits_is_followed_by_one_that_does_the_rest(
    moment: int, again: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(tmp_path, "stale")
    number, digest = attempt(tmp_path, "good")
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            commit(tmp_path, number, digest)
    if again is not None:  # and the next one too
        with monkeypatch.context() as patch, suppress(Killed):
            kill_at(patch, again)
            assert is_finished(tmp_path) or finish_interrupted(tmp_path, **WORK)

    assert is_finished(tmp_path) or finish_interrupted(tmp_path, **WORK)
    drop_attempts(tmp_path)

    assert is_finished(tmp_path)
    assert holds(tmp_path) == expected("good")


def test_the_moments_above_are_all_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number, digest = attempt(tmp_path, "good")
    with monkeypatch.context() as patch:
        kill_at(patch, RENAMES_AND_REMOVALS)
        commit(tmp_path, number, digest)
    assert is_finished(tmp_path)


def test_an_attempt_that_ended_while_nobody_coordinated_is_committed_by_the_next_one(tmp_path: Path) -> None:
    attempt(tmp_path, "ended")
    new_attempt(tmp_path)  # and its successor, which never began
    assert finish_interrupted(tmp_path, **WORK)
    assert holds(tmp_path) == expected("ended")


def test_attempts_are_dropped_once_a_later_one_has_a_checkpoint(tmp_path: Path) -> None:
    for _ in range(3):
        new_attempt(tmp_path)
    drop_older(tmp_path, 3)
    assert attempt_numbers(tmp_path) == [1, 2, 3]
    manifest.commit(attempt_directory(tmp_path, 2) / "checkpoint/epoch-0001", "checkpoint", {}, {}, [])
    drop_older(tmp_path, 2)
    assert attempt_numbers(tmp_path) == [2, 3]


def test_without_a_finished_attempt_there_is_nothing_to_finish(tmp_path: Path) -> None:
    number, _ = attempt(tmp_path, "cut off")
    (attempt_directory(tmp_path, number) / manifest.FILENAME).unlink()
    assert not finish_interrupted(tmp_path, **WORK)
    assert not finish_interrupted(tmp_path / "nobody", **WORK)


def test_an_attempt_that_lost_a_file_is_not_committed_and_nothing_is_moved(tmp_path: Path) -> None:
    number, digest = attempt(tmp_path, "good")
    lost = attempt_directory(tmp_path, number) / FILES[-1]
    lost.unlink()
    with pytest.raises(DataError, match=f"^{tmp_path / FILES[-1]} is missing; expected "):
        commit(tmp_path, number, digest)
    assert not (tmp_path / FILES[0]).exists()
    assert not finish_interrupted(tmp_path, **WORK)


def test_an_attempt_that_holds_something_else_than_it_says_is_not_committed(tmp_path: Path) -> None:
    number, _ = attempt(tmp_path, "good")
    with pytest.raises(
        DataError, match=f"attempts/{number} does not hold what attempt {number} says it made"
    ):
        commit(tmp_path, number, "another")
    assert not is_finished(tmp_path)


def test_an_attempt_at_other_work_is_refused(tmp_path: Path) -> None:
    attempt(tmp_path, "other", {**WORK, "inputs": {"shards": "bb"}})
    with pytest.raises(MismatchError, match=r"attempts/1 was made with inputs.shards = bb; expected aa"):
        finish_interrupted(tmp_path, **WORK)
