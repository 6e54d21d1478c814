"""Manifests: write then read is the identity, every change is found, and nothing is ever half there."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.damage import damaged
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.manifest import (
    FILENAME,
    Manifest,
    commit,
    finished,
    first_difference,
    read,
    verify,
    write_atomically,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(), JSON, max_size=4)
DIGESTS = st.dictionaries(st.text(), st.text("0123456789abcdef"), max_size=3)
FILES = st.dictionaries(
    st.from_regex(r"\A([a-z]{1,3}/)?[a-z0-9-]{1,12}\.(tar|idx|csv)\Z"), st.binary(max_size=300), max_size=3
)
WORK = {"arch": "x3d_tiny", "clip": {"frames": 16, "size": 64}}


def fill(directory: Path, files: dict[str, bytes]) -> None:
    for name, payload in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(payload)


def student(directory: Path, **kinds: Any) -> Manifest:
    """A finished directory with two files."""
    fill(directory, {"model.safetensors": b"weights" * 99, "logits/test.safetensors": b"logits" * 9})
    wanted: dict[str, Any] = {
        "kind": "student",
        "settings": WORK,
        "inputs": {"shards": "aa", "target": "bb"},
    }
    return commit(directory, **{**wanted, **kinds}, files=["model.safetensors", "logits/test.safetensors"])


# --- Write, read, compare ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(), SETTINGS, DIGESTS, FILES, SETTINGS)
def test_what_is_committed_is_read(
    kind: str,
    values: dict[str, Any],
    inputs: dict[str, str],
    files: dict[str, bytes],
    summary: dict[str, Any],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        fill(directory, files)
        written = commit(directory, kind, values, inputs, files, summary)
        assert read(directory) == written
        assert (written.kind, written.settings, written.inputs) == (kind, values, inputs)
        assert {name: record.bytes for name, record in written.files.items()} == {
            name: len(payload) for name, payload in files.items()
        }
        verify(directory, written)


def test_a_directory_without_a_manifest_is_not_finished(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None
    assert finished(tmp_path, "student", {}, {}) is None


def test_the_same_work_is_finished(tmp_path: Path) -> None:
    written = student(tmp_path)
    assert finished(tmp_path, written.kind, written.settings, written.inputs) == written


def test_paths_and_tuples_in_settings_compare_as_json(tmp_path: Path) -> None:
    values = {"short_side": [64, 80], "videos": "/v"}
    student(tmp_path, settings=values, inputs={})
    assert finished(tmp_path, "student", {"short_side": (64, 80), "videos": Path("/v")}, {}) is not None


@pytest.mark.parametrize(
    ("change", "name", "was", "now"),
    [
        ({"kind": "teacher"}, "kind", "student", "teacher"),
        ({"settings": {**WORK, "arch": "other"}}, "settings.arch", "x3d_tiny", "other"),
        ({"settings": {**WORK, "clip": {"frames": 8, "size": 99}}}, "settings.clip.frames", 16, 8),
        ({"settings": {**WORK, "clip": None}}, "settings.clip", {"frames": 16, "size": 64}, None),
        ({"settings": {"arch": "x3d_tiny"}}, "settings.clip", {"frames": 16, "size": 64}, "nothing"),
        ({"inputs": {"shards": "aa", "target": "cc"}}, "inputs.target", "bb", "cc"),
        ({"inputs": {"shards": "aa", "target": "bb", "t3": "dd"}}, "inputs.t3", "nothing", "dd"),
    ],
)
def test_other_work_is_refused_by_the_first_field_that_differs(
    tmp_path: Path, change: dict[str, Any], name: str, was: object, now: object
) -> None:
    written = student(tmp_path)
    wanted: dict[str, Any] = {"kind": written.kind, "settings": written.settings, "inputs": written.inputs}
    with pytest.raises(MismatchError) as caught:
        finished(tmp_path, **{**wanted, **change})
    assert str(caught.value) == (
        f"{tmp_path} was made with {name} = {was}; expected {now}, as the experiment says now; "
        "use another root, or remove the directory (`--replace` does) to make it again"
    )


def test_a_digest_speaks_of_settings_inputs_and_files_but_not_of_the_summary(tmp_path: Path) -> None:
    first = student(tmp_path)
    assert student(tmp_path, summary={"seconds": 3}).digest() == first.digest()
    assert student(tmp_path, settings={}).digest() != first.digest()
    assert student(tmp_path, inputs={}).digest() != first.digest()
    (tmp_path / "model.safetensors").write_bytes(b"other")
    again = commit(tmp_path, "student", first.settings, first.inputs, first.files)
    assert again.digest() != first.digest()


# --- The first difference ----------------------------------------------------------------------------------


@given(JSON, JSON)
def test_only_different_values_have_a_first_difference(found: Any, wanted: Any) -> None:
    assert (first_difference(found, wanted) is None) == (found == wanted)


@given(SETTINGS)
def test_a_value_does_not_differ_from_what_json_makes_of_it(value: dict[str, Any]) -> None:
    assert first_difference(value, json.loads(json.dumps(value))) is None


def test_a_missing_field_is_not_one_that_says_nothing() -> None:
    assert first_difference({"a": "nothing"}, {}) == ("a", "nothing", "nothing")


FIELDS = st.sampled_from(["arch", "clip", "lr", "seed"])
TREE = st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(FIELDS, inner, max_size=3), max_leaves=6)


@given(st.dictionaries(FIELDS, TREE, min_size=1), st.data())
def test_the_one_field_that_differs_is_named_with_its_dots(
    found: dict[str, Any], data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(places(found)))
    wanted = copy.deepcopy(found)
    inner = wanted
    for field in place[:-1]:
        inner = inner[field]
    was, inner[place[-1]] = inner[place[-1]], "changed"
    assert first_difference(found, wanted) == (".".join(place), was, "changed")


def places(tree: dict[str, Any]) -> list[list[str]]:
    inner = [
        [name, *rest] for name, value in tree.items() if isinstance(value, dict) for rest in places(value)
    ]
    return [*([name] for name in tree), *inner]


# --- Damage ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.data())
def test_any_flipped_bit_is_found_and_its_file_named(payload: bytes, data: st.DataObject) -> None:
    place, bit = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        fill(directory, {"whole.tar": payload, "altered.tar": payload})
        written = commit(directory, "shards", {}, {}, ["whole.tar", "altered.tar"])
        altered = bytearray(payload)
        altered[place] ^= 1 << bit
        (directory / "altered.tar").write_bytes(altered)
        with pytest.raises(
            DataError, match=r"altered\.tar was altered; expected sha256 .*; remove .* to make it"
        ):
            verify(directory, written)
        verify(directory, written, ["whole.tar"])


@pytest.mark.parametrize("length", [0, 1, 692])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, length: int) -> None:
    written = student(tmp_path)
    os.truncate(tmp_path / "model.safetensors", length)
    expected = (
        rf"model\.safetensors holds {length} bytes; expected 693 by its manifest; remove .* to make it again"
    )
    with pytest.raises(DataError, match=expected):
        verify(tmp_path, written)


def test_a_file_that_grew_is_named(tmp_path: Path) -> None:
    written = student(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match=r"model\.safetensors holds 694 bytes; expected 693"):
        verify(tmp_path, written)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    written = student(tmp_path)
    (tmp_path / "logits/test.safetensors").unlink()
    with pytest.raises(
        DataError, match=r"logits/test\.safetensors is missing; expected 54 bytes .*; remove .* to make"
    ):
        verify(tmp_path, written)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"schema": 1}',
        '{"schema": 1, "files": []}',
        '{"schema": 1, "files": {"a": 5}}',
        '{"schema": 1, "files": {"a": {"bytes": 5}}}',
        '{"schema": 1, "files": {}, "kind": "student", "settings": {}}',
        '{"schema": 1, "files": {}, "kind": "student", "settings": {}, "inputs": {}, "more": 1}',
        "\x80",
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILENAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        DataError, match=rf"manifest {re.escape(str(tmp_path / FILENAME))} is damaged .*; remove"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    "field", ["kind", "settings", "inputs", "files", "summary", "sha256"], ids=lambda field: f"of {field}"
)
def test_a_manifest_that_its_own_digest_does_not_fit_is_named(tmp_path: Path, field: str) -> None:
    student(tmp_path, summary={"seconds": 3})
    path = tmp_path / FILENAME
    document = json.loads(path.read_text())
    if field in ("kind", "sha256"):
        document[field] = document[field][::-1]
    else:
        document[field].pop(next(iter(document[field])))
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"manifest {path} is damaged (it does not match its own sha256); "
        f"expected a manifest as it was written; remove {tmp_path} to make it again"
    )


def test_a_manifests_own_digest_is_that_of_its_other_fields_as_sorted_json(tmp_path: Path) -> None:
    student(tmp_path, settings={**WORK, "classes": ["Läufer"], "bound": 20.0}, summary={"seconds": 3})
    document = json.loads((tmp_path / FILENAME).read_text())
    digest = document.pop("sha256")
    assert digest == hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def test_a_manifest_says_the_same_in_another_order_and_layout(tmp_path: Path) -> None:
    written = student(tmp_path)
    document = json.loads((tmp_path / FILENAME).read_text())
    (tmp_path / FILENAME).write_text(json.dumps(dict(reversed(document.items()))))
    assert read(tmp_path) == written


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_flipped_or_missing_byte_of_a_manifest_is_found_unless_it_changes_nothing(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        written = student(directory, settings={**WORK, "lr": 0.1, "bound": 20.0}, summary={"rejected": 3})
        path = directory / FILENAME
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        try:
            found = read(directory)
        except DataError as error:
            assert str(path) in error.problem  # noqa: PT017 - most damage must raise, none must pass
        else:
            assert found == written


def test_another_schema_is_refused(tmp_path: Path) -> None:
    student(tmp_path)
    document = json.loads((tmp_path / FILENAME).read_text())
    (tmp_path / FILENAME).write_text(json.dumps({**document, "schema": 2}))
    with pytest.raises(DataError, match=r"manifest\.json has schema 2; expected schema 1"):
        read(tmp_path)


# --- Whole or not at all -----------------------------------------------------------------------------------


@contextmanager
def mounted_disk(folder: Path) -> Iterator[Path]:
    """A disk of 64 KiB in `folder`; skips the test where it cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path) as disk:
        yield disk


