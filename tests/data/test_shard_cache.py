"""A node's copy of the shards: made once, by one process, whole or not at all, and damage in it is found."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_shards import CLASSES, write_set
from tests.store import Store
from ukd_dist import manifest
from ukd_dist.data.places import Place, write_place
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import Sample, ShardSet
from ukd_dist.data.tarchecks import BLOCK_BYTES, TarChecks, checks_bytes, checks_path
from ukd_dist.errors import DataError, MismatchError, ResourceError, UsageError
from ukd_dist.manifest import FILENAME

TARS = ("test-000000.tar", "train-000000.tar", "train-000001.tar")
OPEN = """
import logging, sys
from pathlib import Path
from ukd_dist.data.shard_cache import open_to_decode
logging.basicConfig(format="%(message)s")
open_to_decode(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def write_noise(directory: Path, seed: int = 0, size: int = 700_000) -> Path:
    """Three tars of noise, of which two are longer than a block of checksums."""
    rng = np.random.default_rng(seed)
    content = []
    for split, rows in (("train", 4), ("test", 1)):
        for row in range(rows):
            sample = Sample(split, row, f"{split}{row}", row % 3, CLASSES[row % 3], "", 30, 30.0, 64, 48)
            content.append((sample, {"rgb.mp4": rng.bytes(size + row)}))
    return write_set(directory, content)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("made") / "shards")


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    """A run's shards directory that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "node/cache"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    place, libc = tmp_path / "disk", ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=2m"):
        pytest.skip(f"no tmpfs can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield place
    assert libc.umount2(bytes(place), 2) == 0


def everything(shards: ShardSet) -> dict[str, bytes]:
    return {s.key: shards.read(s.split, s.row, "rgb.mp4").tobytes() for s in shards.samples}


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def copies(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.getMessage().startswith("copying")]


def begin(shards: Path, cache: Path) -> subprocess.Popen[str]:
    """Another process that opens the shards."""
    command = [sys.executable, "-c", OPEN, str(shards), str(cache)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stall(shards: Path, name: str) -> tuple[Path, bytes]:
    """Make a file of the shards a pipe: who copies it waits in the middle until the rest is written."""
    payload = (shards / name).read_bytes()
    (shards / name).unlink()
    os.mkfifo(shards / name)
    return shards / name, payload


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@contextmanager
def copying(shards: Path, cache: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], object]]]:
    """A process that copies the shards and waits in the middle of one, and what makes it go on."""
    copy = cache / ShardSet(shards).digest
    pipe, payload = stall(shards, TARS[2])
    process = begin(shards, cache)
    with pipe.open("wb") as file:
        file.write(payload[: BLOCK_BYTES + 1])
        file.flush()
        wait_for(copy / f".{TARS[2]}.partial")
        yield process, partial(file.write, payload[BLOCK_BYTES + 1 :])


def test_a_copy_holds_what_the_shards_hold_and_is_a_shards_directory_itself(made: Path, cache: Path) -> None:
    opened = open_to_decode(made, cache)
    assert opened.directory == cache / ShardSet(made).digest
    assert everything(opened) == everything(ShardSet(made))
    assert everything(ShardSet(opened.directory)) == everything(ShardSet(made))
    assert opened.digest == ShardSet(made).digest


def test_a_second_use_copies_nothing(made: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_to_decode(made, cache).directory
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert len(copies(caplog)) == 1
    second = open_to_decode(made, cache).directory
    assert {path: path.stat().st_mtime_ns for path in second.iterdir()} == before
    assert len(copies(caplog)) == 1


def test_a_second_use_reads_no_tar_before_it_is_asked_for(made: Path, cache: Path) -> None:
    copy = open_to_decode(made, cache).directory
    for tar in TARS:
        os.truncate(copy / tar, 0)
        os.truncate(copy / tar, (made / tar).stat().st_size)  # holes: as long as before, with nothing in them
    assert open_to_decode(made, cache).directory == copy


def test_a_copy_is_used_when_the_shards_are_out_of_reach(shards: Path, cache: Path) -> None:
    before = everything(open_to_decode(shards, cache))
    for tar in TARS:
        (shards / tar).unlink()
    assert everything(open_to_decode(shards, cache)) == before


def test_two_shard_sets_never_mix(made: Path, tmp_path: Path, cache: Path) -> None:
    other = write_noise(tmp_path / "other", seed=1)
    first, second = open_to_decode(made, cache), open_to_decode(other, cache)
    assert first.directory != second.directory
    assert everything(first) == everything(ShardSet(made))
    assert everything(second) == everything(ShardSet(other))


def test_of_two_processes_one_copies_and_the_other_says_whom_it_waits_for(shards: Path, cache: Path) -> None:
    copy = cache / ShardSet(shards).digest
    with copying(shards, cache) as (one, go_on):
        other = begin(shards, cache)
        assert other.stderr is not None
        waits = other.stderr.readline()
        go_on()
    said = one.communicate(timeout=60)[1]
    assert waits.startswith(f"waiting for process {one.pid} on ")
    assert waits.rstrip().endswith(f", which copies the shards to {copy}")
    assert other.communicate(timeout=60)[1] == ""
    assert (one.returncode, other.returncode) == (0, 0)
    assert said.startswith("copying 7 files, ")
    assert everything(open_to_decode(shards, cache))


def test_what_a_killed_process_left_is_finished_by_the_next(
    made: Path, shards: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = cache / ShardSet(made).digest
    with copying(shards, cache) as (killed, _):
        wait_for(copy / TARS[0])
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
    assert manifest.read(copy) is None
    assert not (copy / TARS[2]).exists()

    opened = open_to_decode(made, cache)

    assert everything(opened) == everything(ShardSet(made))
    assert copies(caplog)[0].split(",")[0] != "copying 7 files"
    assert not list(copy.glob(".*"))


@pytest.mark.parametrize("name", [*TARS, "samples.csv", "train-000001.idx", FILENAME])
def test_a_file_of_the_copy_that_is_missing_or_cut_off_is_copied_again(
    name: str, made: Path, cache: Path
) -> None:
    copy = open_to_decode(made, cache).directory
    whole = contents(copy)
    (copy / name).unlink()
    assert everything(open_to_decode(made, cache)) == everything(ShardSet(made))
    assert contents(copy) == whole
    os.truncate(copy / name, (copy / name).stat().st_size - 1)
    assert everything(open_to_decode(made, cache)) == everything(ShardSet(made))
    assert contents(copy) == whole


@pytest.mark.parametrize("name", ["samples.csv", "train-000001.idx", FILENAME])
def test_a_flipped_byte_in_a_copys_table_is_copied_again(name: str, made: Path, cache: Path) -> None:
    copy = open_to_decode(made, cache).directory
    whole = contents(copy)
    flip(copy / name, 100 if name != "train-000001.idx" else 9)
    assert everything(open_to_decode(made, cache)) == everything(ShardSet(made))
    assert contents(copy) == whole


@pytest.mark.parametrize("suffix", [".tar", ".xxh3"])
def test_a_flipped_byte_in_a_copys_tar_is_named_when_it_is_read_and_copied_again(
    suffix: str, made: Path, cache: Path
) -> None:
    opened = open_to_decode(made, cache)
    path = (opened.directory / TARS[1]).with_suffix(suffix)
    flip(path, BLOCK_BYTES + 5 if suffix == ".tar" else 8 + 3)
    assert opened.read("train", 0, "rgb.mp4").tobytes() == everything(ShardSet(made))["train0"]
    with pytest.raises(DataError) as caught:
        opened.read("train", 1, "rgb.mp4")
    assert str(caught.value) == (
        f"{opened.directory / TARS[1]} was altered in bytes 1048576 to 2097151; expected the copy that was "
        "checked when it was made; run again, it is copied again; where it recurs, check the node's disk and "
        "memory"
    )
    assert everything(open_to_decode(made, cache)) == everything(ShardSet(made))


def test_every_byte_of_a_tar_has_a_checksum(made: Path, cache: Path) -> None:
    copy = open_to_decode(made, cache).directory
    for tar in TARS:
        size = (copy / tar).stat().st_size
        assert checks_path(copy / tar).stat().st_size == checks_bytes(size) == -(-size // BLOCK_BYTES) * 8
    tar = copy / TARS[1]
    for place in (0, BLOCK_BYTES - 1, BLOCK_BYTES, tar.stat().st_size - 1):
        flip(tar, place)
        assert not is_sound(tar)
        flip(tar, place)
        assert is_sound(tar)


@pytest.mark.parametrize("name", [TARS[1], "samples.csv", "train-000000.idx"])
@pytest.mark.parametrize("kind", ["flipped", "cut off", "longer", "missing"])
def test_damage_at_the_source_is_named_and_never_copied(
    kind: str, name: str, shards: Path, cache: Path
) -> None:
    record = read(shards).files[name]
    path = shards / name
    if kind == "flipped":
        flip(path, 3)
    elif kind == "cut off":
        os.truncate(path, record.bytes - 1)
    elif kind == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
    problem = {
        "flipped": f"{path} was altered; expected sha256 {record.sha256[:12]}... by its manifest",
        "cut off": f"{path} holds {record.bytes - 1} bytes; expected {record.bytes} by its manifest",
        "longer": f"{path} holds more than {record.bytes} bytes; expected {record.bytes} by its manifest",
        "missing": f"{path} is missing; expected every file of the manifest",
    }[kind]
    with pytest.raises(DataError) as caught:
        open_to_decode(shards, cache)
    assert (
        str(caught.value) == f"{problem}; remove {shards} to make it again, or bring the shards there again"
    )
    copy = cache / read(shards).digest()
    assert not (copy / name).exists()
    assert not (copy / FILENAME).exists()
    assert not list(copy.glob(".*"))


def test_a_full_disk_is_named_with_the_bytes_that_are_needed(made: Path, small_disk: Path) -> None:
    needed = sum(record.bytes for record in read(made).files.values())
    with pytest.raises(ResourceError) as caught:
        open_to_decode(made, small_disk)
    assert str(caught.value) == (
        f"{small_disk} has no room for a copy of the shards from {made}; expected {needed} bytes free; "
        "remove copies of other shards there, or set another cluster.shard_cache"
    )


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_that_passes_for_whole(
    tmp_path: Path, small_disk: Path
) -> None:
    shards = write_noise(tmp_path / "shards", size=300_000)
    found = read(shards)
    copy = small_disk / found.digest()
    pipe, payload = stall(shards, TARS[1])
    process = begin(shards, small_disk)
    with pipe.open("wb") as file:
        wait_for(copy / TARS[2])
        wait_for(copy / "train-000001.idx")
        (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        with suppress(BrokenPipeError):
            file.write(payload)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert said.partition("ResourceError: ")[2] == (
        f"{small_disk} has no room for a copy of the shards from {shards}; expected {len(payload)} bytes "
        "free; remove copies of other shards there, or set another cluster.shard_cache"
    )
    assert not (copy / FILENAME).exists()
    assert not list(copy.glob(".*"))
    assert not (copy / TARS[1]).exists()
    for tar in (TARS[0], TARS[2]):
        assert manifest.sha256_of(copy / tar) == found.files[tar].sha256


def test_without_a_cache_shards_are_read_where_they_lie(made: Path, tmp_path: Path) -> None:
    assert open_to_decode(made, None).directory == made
    run = tables_of(made, tmp_path / "run/shards", Place(str(made)))
    assert open_to_decode(run, None).directory == made


def test_other_shards_where_the_run_found_its_own_are_refused(shards: Path, tmp_path: Path) -> None:
    run = tables_of(shards, tmp_path / "run/shards", Place(str(shards)))
    shutil.rmtree(shards)
    write_noise(shards, seed=2)
    with pytest.raises(MismatchError) as caught:
        open_to_decode(run, None)
    assert str(caught.value) == (
        f"{shards} holds other shards than when this run began; expected those of {run / FILENAME}; use "
        "another root, or run `ukd shard` with --replace"
    )


def test_unfinished_shards_are_refused_as_without_a_cache(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished shards; expected a manifest; make them with"):
        open_to_decode(tmp_path, cache)


def test_shards_of_a_store_are_copied_whole(made: Path, tmp_path: Path, cache: Path, store: Store) -> None:
    run = tables_of(made, tmp_path / "run/shards", Place(store.upload(made, "whole/arid/v1")))
    opened = open_to_decode(run, cache)
    assert everything(opened) == everything(ShardSet(made))
    assert opened.directory == cache / ShardSet(made).digest


def test_shards_of_a_store_need_a_cache(made: Path, tmp_path: Path) -> None:
    run = tables_of(made, tmp_path / "run/shards", Place("s3://bucket/arid"))
    with pytest.raises(UsageError) as caught:
        open_to_decode(run, None)
    assert str(caught.value) == (
        f"{run} are those of s3://bucket/arid, and there is no cluster.shard_cache; expected a folder on "
        "every node's own disk with room for a copy of the shards; set cluster.shard_cache"
    )


def tables_of(shards: Path, run: Path, place: Place) -> Path:
    """A run's shards directory whose tars are elsewhere."""
    shutil.copytree(shards, run, ignore=shutil.ignore_patterns("*.tar"))
    write_place(run, place)
    return run


def read(shards: Path) -> manifest.Manifest:
    found = manifest.read(shards)
    assert found is not None
    return found


def is_sound(tar: Path) -> bool:
    """Whether every byte of a copied tar passes its check, without losing the tar."""
    kept = tar.read_bytes()
    with tar.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        TarChecks(tar.parent).check(tar.name, content, 0, len(content))
    except DataError:
        tar.write_bytes(kept)
        return False
    return True


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
