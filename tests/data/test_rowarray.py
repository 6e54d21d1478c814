"""Files that are checked as they are read: no flipped byte passes, and nothing is read that is not wanted."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ukd_dist import manifest
from ukd_dist.data.knowledge import (
    CHECKS,
    COVERS,
    LOGITS,
    TARGET,
    TRAINED_ON,
    open_finished,
    open_rows,
    write_logits,
    write_target,
)
from ukd_dist.data.rowarray import ROWS_PER_CHECK, Checks, RowArray
from ukd_dist.data.shards import Rows, Sample
from ukd_dist.errors import DataError

ROWS, CLASSES = 2 * ROWS_PER_CHECK + 100, 3
NAME = "logits/train.safetensors"


def rows_of(count: int) -> Rows:
    return Rows([Sample("train", row, f"v_{row}", 0, "Run", "1", 30, 30.0, 64, 48) for row in range(count)])


ALL_ROWS = rows_of(ROWS)
LOGITS_NC = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0))
COVERED = torch.arange(ROWS) % 3 != 0


def make(directory: Path, *, checked: bool = True) -> Path:
    """A finished member with logits of three blocks, on two thirds of the rows."""
    trained_on = torch.arange(ROWS) % 2 == 0
    path = directory / NAME
    checks = write_logits(
        path, LOGITS_NC, ALL_ROWS, "train", view="centre", trained_on=trained_on, covers=COVERED
    )
    summary = {CHECKS: {NAME: checks}} if checked else {}
    manifest.commit(directory, "teacher", {"seed": 1}, {}, [NAME], summary)
    return directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read, or changed and put back."""
    return make(tmp_path_factory.mktemp("member"))


def opened(directory: Path) -> RowArray:
    return open_finished(directory, NAME, LOGITS, ALL_ROWS, "train", CLASSES)


def read_everything(directory: Path) -> None:
    """As the reduction does: every row of one block after another."""
    array = opened(directory)
    for begin in range(0, ROWS, ROWS_PER_CHECK):
        array.read(begin, begin + ROWS_PER_CHECK)


def flip(path: Path, place: int, bits: int) -> bytes:
    """Change one byte; returns the file as it was."""
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
    return content


# --- Every byte is checked ----------------------------------------------------------------------------------

SIZE = 4 * CLASSES * ROWS + 2 * ROWS  # of the tensors


@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
@example(share=0.0, bits=1)
@example(share=0.0, bits=255)
@settings(max_examples=150, deadline=None)
def test_any_flipped_byte_of_a_logits_file_is_found_by_name(finished: Path, share: float, bits: int) -> None:
    path = finished / NAME
    before = flip(path, int(share * path.stat().st_size), bits)
    with pytest.raises(DataError) as raised:
        read_everything(finished)
    path.write_bytes(before)
    assert str(raised.value).startswith(f"{path} was altered in ")
    assert str(raised.value).endswith(
        "; expected the bytes whose checksums its manifest holds; remove its member to make it again"
    )