def test_a_full_disk_leaves_the_old_content_and_nothing_beside_it(small_disk: Path) -> None:
    write_atomically(small_disk / "state.pt", b"old")
    with pytest.raises(OSError, match=r"No space left on device: '.*/state\.pt'"):
        write_atomically(small_disk / "state.pt", b"new" * 99_999)
    assert (small_disk / "state.pt").read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["state.pt"]


def test_a_full_disk_leaves_no_new_file(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(small_disk / "logits" / "train.safetensors", b"new" * 99_999)
    assert list((small_disk / "logits").iterdir()) == []


def test_a_directory_whose_manifest_found_no_room_is_not_finished(small_disk: Path) -> None:
    fill(small_disk, {"model.safetensors": b"weights"})
    with pytest.raises(OSError, match="No space left on device"):
        commit(small_disk, "student", {"notes": "long" * 99_999}, {}, ["model.safetensors"])
    assert read(small_disk) is None


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    payloads = [letter * 200_000 for letter in (b"a", b"b")]
    path, seen, ended = tmp_path / "state.pt", set(), threading.Event()
    write_atomically(path, payloads[0])

    def look() -> None:
        while not ended.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(50):
        write_atomically(path, payloads[number % 2])
    ended.set()
    reader.join()
    assert seen <= set(payloads)


WRITING = """
import sys
from itertools import cycle
from pathlib import Path
from ukd_dist.manifest import write_atomically

for letter in cycle([b"a", b"b"]):
    write_atomically(Path(sys.argv[1]), letter * 3_000_000)
"""


def test_a_writer_that_is_killed_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for _ in range(3):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", WRITING, str(path)])
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.003)
        writer.kill()
        writer.wait()
        assert path.read_bytes() in (b"a" * 3_000_000, b"b" * 3_000_000)


def test_folders_are_made_on_the_way(tmp_path: Path) -> None:
    write_atomically(tmp_path / "teachers" / "a" / "history.jsonl", b"line\n")
    assert (tmp_path / "teachers/a/history.jsonl").read_bytes() == b"line\n"
