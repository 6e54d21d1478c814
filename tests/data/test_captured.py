"""Logits on their way: blocks of rows as files, taken over, gone on with, and joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd_dist.data.captured import Captured, take_over
from ukd_dist.data.knowledge import join_logits, write_logits
from ukd_dist.data.shards import Rows, Sample

CLASSES = 3


def rows_of(count: int) -> Rows:
    return Rows(
        [Sample("train", n, f"ключ{n}", n % CLASSES, "name", "g", 30, 30.0, 64, 48) for n in range(count)]
    )


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5), views=st.sampled_from([(), (2,)]))
@settings(max_examples=30, deadline=None)
def test_joined_blocks_are_the_file_and_the_checks_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], views: tuple[int, ...]
) -> None:
    folder, rows = tmp_path_factory.mktemp("joined"), rows_of(sum(sizes))
    logits = torch.randn(sum(sizes), *views, CLASSES, generator=torch.Generator().manual_seed(0))
    marks = {"view": "centre", "trained_on": torch.arange(len(rows)) % 2 == 0}
    whole = write_logits(folder / "whole", logits, rows, "train", **marks)
    joined = join_logits(folder / "joined", logits.split(sizes), tuple(logits.shape), rows, "train", **marks)
    assert (folder / "joined").read_bytes() == (folder / "whole").read_bytes()
    assert joined == whole


def test_a_capture_goes_on_after_the_rows_that_are_there(tmp_path: Path) -> None:
    logits = torch.randn(10, CLASSES)
    first = Captured(tmp_path, "work")
    first.add(logits[:4])
    first.add(logits[4:6])
    second = Captured(tmp_path, "work")
    assert second.rows == 6
    second.add(logits[6:])
    assert torch.equal(torch.cat(list(Captured(tmp_path, "work"))), logits)


def test_what_another_network_said_is_no_part_of_it(tmp_path: Path) -> None:
    Captured(tmp_path, "another").add(torch.zeros(4, CLASSES))
    own = Captured(tmp_path, "work")
    assert own.rows == 0
    own.add(torch.ones(4, CLASSES))
    assert torch.equal(torch.cat(list(Captured(tmp_path, "work"))), torch.ones(4, CLASSES))


def test_rows_from_an_altered_file_on_are_captured_again(tmp_path: Path) -> None:
    captured = Captured(tmp_path, "work")
    for _ in range(3):
        captured.add(torch.zeros(4, CLASSES))
    _, altered, _ = sorted(tmp_path.iterdir())
    content = altered.read_bytes()
    altered.write_bytes(content[:-1] + b"\1")
    assert Captured(tmp_path, "work").rows == 4


def test_blocks_are_taken_over_as_they_are_and_only_once(tmp_path: Path) -> None:
    earlier, later = tmp_path / "1", tmp_path / "2"
    Captured(earlier / "train", "work").add(torch.zeros(4, CLASSES))
    for _ in range(2):
        take_over(later, earlier)
    take_over(later, tmp_path / "3")
    (path,) = (later / "train").iterdir()
    assert path.samefile(earlier / "train" / path.name)
    assert Captured(later / "train", "work").rows == 4