@given(place=st.integers(0, 400), bits=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_any_flipped_byte_of_the_header_is_found_when_the_file_is_opened(
    finished: Path, place: int, bits: int
) -> None:
    path = finished / NAME
    header_bytes = path.stat().st_size - SIZE
    before = flip(path, place % header_bytes, bits)
    with pytest.raises(DataError, match=f"{path} was altered in its header"):
        opened(finished)
    path.write_bytes(before)


@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_flipped_byte_of_the_manifest_is_found_by_name_or_changes_nothing_that_it_says(
    finished: Path, share: float, bits: int
) -> None:
    path, said = finished / manifest.FILENAME, manifest.read(finished)
    before = flip(path, int(share * path.stat().st_size), bits)
    try:
        found = manifest.read(finished)
    except DataError as error:
        assert str(path) in error.problem  # noqa: PT017 - white space may change and say the same
    else:
        assert found == said
    path.write_bytes(before)


@pytest.mark.parametrize(
    ("tensor", "row", "where"),
    [
        (LOGITS, 0, "rows 0 to 1023 of 'logits'"),
        (LOGITS, 1024, "rows 1024 to 2047 of 'logits'"),
        (LOGITS, ROWS - 1, f"rows 2048 to {ROWS - 1} of 'logits'"),
        (TRAINED_ON, 1500, "rows 1024 to 2047 of 'trained_on'"),
        (COVERS, 3, "rows 0 to 1023 of 'covers'"),
    ],
)
def test_the_damaged_rows_are_named(tmp_path: Path, tensor: str, row: int, where: str) -> None:
    array = opened(make(tmp_path))
    places = {LOGITS: array, TRAINED_ON: array.trained_on, COVERS: array.covers}
    found = places[tensor]
    assert found is not None
    flip(found.path, found.place(row), 1)
    with pytest.raises(DataError, match=f"{found.path} was altered in {where}; expected"):
        read_everything(tmp_path)


def test_damage_in_one_block_leaves_the_others_readable(tmp_path: Path) -> None:
    array = opened(make(tmp_path))
    flip(array.path, array.place(ROWS_PER_CHECK), 1)
    assert torch.equal(array.read(2 * ROWS_PER_CHECK).isnan(), masked()[2 * ROWS_PER_CHECK :].isnan())
    with pytest.raises(DataError, match="rows 1024 to 2047"):
        array.read(2 * ROWS_PER_CHECK - 1)


def test_a_file_that_is_cut_off_after_it_was_opened_is_named(tmp_path: Path) -> None:
    array = opened(make(tmp_path))
    with array.path.open("r+b") as file:
        file.truncate(array.place(ROWS - 1))
    with pytest.raises(DataError, match=f"{array.path} was altered in rows 2048 to {ROWS - 1}"):
        array.read()


def test_bytes_behind_the_end_are_found(tmp_path: Path) -> None:
    path = make(tmp_path) / NAME
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=f"{path} is damaged"):
        opened(tmp_path)


def test_another_valid_file_in_its_place_is_found(tmp_path: Path) -> None:
    other = LOGITS_NC.clone()
    other[1, 0] += 1e-3
    path = make(tmp_path) / NAME
    write_logits(path, other, ALL_ROWS, "train", view="centre", trained_on=torch.ones(ROWS, dtype=torch.bool))
    with pytest.raises(DataError, match=f"{path} was altered in its header"):
        opened(tmp_path)


def test_targets_are_checked_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    checks = write_target(path, LOGITS_NC, ALL_ROWS, {"method": "pkd"}, view="centre")
    array = open_rows(path, TARGET, ALL_ROWS, "train", CLASSES, checks)
    assert torch.equal(array.read(), LOGITS_NC)
    flip(path, array.place(7), 64)
    with pytest.raises(DataError, match="rows 0 to 1023 of 'target'"):
        array.read()


# --- Directories of earlier versions ------------------------------------------------------------------------


def test_without_checks_in_the_manifest_the_files_sha256_is_checked(tmp_path: Path) -> None:
    array = opened(make(tmp_path, checked=False))
    assert torch.equal(array.read(5, 9).isnan(), masked()[5:9].isnan())
    flip(array.path, array.place(7), 1)
    with pytest.raises(
        DataError, match=rf"{array.path} was altered; expected sha256 [0-9a-f]{{12}}\.\.\. by"
    ):
        opened(tmp_path)


# --- What is read -------------------------------------------------------------------------------------------


def masked() -> torch.Tensor:
    return LOGITS_NC.masked_fill(~COVERED.unsqueeze(1), torch.nan)


@given(begin=st.integers(0, ROWS), length=st.integers(0, ROWS))
@settings(max_examples=50, deadline=None)
def test_any_rows_are_read_though_blocks_are_checked_whole(finished: Path, begin: int, length: int) -> None:
    array, end = opened(finished), min(begin + length, ROWS)
    assert torch.equal(array.read(begin, begin + length).nan_to_num(9.0), masked()[begin:end].nan_to_num(9.0))


