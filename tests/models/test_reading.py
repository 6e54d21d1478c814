"""Checkpoints' files: what each kind gives, and that nothing in one is ever run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.models.checkpoints import python2_pickle
from ukd_dist.errors import DataError
from ukd_dist.models.reading import read_tensors

WEIGHTS = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor([1.5]))


class Trap:
    """To unpickle it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as refused:
        read_tensors(path)
    return str(refused.value)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("around", ["", "model_state", "state_dict", "model"])
def test_torch_files_give_their_weights_without_what_is_around_them(
    around: str, new: bool, tmp_path: Path
) -> None:
    content = (
        {around: WEIGHTS, "epoch": 3, "cfg": "TRAIN: true", "optimizer": {"state": {}}} if around else WEIGHTS
    )
    torch.save(content, tmp_path / "theirs.pyth", _use_new_zipfile_serialization=new)
    assert same(read_tensors(tmp_path / "theirs.pyth"))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "theirs.safetensors")
    assert same(read_tensors(tmp_path / "theirs.safetensors"))


@pytest.mark.parametrize("python", [2, 3])
def test_caffe2s_blobs_are_read_without_the_optimizers(python: int, tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in WEIGHTS.items()}
    arrays["a_momentum"] = np.zeros((2, 3), np.float32)
    if python == 2:
        content = python2_pickle(arrays)
    else:
        content = pickle.dumps({"blobs": {**arrays, "lr": 0.1, "model_iter": np.int64(7)}}, protocol=2)
    (tmp_path / "theirs.pkl").write_bytes(content)
    assert same(read_tensors(tmp_path / "theirs.pkl"))


def test_blobs_keep_their_order_of_bytes_and_axes(tmp_path: Path) -> None:
    value = np.arange(6, dtype=">f8").reshape(2, 3)
    blobs = {"big": value, "columns": np.asfortranarray(value.astype(np.float32))}
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    found = read_tensors(tmp_path / "theirs.pkl")
    assert {name: tensor.tolist() for name, tensor in found.items()} == dict.fromkeys(blobs, value.tolist())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
def test_a_torch_file_with_an_object_is_refused_and_the_object_not_made(new: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "theirs.pth", tmp_path / "ran"
    content = {"state_dict": WEIGHTS, "meta": Trap(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    told = refusal(path)
    assert told.startswith(
        f"{path} holds Python objects (posix.mkdir), and to read them is to run code; expected "
    )
    assert "if you trust it, convert it elsewhere: python -c " in told
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_blobs_with_an_object_are_refused_and_the_object_not_made(protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "theirs.pkl", tmp_path / "ran"
    blobs = {"a": np.zeros(2, np.float32), "b": Trap(marker)}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=protocol))
    assert refusal(path).startswith(f"{path} holds Python objects (posix.mkdir), and")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile", "os.system"]
)
def test_blobs_may_name_nothing_but_arrays(name: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.pkl"
    module, _, function = name.rpartition(".")
    path.write_bytes(f"\x80\x02c{module}\n{function}\n.".encode("latin1"))
    assert refusal(path).startswith(f"{path} holds Python objects ({name}), and")


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.array([{}, None], object)}}, protocol=2))
    assert refusal(path).startswith(f"{path} holds Python objects (numpy.dtype('O8')), and")


@pytest.mark.parametrize("kind", ["pth", "old.pth", "pkl", "safetensors"])
def test_a_file_that_was_cut_off_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"theirs.{kind}"
    if kind == "pkl":
        path.write_bytes(python2_pickle({name: value.numpy() for name, value in WEIGHTS.items()}))
    elif kind == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "pth")
    path.write_bytes(path.read_bytes()[:-20])
    told = refusal(path)
    assert told.startswith(f"{path} is damaged (")
    assert told.endswith("; expected a checkpoint as it was written; fetch it again")


def test_blobs_that_lie_about_their_shape_are_damaged(tmp_path: Path) -> None:
    content = python2_pickle({"a": np.zeros((2, 3), np.float32)})
    (tmp_path / "theirs.pkl").write_bytes(
        content.replace(struct.pack("<i", 3) + b"t", struct.pack("<i", 4) + b"t")
    )
    assert "is damaged (cannot reshape array of size 6 into shape (2,4))" in refusal(tmp_path / "theirs.pkl")


def altered(content: bytes, at: int, value: int) -> bytes:
    """Torch's file with another byte in its pickle, and sums of zip that fit it."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            part = bytearray(old.read(name))
            if name.endswith("data.pkl"):
                part[at % len(part)] = value
            new.writestr(name, bytes(part))
    return changed.getvalue()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, 1000), value=st.integers(0, 255))
def test_a_torch_file_with_another_byte_in_its_pickle_is_read_or_named(at: int, value: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.pth"
        torch.save({"state_dict": WEIGHTS, "epoch": 3}, path)
        path.write_bytes(altered(path.read_bytes(), at, value))
        with contextlib.suppress(DataError):
            read_tensors(path)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, 5000), value=st.integers(0, 255))
def test_a_file_of_before_zip_with_another_byte_is_read_or_named(at: int, value: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.pth"
        torch.save({"state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=False)
        content = bytearray(path.read_bytes())
        content[at % len(content)] = value
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            read_tensors(path)


@pytest.mark.parametrize("content", [b"\x8e" + struct.pack("<q", 2**62), b"h\x05.", b"K\x00R.", b"\xff"])
def test_blobs_that_do_not_unpickle_are_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "theirs.pkl").write_bytes(b"\x80\x02" + content)
    assert refusal(tmp_path / "theirs.pkl").startswith(f"{tmp_path / 'theirs.pkl'} is damaged (")


def test_an_instruction_that_nobody_knows_is_damage_and_no_object(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(WEIGHTS, path)
    path.write_bytes(altered(path.read_bytes(), 2, 0xFF))
    assert refusal(path) == (
        f"{path} is damaged (Unsupported operand 255); expected a checkpoint as it was written; "
        "fetch it again, or save it with pickle_protocol=2"
    )


@pytest.mark.parametrize("blobs", [None, 7, [np.zeros(2, np.float32)]])
def test_blobs_that_are_no_mapping_hold_no_tensors(blobs: object, tmp_path: Path) -> None:
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    assert refusal(tmp_path / "theirs.pkl").startswith(
        f"{tmp_path / 'theirs.pkl'} holds no tensors; expected"
    )


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n and more", b"<html>not found</html>"])
def test_other_formats_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(content)
    assert refusal(tmp_path / "theirs") == (
        f"{tmp_path / 'theirs'} is in no known format; expected safetensors, a file of torch.save, "
        "or Caffe2's blobs (.pkl); convert it to safetensors"
    )


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {"state_dict": {"epoch": 3}}])
def test_a_file_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "theirs.pth")
    assert refusal(tmp_path / "theirs.pth").startswith(
        f"{tmp_path / 'theirs.pth'} holds no tensors; expected "
    )
