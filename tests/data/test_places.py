"""Shards in a folder or a real S3-compatible store: what is read is whole, or the answer says what is not."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path

import pytest

from tests.data.test_shard_cache import flip, write_noise
from tests.store import Store, free_port, serving
from ukd_dist import manifest
from ukd_dist.data import places
from ukd_dist.data.places import Place, place_of, write_place
from ukd_dist.errors import DataError, ResourceError, UsageError
from ukd_dist.manifest import FILENAME

TAR = "train-000000.tar"
AGAIN = "bring the shards there again, the manifest last"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("made") / "shards")


@pytest.fixture
def url(made: Path, store: Store) -> str:
    """Shards in a bucket of the test's own."""
    return store.upload(made, f"bucket-{uuid.uuid4()}/arid/v1")


def answer_of(place: Place) -> str:
    with pytest.raises((DataError, ResourceError, UsageError)) as caught:
        place.manifest()
    return str(caught.value)


def test_a_store_gives_the_bytes_of_the_folder(made: Path, url: str) -> None:
    found = Place(url).manifest()
    assert found == manifest.read(made) == Place(str(made)).manifest()
    for name, record in found.files.items():
        content = (made / name).read_bytes()
        assert b"".join(Place(url).blocks(name, record)) == content
        assert b"".join(Place(str(made)).blocks(name, record)) == content


@pytest.mark.parametrize("name", [TAR, "samples.csv", "test-000000.idx"])
@pytest.mark.parametrize("kind", ["flipped", "cut off", "longer", "missing"])
def test_damage_in_a_store_is_named(kind: str, name: str, url: str, store: Store) -> None:
    found, key = Place(url).manifest(), f"{url.removeprefix('s3://')}/{name}"
    record, content = found.files[name], bytearray(store.get(key))
    if kind == "missing":
        store.remove(key)
    else:
        content[-1] ^= kind == "flipped"
        store.put(key, bytes(content[:-1] if kind == "cut off" else content + b"x" * (kind == "longer")))
    problem = {
        "flipped": f"was altered; expected sha256 {record.sha256[:12]}... by its manifest",
        "cut off": f"holds {record.bytes - 1} bytes; expected {record.bytes} by its manifest",
        "longer": f"holds more than {record.bytes} bytes; expected {record.bytes} by its manifest",
        "missing": "is missing; expected every file of the manifest",
    }[kind]
    with pytest.raises(DataError) as caught:
        Place(url).check(name, record)
    assert str(caught.value) == f"{url}/{name} {problem}; {AGAIN}"


def test_shards_whose_manifest_is_missing_are_not_finished(url: str, store: Store, tmp_path: Path) -> None:
    store.remove(f"{url.removeprefix('s3://')}/{FILENAME}")
    wanted = (
        f"holds no finished shards; expected a {FILENAME} there, which comes last; correct data.shards, or "
        "bring whole shards there"
    )
    for name in (url, f"{url}/other", "s3://no-such-bucket/arid", str(tmp_path), str(tmp_path / "nothing")):
        assert answer_of(Place(name)) == f"{name} {wanted}"


def test_a_damaged_manifest_is_named(url: str, store: Store) -> None:
    key = f"{url.removeprefix('s3://')}/{FILENAME}"
    store.put(key, store.get(key)[:-3])
    answer = answer_of(Place(url))
    assert answer.startswith(f"manifest {url}/{FILENAME} is damaged (")
    assert answer.endswith(f"); expected a manifest as it was written; {AGAIN}")


def test_another_finished_directory_is_no_shards(tmp_path: Path) -> None:
    manifest.commit(tmp_path, "teacher", {}, {}, [])
    assert answer_of(Place(str(tmp_path))) == (
        f"{tmp_path} holds a finished teacher; expected shards, all of them in one folder; correct "
        "data.shards"
    )


@pytest.mark.parametrize("name", ["../stolen", "below/one.tar", ".hidden", "/etc/passwd"])
def test_a_manifest_cannot_name_files_outside_its_folder(name: str, tmp_path: Path) -> None:
    record = manifest.FileRecord(0, "0" * 64)
    manifest.write(tmp_path, manifest.Manifest("shards", {}, {}, {name: record}))
    assert answer_of(Place(str(tmp_path))).startswith(f"{tmp_path} holds a file {name}; expected shards, all")


def test_a_key_that_may_not_read_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "server.log", check_rights=True) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        answer = answer_of(Place("s3://bucket/arid"))
    assert answer.startswith("s3://bucket/arid/manifest.json: ")
    assert answer.endswith(
        "; expected leave to read it; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may "
        "read"
    )


def test_a_store_that_is_not_there_is_told_within_seconds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    answer = answer_of(Place("s3://bucket/arid"))
    assert time.monotonic() - began < 30
    assert answer.startswith("s3://bucket/arid/manifest.json: ")
    assert answer.endswith(
        "; expected a store that answers; check AWS_ENDPOINT_URL, AWS_REGION and the network, and run again"
    )


def test_a_store_that_never_answers_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_SILENCE_SECONDS", 1)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        answer = answer_of(Place("s3://bucket/arid"))
    assert 1 <= time.monotonic() - began < 60
    assert "; expected a store that answers; check AWS_ENDPOINT_URL" in answer


def test_a_services_own_endpoint_goes_before_the_common_one(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert Place(url).manifest().kind == "shards"


def test_a_runs_tars_are_in_its_shards_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert place_of(tmp_path).folder == tmp_path
    write_place(tmp_path, Place("s3://bucket/arid"))
    assert place_of(tmp_path) == Place("s3://bucket/arid")
    path = tmp_path / "place.json"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"^{path} is damaged \(.*; remove {tmp_path} and run `ukd shard`$"):
        place_of(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / FILENAME).mkdir()
    assert answer_of(Place(str(tmp_path))) == (
        f"{tmp_path}/{FILENAME}: Is a directory; expected a file that can be read; check it and run again"
    )


def test_a_flipped_byte_in_a_folder_is_found(made: Path, tmp_path: Path) -> None:
    shards = write_noise(tmp_path / "shards")
    found = Place(str(shards)).manifest()
    Place(str(shards)).check(TAR, found.files[TAR])
    flip(shards / TAR, 12)
    with pytest.raises(
        DataError, match=rf"^{shards}/{TAR} was altered; .*; remove {shards} to make it again"
    ):
        Place(str(shards)).check(TAR, found.files[TAR])