@given(
    num_rows=st.sampled_from([1, 7, ROWS_PER_CHECK - 1, ROWS_PER_CHECK, ROWS_PER_CHECK + 1]),
    num_classes=st.integers(2, 5),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    marked=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_written_then_read_is_the_identity_marks_included(
    tmp_path_factory: pytest.TempPathFactory,
    num_rows: int,
    num_classes: int,
    dtype: torch.dtype,
    marked: bool,
) -> None:
    path, rows = tmp_path_factory.getbasetemp() / "identity" / "train.safetensors", rows_of(num_rows)
    logits_nc = LOGITS_NC.repeat(1, 2)[:num_rows, :num_classes].to(dtype)
    covers = COVERED[:num_rows] if marked else None
    trained_on = torch.arange(num_rows) % 2 == 1
    checks = write_logits(path, logits_nc, rows, "train", view="x", trained_on=trained_on, covers=covers)
    array = open_rows(path, LOGITS, rows, "train", num_classes, checks)
    assert array.trained_on is not None
    assert torch.equal(array.trained_on.read(), trained_on)
    assert (array.covers is None) == (covers is None)
    if array.covers is not None and covers is not None:
        assert torch.equal(array.covers.read(), covers)
        assert array.read()[~covers].isnan().all()
    heard = slice(None) if covers is None else covers
    assert torch.equal(array.read()[heard], logits_nc[heard])


def test_rows_without_an_opinion_may_hold_anything_and_are_no_numbers_afterwards(tmp_path: Path) -> None:
    logits_nc, path = LOGITS_NC.clone(), tmp_path / "train.safetensors"
    logits_nc[0] = torch.inf
    none = torch.zeros(ROWS, dtype=torch.bool)
    write_logits(path, logits_nc, ALL_ROWS, "train", view="x", trained_on=none, covers=COVERED)
    assert open_rows(path, LOGITS, ALL_ROWS, "train", CLASSES).read(0, 1).isnan().all()


def test_an_opinion_on_every_row_needs_no_mark(tmp_path: Path) -> None:
    every = torch.ones(ROWS, dtype=torch.bool)
    path = tmp_path / "train.safetensors"
    write_logits(path, LOGITS_NC, ALL_ROWS, "train", view="x", trained_on=every, covers=every)
    assert open_rows(path, LOGITS, ALL_ROWS, "train", CLASSES).covers is None


def test_an_opened_array_is_small_and_travels(finished: Path) -> None:
    array = opened(finished)
    travelled: RowArray = pickle.loads(pickle.dumps(array))
    assert travelled == array
    assert len(pickle.dumps(array)) < 2000
    assert torch.equal(travelled.read(1).nan_to_num(), array.read(1).nan_to_num())


def test_checks_are_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    checks = write_target(path, LOGITS_NC, ALL_ROWS, {}, view="centre")
    assert Checks(**json.loads(json.dumps(dataclasses.asdict(checks)))) == checks
    assert checks == Checks.of(path.read_bytes())
    assert len(checks.tensors[TARGET]) == 16 * 3


def test_numbers_of_another_kind_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "train.safetensors"
    save_file({LOGITS: LOGITS_NC.double()}, path)
    with pytest.raises(DataError) as raised:
        open_rows(path, LOGITS, ALL_ROWS, "train", CLASSES)
    assert str(raised.value) == (
        f"{path}: 'logits' holds torch.float64; expected torch.float32 or torch.float16; "
        "import it with `ukd logits import`"
    )
    save_file({LOGITS: LOGITS_NC.long()}, path)
    with pytest.raises(DataError, match="'logits' holds I64; expected one of F64, F32, F16, BOOL; import"):
        open_rows(path, LOGITS, ALL_ROWS, "train", CLASSES)


def test_a_missing_file_of_a_finished_directory_is_named(tmp_path: Path) -> None:
    shutil.rmtree(make(tmp_path) / "logits")
    with pytest.raises(DataError, match=f"{tmp_path / NAME} is missing"):
        opened(tmp_path)
