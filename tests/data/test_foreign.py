"""Other systems' logits in every format: read as they were written, or refused with what is wrong where."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ukd_dist.data.foreign import read_foreign
from ukd_dist.errors import DataError, UkdError, UsageError

KEYS = ["Walk_1_0", "Wave_1_0", "Jump_1_0", "Ümlaut_1"]
CLASSES = ["Walk", "Wave", "Jump"]
LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
Classes = Sequence[str] | None


def write_npz(path: Path, keys: Sequence[str], logits_nc: np.ndarray, classes: Classes) -> None:
    named = {} if classes is None else {"classes": np.array(classes)}
    np.savez(path, keys=np.array(keys), logits=logits_nc, **named)


def write_safetensors(path: Path, keys: Sequence[str], logits_nc: np.ndarray, classes: Classes) -> None:
    named = {} if classes is None else {"classes": json.dumps(classes)}
    save_file({"logits": torch.from_numpy(logits_nc.copy())}, path, {"keys": json.dumps(keys), **named})


def write_csv(path: Path, keys: Sequence[str], logits_nc: np.ndarray, classes: Classes) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", *(range(logits_nc.shape[1]) if classes is None else classes)])
        writer.writerows([key, *row] for key, row in zip(keys, logits_nc.tolist(), strict=True))


def write_parquet(path: Path, keys: Sequence[str], logits_nc: np.ndarray, classes: Classes) -> None:
    columns = {} if classes is None else dict(zip(classes, logits_nc.T, strict=True))
    pyarrow.parquet.write_table(
        pyarrow.table({"key": keys, **(columns or {"logits": list(logits_nc)})}), path
    )


WRITERS = {
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def write(
    folder: Path,
    suffix: str,
    keys: Sequence[str] = KEYS,
    logits: np.ndarray = LOGITS,
    classes: Classes = None,
) -> Path:
    path = folder / f"theirs{suffix}"
    WRITERS[suffix](path, keys, logits, classes)
    return path


def refusal(path: Path) -> UkdError:
    with pytest.raises(UkdError) as raised:
        read_foreign(path)
    return raised.value


# --- What is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@given(
    logits=st.lists(st.tuples(*3 * [st.floats(-(2.0**60), 2.0**60, width=32)]), min_size=1, max_size=6),
    data=st.data(),
    named=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_what_another_system_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    logits: list[tuple[float, float, float]],
    data: st.DataObject,
    named: bool,
) -> None:
    words = st.text("abcXYZ019_-ü ,\"'", min_size=1).filter(lambda word: word == word.strip())
    keys = data.draw(st.lists(words, min_size=len(logits), max_size=len(logits), unique=True))
    folder = tmp_path_factory.mktemp("foreign")
    logits_nc, classes = np.array(logits, np.float32), CLASSES if named else None
    logits_nc[0, 0] = -1.0  # no probability
    found = read_foreign(write(folder, suffix, keys, logits_nc, classes))
    assert found.keys == tuple(keys)
    assert found.classes == (tuple(CLASSES) if named else None)
    assert found.logits_nc.dtype == torch.float32
    assert np.array_equal(found.logits_nc.numpy(), logits_nc)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_float16_stays_and_float64_becomes_float32(tmp_path: Path, suffix: str) -> None:
    for kept, given_as in ((torch.float16, np.float16), (torch.float32, np.float64)):
        found = read_foreign(write(tmp_path, suffix, logits=LOGITS.astype(given_as))).logits_nc
        assert found.dtype == kept
        assert torch.equal(found, torch.from_numpy(LOGITS.astype(given_as)).to(kept))


def test_keys_as_bytes_are_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, keys=np.array([key.encode() for key in KEYS]), logits=LOGITS)
    assert read_foreign(path).keys == tuple(KEYS)


def test_a_csv_of_a_spreadsheet_with_a_byte_order_mark_and_empty_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(b"\xef\xbb\xbfkey,0,1\r\na,1.5,-2\r\n\r\nb,3,4e-1\r\n\r\n")
    found = read_foreign(path)
    assert (found.keys, found.classes) == (("a", "b"), None)
    assert found.logits_nc.tolist() == [[1.5, -2.0], [3.0, pytest.approx(0.4)]]


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "seed=3"
    folder.mkdir()
    assert read_foreign(write(folder, ".parquet", classes=CLASSES)).classes == tuple(CLASSES)


# --- What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "content", [b"", b"no table\n" * 9, b"\x80\x04]." + bytes(64)], ids=["no", "text", "pickle"]
)
def test_a_file_in_another_format_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"theirs{suffix}"
    path.write_bytes(content)
    error = refusal(path)
    assert isinstance(error, DataError)
    assert error.problem.startswith(f"{path} cannot be read (")
    assert error.action == "write it again in this form"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert refusal(path).problem.startswith(f"{path} cannot be read (")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("exploded"),)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.npz"
    np.savez(path, keys=np.array([Bomb()], dtype=object), logits=LOGITS[:1])
    assert "Object arrays cannot be loaded when allow_pickle=False" in refusal(path).problem
    np.savez(path, keys=np.array(["a"]), logits=np.array([[Bomb(), Bomb()]], dtype=object))
    assert "Object arrays cannot be loaded when allow_pickle=False" in refusal(path).problem
    path.write_bytes(pickle.dumps(Bomb()))
    assert refusal(path).problem.startswith(f"{path} cannot be read (")
    assert not Path("exploded").exists()


def npz(path: Path, **arrays: object) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"logits": LOGITS}, "'keys is not a file in the archive'"),
        ({"keys": np.array(KEYS)}, "'logits is not a file in the archive'"),
        ({"keys": np.arange(4), "logits": LOGITS}, "keys or classes are int64 [4], not a row of text"),
        ({"keys": np.array(KEYS[:2]), "logits": LOGITS}, "2 keys for 4 rows of logits"),
        ({"keys": np.array(["a"]), "logits": np.ones((1, 2, 3))}, "logits are float64 [1, 2, 3]"),
        ({"keys": np.array(KEYS), "logits": np.ones((4, 3), np.int64)}, "logits are int64 [4, 3]"),
        ({"keys": np.array([], str), "logits": np.ones((0, 3))}, "0 keys for 0 rows of logits"),
        ({"keys": np.array(KEYS), "logits": LOGITS, "classes": np.array(["a"])}, "1 classes for 3 columns"),
        ({"keys": np.array(["a", "", "c", "d"]), "logits": LOGITS}, "keys are not all text"),
    ],
)
def test_arrays_that_are_no_table_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], problem: str
) -> None:
    path = tmp_path / "theirs.npz"
    npz(path, **arrays)
    assert str(refusal(path)) == (
        f"{path} cannot be read ({problem}); expected arrays 'keys' (text), 'logits' [rows, classes] and, "
        "if wanted, 'classes'; write it again in this form"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("video,0,1\na,1,2\n", "line 1 begins with 'video'"),
        ("key,0,1\na,1,2\nb,1\n", "line 3 holds 2 values, line 1 3"),
        ("key,0,1\na,1,2\nb,1,x\n", "line 3: could not convert string to float: 'x'"),
        ("key,0,1\na,1,\n", "line 2: could not convert string to float: ''"),
        ("key,0,1\n", "0 keys for 0 rows of logits"),
    ],
)
def test_a_csv_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    assert str(refusal(path)) == (
        f"{path} cannot be read ({problem}); expected a header 'key,<class>,...', and a key and a number for "
        "each class a line; write it again in this form"
    )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"logits": list(LOGITS)}, 'Field "key" does not exist in schema'),
        ({"key": KEYS, "logits": [[1.0], [1.0, 2.0], [3.0], [4.0]]}, "its lists hold [1, 2] numbers"),
        ({"key": KEYS, "a": [1.0, None, 2.0, 3.0]}, "it has empty cells"),
        ({"key": KEYS, "a": ["x", "y", "z", "x"]}, "Failed to parse string: 'x' as a scalar of type double"),
        ({"key": [1, 2, 3, 4], "logits": list(LOGITS)}, "keys are not all text"),
    ],
)
def test_a_parquet_that_is_no_table_of_logits_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], problem: str
) -> None:
    path = tmp_path / "theirs.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert f"{path} cannot be read (" in refusal(path).problem
    assert problem in refusal(path).problem
    assert refusal(path).expected == "a column 'key', and a list column 'logits' or a column a class"


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (None, "its metadata has no 'keys'"),
        ({"keys": "a, b"}, "Expecting value: line 1 column 1 (char 0)"),
        ({"keys": '{"a": 1}'}, "keys are not all text"),
        ({"keys": "[1, 2, 3, 4]"}, "keys are not all text"),
    ],
)
def test_safetensors_without_a_list_of_keys_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, problem: str
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"logits": torch.from_numpy(LOGITS)}, path, metadata)
    assert str(refusal(path)) == (
        f"{path} cannot be read ({problem}); expected tensor 'logits' [rows, classes], metadata 'keys': "
        "a JSON list; write it again in this form"
    )


@pytest.mark.parametrize("suffix", WRITERS)
def test_keys_that_come_twice_are_counted_and_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, ["a", "b", "a", "b"])
    assert refusal(path).problem == f"{path} cannot be read (2 keys come twice, first 'a', 'b')"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".csv"])
def test_classes_that_come_twice_are_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, classes=["Walk", "Walk", "Jump"])
    assert refusal(path).problem == f"{path} cannot be read (1 classes come twice, first 'Walk')"


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_counted_and_the_first_keys_named(
    tmp_path: Path, suffix: str, value: float
) -> None:
    logits = LOGITS.copy()
    logits[1, 0] = logits[3, 2] = logits[3, 1] = value
    path = write(tmp_path, suffix, logits=logits)
    assert str(refusal(path)) == (
        f"{path}: logits of 2 samples are not finite, first 'Wave_1_0', 'Ümlaut_1'; expected finite numbers; "
        "mend these samples, or leave them out and import with --partial"
    )


def test_float64_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ".npz", logits=LOGITS.astype(np.float64) * 1e200)
    assert "logits of 4 samples are not finite" in refusal(path).problem


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_probabilities_are_not_taken_for_logits(tmp_path: Path, dtype: type) -> None:
    powers = np.exp(np.random.default_rng(1).normal(size=(4, 400)))
    path = write(tmp_path, ".npz", logits=(powers / powers.sum(axis=1, keepdims=True)).astype(dtype))
    assert str(refusal(path)) == (
        f"{path} holds probabilities: every row sums to one; expected logits, as they are before the "
        "softmax; give logits; where there are none, the probabilities' logarithms"
    )


def test_a_format_that_is_not_read_and_a_file_that_is_not_there_are_wrong_usage(tmp_path: Path) -> None:
    for path, problem in (
        (tmp_path / "theirs.pt", "has suffix '.pt'; expected one of .npz, .safetensors, .csv, .parquet;"),
        (tmp_path / "theirs.npz", "is no file; expected other systems' logits;"),
    ):
        error = refusal(path)
        assert isinstance(error, UsageError)
        assert str(error).startswith(f"{path} {problem}")
