"""Logits and targets as files: arrays over rows that speak of these rows or are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import save_file

from ukd_dist.data.knowledge import (
    LOGITS,
    METADATA,
    TARGET,
    TRAINED_ON,
    common_view,
    logits_path,
    open_rows,
    write_logits,
    write_target,
)
from ukd_dist.data.shards import Rows, Sample, SplitName
from ukd_dist.errors import DataError, MismatchError, UkdError

ROWS, CLASSES = 7, 4
KEYS = [f"Run_1_{number}" for number in range(ROWS)]


def rows_of(keys: list[str]) -> Rows:
    return Rows([Sample("train", row, key, 0, "Run", "1", 30, 30.0, 64, 48) for row, key in enumerate(keys)])


def some_logits(rows: int = ROWS, classes: int = CLASSES, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).to(dtype)


def write(
    path: Path,
    logits: torch.Tensor,
    keys: list[str] = KEYS,
    split: SplitName = "train",
    view: str = "centre",
) -> Path:
    trained_on = torch.arange(len(logits)) % 2 == 0
    write_logits(path, logits, rows_of(keys), split, view=view, trained_on=trained_on)
    return path


@pytest.fixture
def logits_file(tmp_path: Path) -> Path:
    return write(tmp_path / "train.safetensors", some_logits())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(shape=st.tuples(st.integers(1, 9), st.integers(2, 6)), data=st.data())
@settings(max_examples=25, deadline=None)
def test_written_logits_are_read(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, shape: tuple[int, int], data: st.DataObject
) -> None:
    width = 32 if dtype == torch.float32 else 16
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    numbers = data.draw(arrays(f"float{width}", shape, elements=finite))
    logits_nc = torch.from_numpy(numbers)
    keys = [f"key_{number}" for number in range(shape[0])]
    path = write(tmp_path_factory.getbasetemp() / "logits" / "train.safetensors", logits_nc, keys)
    opened = open_rows(path, LOGITS, rows_of(keys), "train", shape[1])
    read = opened.read()
    assert read.dtype == dtype
    assert opened.shape == shape
    assert torch.equal(read, logits_nc)


def test_written_targets_are_read(tmp_path: Path) -> None:
    target_nc = some_logits()
    path = tmp_path / "deep" / "train.safetensors"
    write_target(path, target_nc, rows_of(KEYS), {"method": "pkd", "h": 0.99}, view="mean-4x3")
    opened = open_rows(path, TARGET, rows_of(KEYS), "train", CLASSES)
    assert torch.equal(opened.read(), target_nc)
    assert opened.view == "mean-4x3"


def test_logits_and_targets_of_several_views_are_read_row_by_row(tmp_path: Path) -> None:
    logits_nvc = some_logits(ROWS * 3).reshape(ROWS, 3, CLASSES)
    path = write(tmp_path / "logits.safetensors", logits_nvc, view="random-3-s9")
    target = tmp_path / "target.safetensors"
    write_target(target, logits_nvc, rows_of(KEYS), {}, view="random-3-s9")
    for file, tensor in ((path, LOGITS), (target, TARGET)):
        opened = open_rows(file, tensor, rows_of(KEYS), "train", CLASSES)
        assert (opened.shape, opened.view) == ((ROWS, 3, CLASSES), "random-3-s9")
        assert torch.equal(opened.read(2, 5), logits_nvc[2:5])


def test_logits_that_are_a_slice_of_a_larger_tensor_are_written_as_the_slice(tmp_path: Path) -> None:
    logits_nc = some_logits(2 * ROWS, 2 * CLASSES)[::2, 1::2]
    path = write(tmp_path / "train.safetensors", logits_nc)
    assert torch.equal(open_rows(path, LOGITS, rows_of(KEYS), "train", CLASSES).read(), logits_nc)


def test_the_file_says_on_which_rows_the_network_was_trained(logits_file: Path) -> None:
    from safetensors import safe_open

    with safe_open(logits_file, framework="pt") as file:
        assert set(file.keys()) == {LOGITS, TRAINED_ON}
        assert file.get_tensor(TRAINED_ON).tolist() == [row % 2 == 0 for row in range(ROWS)]


@given(begin=st.integers(0, ROWS), length=st.integers(0, ROWS))
@settings(deadline=None)
def test_a_block_is_the_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, begin: int, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.safetensors"
    if not path.exists():
        write(path, some_logits())
    opened = open_rows(path, LOGITS, rows_of(KEYS), "train", CLASSES)
    end = min(begin + length, ROWS)
    assert torch.equal(opened.read(begin, end), some_logits()[begin:end])
    assert torch.equal(opened.read(begin), some_logits()[begin:])


def test_equal_logits_have_equal_bytes(tmp_path: Path) -> None:
    contents = {write(tmp_path / "train.safetensors", some_logits()).read_bytes() for _ in range(8)}
    assert len(contents) == 1


def test_a_teachers_logits_lie_beside_it_one_file_a_split() -> None:
    assert logits_path(Path("teachers/t1"), "test") == Path("teachers/t1/logits/test.safetensors")


# What is refused.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_that_are_not_finite_are_counted_and_the_first_key_is_named(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    logits_nc = some_logits(dtype=dtype)
    logits_nc[3, 1] = logits_nc[5, 0] = logits_nc[5, 3] = value
    path = tmp_path / "train.safetensors"
    with pytest.raises(DataError) as raised:
        write(path, logits_nc)
    assert str(raised.value) == (
        f"2 rows for {path} are not finite, first 'Run_1_3'; expected finite logits; "
        "train with a lower learning rate"
    )
    assert not path.exists()


def test_a_view_whose_logits_are_not_finite_is_found(tmp_path: Path) -> None:
    logits_nvc = some_logits(ROWS * 2).reshape(ROWS, 2, CLASSES)
    logits_nvc[4, 1, 0] = float("nan")
    with pytest.raises(DataError, match=r"^1 rows for .* are not finite, first 'Run_1_4';"):
        write(tmp_path / "train.safetensors", logits_nvc, view="random-2-s0")


def refusal(
    path: Path, keys: list[str] = KEYS, split: SplitName = "train", classes: int = CLASSES
) -> UkdError:
    with pytest.raises(UkdError) as raised:
        open_rows(path, LOGITS, rows_of(keys), split, classes)
    return raised.value


OTHER_KEYS = {
    "permuted": [KEYS[1], KEYS[0], *KEYS[2:]],
    "one renamed": [*KEYS[:-1], "Run_9_9"],
    "one too few": KEYS[:-1],
    "one too many": [*KEYS, "Run_9_9"],
}


@pytest.mark.parametrize("keys", OTHER_KEYS.values(), ids=list(OTHER_KEYS))
def test_logits_of_other_rows_are_refused(logits_file: Path, keys: list[str]) -> None:
    error = refusal(logits_file, keys)
    assert isinstance(error, MismatchError)
    assert str(error).startswith(f"{logits_file} speaks of other videos (split train, ")
    assert str(error).endswith(
        f"; expected the {len(keys)} train rows of this run's shards, in their order; "
        "remove its member to make it again from these shards"
    )


def test_logits_of_the_other_split_are_refused_even_over_the_same_keys(logits_file: Path) -> None:
    error = refusal(logits_file, split="test")
    assert isinstance(error, MismatchError)
    assert "(split train, " in str(error)
    assert "; expected the 7 test rows of this run's shards" in str(error)


def test_logits_over_another_number_of_classes_are_refused(logits_file: Path) -> None:
    error = refusal(logits_file, classes=CLASSES + 1)
    assert isinstance(error, DataError)
    assert str(error) == (
        f"{logits_file} has shape [7, 4]; expected [7, 5]: rows, classes; "
        "remove its member to make it again from these shards"
    )


@pytest.mark.parametrize(
    ("view", "views", "expected"),
    [
        ("random-3-s0", (2,), "[7, 3, 4]: rows, views, classes"),
        ("random-3-s0", (), "[7, 3, 4]: rows, views, classes"),
        ("mean-3x1", (3,), "[7, 4]: rows, classes"),
        ("centre", (1,), "[7, 4]: rows, classes"),
        ("elsewhere", (2,), "[7, 4]: rows, classes"),
    ],
)
def test_logits_of_another_number_of_views_than_they_name_are_refused(
    tmp_path: Path, view: str, views: tuple[int, ...], expected: str
) -> None:
    shape = (ROWS, *views, CLASSES)
    path = write(tmp_path / "train.safetensors", torch.zeros(shape), view=view)
    assert str(refusal(path)).startswith(f"{path} has shape {list(shape)}; expected {expected}; remove")


def test_logits_of_different_views_do_not_go_together(tmp_path: Path) -> None:
    views = {"a": "mean-2x1", "b": "mean-2x1", "c": "centre"}
    opened = [
        open_rows(write(tmp_path / name, some_logits(), view=view), LOGITS, rows_of(KEYS), "train", CLASSES)
        for name, view in views.items()
    ]
    assert common_view(opened[:2]) == "mean-2x1"
    with pytest.raises(MismatchError) as raised:
        common_view(opened)
    assert str(raised.value) == (
        f"{tmp_path}/c speaks of view centre, {tmp_path}/a of mean-2x1; "
        "expected the same view in all logits of a target; "
        "select teachers of one view, or make their logits again"
    )


def test_a_target_of_an_earlier_version_which_named_no_view_is_of_the_centre(tmp_path: Path) -> None:
    entry = json.dumps({"split": "train", "keys_sha256": rows_of(KEYS).digest})
    save_file({TARGET: some_logits()}, tmp_path / "target", {METADATA: entry})
    assert open_rows(tmp_path / "target", TARGET, rows_of(KEYS), "train", CLASSES).view == "centre"


def test_logits_over_too_few_rows_are_refused_though_the_keys_fit(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    entry = json.dumps({"split": "train", "keys_sha256": rows_of(KEYS).digest})
    save_file({LOGITS: some_logits(ROWS - 1)}, path, {METADATA: entry})
    assert str(refusal(path)).startswith(f"{path} has shape [6, 4]; expected [7, 4]: rows, classes; remove")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    error = refusal(path)
    assert isinstance(error, DataError)
    assert str(error) == (
        f"{path} is missing; expected safetensors with 'logits'; remove its member to make it again"
    )


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=50)
def test_a_file_that_was_cut_off_anywhere_is_named_as_damaged(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.safetensors", some_logits())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    error = refusal(path)
    assert isinstance(error, DataError)
    assert re.fullmatch(
        rf"{path} is damaged \(.+\); expected safetensors with 'logits'; remove its member to make it again",
        str(error),
    )


@pytest.mark.parametrize("content", [b"no tensors at all\n" * 50, bytes(4096), b"\x80\x04\x95pickle"])
def test_a_file_that_holds_no_tensors_is_named_as_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.safetensors"
    path.write_bytes(content)
    error = refusal(path)
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{path} is damaged (")


def test_a_target_is_not_taken_for_logits(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    write_target(path, some_logits(), rows_of(KEYS), {}, view="centre")
    assert str(refusal(path)).startswith(f"{path} is damaged (")
    assert "; expected safetensors with 'logits'; remove" in str(refusal(path))


@given(array=arrays(np.float32, array_shapes(min_dims=0, max_dims=3, max_side=8)))
@settings(deadline=None, max_examples=25)
def test_tensors_from_elsewhere_that_name_no_keys_are_refused(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray
) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.safetensors"
    save_file({LOGITS: torch.from_numpy(np.array(array))}, path)
    error = refusal(path)
    assert isinstance(error, MismatchError)
    assert str(error).startswith(f"{path} speaks of other videos (split None, ")
