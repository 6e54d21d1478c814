"""Shards: what is written is what any reader reads, and no damage passes for data."""

from __future__ import annotations

import io
import json
import string
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.damage import damaged, flipped, shortened, spoiled
from tests.finished_shards import INPUTS, finish
from ukd_dist import manifest
from ukd_dist.data.shards import (
    SAMPLES,
    SPLITS,
    Sample,
    ShardSet,
    keys_digest,
    read_index,
    samples_csv,
    write_shard,
)
from ukd_dist.data.sources import MAX_KEY_BYTES
from ukd_dist.data.videofacts import RejectedVideoError
from ukd_dist.data_config import Encoding
from ukd_dist.errors import DataError, UsageError

Content = list[tuple[Sample, dict[str, bytes]]]
CLASSES = ("Run", "Sit", "Walk")
STEMS = ("train-000000", "train-000001", "test-000000")  # of the small shards' tars and indexes


def sample(row: int, key: str, label: int = 0, split: str = "train", frames: int = 30) -> Sample:
    assert split in SPLITS
    return Sample(split, row, key, label, CLASSES[label], "3", frames, 29.97, 64, 48)


def write_set(directory: Path, content: Content, samples_per_shard: int = 3) -> Path:
    summary = {"samples": {split: sum(s.split == split for s, _ in content) for split in SPLITS}}
    finish(directory, content, CLASSES, samples_per_shard=samples_per_shard, summary=summary, codec="vp9")
    return directory


def small_content() -> Content:
    rng = np.random.default_rng(0)
    places = [("train", row) for row in range(5)] + [("test", row) for row in range(2)]
    return [
        (
            sample(row, f"{split}_{row}", row % 3, split, 20 + row),
            {"rgb.mp4": rng.bytes(100 + row), "flow.mp4": rng.bytes(700)},
        )
        for split, row in places
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in three tars; their components are noise."""
    return write_set(tmp_path_factory.mktemp("finished"), small_content())


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The same, for a test to spoil."""
    return write_set(tmp_path, small_content())


# Written, then read.

KEYS = st.text(
    "".join(sorted(set(string.printable) - set(string.whitespace) - set("./\\"))),
    min_size=1,
    max_size=MAX_KEY_BYTES,
)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    names = ["rgb.mp4", *draw(st.sets(st.sampled_from(["flow.mp4", "mv.bin", "txt"])))]
    keys = draw(st.lists(KEYS, min_size=2, max_size=7, unique=True))
    trained, test = sorted(draw(st.integers(1, len(keys) - 1)) for _ in range(2))
    counts = {"train": trained, "validation": test - trained, "test": len(keys) - test}
    places = [(split, row) for split, count in counts.items() for row in range(count)]
    return [
        (
            replace(
                sample(row, key, draw(st.integers(0, 2)), split, draw(st.integers(2, 10_000))),
                group=draw(st.text(string.ascii_letters + " ,\"'", max_size=5)),
                fps=draw(st.floats(1, 240)),
            ),
            {name: draw(st.binary(max_size=1200)) for name in names},
        )
        for (split, row), key in zip(places, keys, strict=True)
    ]


@given(content=contents(), samples_per_shard=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: Content, samples_per_shard: int
) -> None:
    shards = ShardSet(write_set(tmp_path_factory.mktemp("any"), content, samples_per_shard))
    assert shards.samples == [written for written, _ in content]
    for written, components in content:
        rows = shards.rows[written.split]
        assert rows.keys[written.row] == written.key
        assert (rows.labels[written.row], rows.frames[written.row]) == (written.label, written.frames)
        for name, payload in components.items():
            assert shards.read(written.split, written.row, name).tobytes() == payload
        numbers = struct.pack("<3i", written.row, written.label, written.frames)
        assert shards.read(written.split, written.row, "index.i32").tobytes() == numbers
        described = json.loads(shards.read(written.split, written.row, "json").tobytes())
        assert described["class"] == CLASSES[written.label]
        assert described["key"] == written.key


def test_a_shard_set_knows_its_classes_encoding_and_row_counts(finished: Path) -> None:
    shards = ShardSet(finished)
    assert shards.classes == CLASSES
    assert shards.encoding == Encoding()
    assert {split: len(shards.rows[split]) for split in shards.splits} == {"train": 5, "test": 2}
    assert shards.rows["test"].digest == keys_digest(["test_0", "test_1"])


@given(st.lists(KEYS, min_size=1, max_size=5, unique=True), st.data())
def test_the_keys_digest_depends_on_every_key_and_on_their_order(
    keys: list[str], data: st.DataObject
) -> None:
    other = data.draw(st.permutations(keys) | st.lists(KEYS, max_size=5))
    assert (keys_digest(other) == keys_digest(keys)) == (other == keys)


def test_a_split_without_samples_has_no_rows(tmp_path: Path) -> None:
    content = [entry for entry in small_content() if entry[0].split == "train"]
    assert len(ShardSet(write_set(tmp_path, content)).rows["test"]) == 0


# Other readers.


def tars(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.tar"))


def expected_members(tar: Path) -> dict[str, bytes]:
    """Name -> bytes, in order, of what one of the small tars must hold."""
    split, number = tar.stem.split("-")
    own = [entry for entry in small_content() if entry[0].split == split][
        3 * int(number) : 3 * int(number) + 3
    ]
    members = {}
    for written, components in own:
        row = {("class" if k == "class_name" else k): v for k, v in vars(written).items()}
        index = struct.pack("<3i", written.row, written.label, written.frames)
        every = {**components, "index.i32": index, "json": json.dumps(row, sort_keys=True).encode()}
        members.update({f"{written.key}.{name}": every[name] for name in sorted(every)})
    return members


def test_plain_tarfile_reads_the_members(finished: Path) -> None:
    for path in tars(finished):
        with tarfile.open(path) as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert list(found.items()) == list(expected_members(path).items())


def test_webdataset_reads_the_samples(finished: Path) -> None:
    urls = [str(path) for path in tars(finished)]
    read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    found = {
        f"{one['__key__']}.{name}": payload
        for one in read
        for name, payload in one.items()
        if not name.startswith("__")
    }
    assert found == {
        name: payload for path in tars(finished) for name, payload in expected_members(path).items()
    }
    assert len(read) == 7


def test_dalis_own_reader_reads_the_samples_in_order(finished: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    paths = [str(path) for path in tars(finished)]

    @pipeline_def(batch_size=7, num_threads=1, device_id=None)
    def pipeline() -> tuple[object, ...]:
        return tuple(
            fn.readers.webdataset(
                paths=paths,
                index_paths=[path.replace(".tar", ".idx") for path in paths],
                ext=["rgb.mp4", "index.i32"],
            )
        )

    built = pipeline()
    built.build()
    videos, indexes = built.run()
    in_order = sorted(small_content(), key=lambda entry: SPLITS[::-1].index(entry[0].split))
    for position, (written, components) in enumerate(in_order):
        assert np.asarray(videos.at(position)).tobytes() == components["rgb.mp4"]
        found = np.asarray(indexes.at(position)).view(np.int32).tolist()
        assert found == [written.row, written.label, written.frames]


def headers(tar: Path) -> Iterator[bytes]:
    """The raw 512-byte header of every member."""
    content = tar.read_bytes()
    with tarfile.open(tar) as opened:
        for member in opened:
            yield content[member.offset : member.offset + 512]


def test_every_header_is_plain_ustar_without_owner_or_time(finished: Path) -> None:
    for tar in tars(finished):
        for header in headers(tar):
            mode, uid, gid, mtime = header[100:107], header[108:115], header[116:123], header[136:147]
            assert header[257:263] == b"ustar\x00"
            assert header[156:157] == b"0"
            assert (int(mode, 8), int(uid, 8), int(gid, 8), int(mtime, 8)) == (0o444, 0, 0, 0)
            assert header[265:329] == bytes(64)


def test_the_longest_key_still_has_a_plain_header(tmp_path: Path) -> None:
    long = "k" * MAX_KEY_BYTES
    write_shard(tmp_path / "train-000000.tar", [(sample(0, long), {"flow.mp4": b"bytes"})])
    for header in headers(tmp_path / "train-000000.tar"):
        assert header[156:157] == b"0"
        assert header.startswith(long.encode())


def test_an_index_points_at_the_bytes(finished: Path) -> None:
    for tar in tars(finished):
        content, members = tar.read_bytes(), expected_members(tar)
        for key, components in read_index(tar.with_suffix(".idx")):
            for name, (offset, size) in components.items():
                assert content[offset : offset + size] == members.pop(f"{key}.{name}")
        assert not members


# The same input, the same bytes.


def sums(directory: Path) -> dict[str, str]:
    return {path.name: manifest.sha256_of(path) for path in sorted(directory.iterdir())}


def test_the_same_samples_have_the_same_sha256(finished: Path, own: Path) -> None:
    assert sums(finished) == sums(own)
    assert ShardSet(finished).digest == ShardSet(own).digest


def test_the_order_in_which_components_are_given_does_not_matter(own: Path, finished: Path) -> None:
    turned = [(written, dict(reversed(components.items()))) for written, components in small_content()]
    assert sums(write_set(own, turned)) == sums(finished)


def test_nothing_but_the_shards_is_left_behind(own: Path) -> None:
    tables = {"manifest.json", SAMPLES}
    assert {path.name for path in own.iterdir()} - tables == {
        f"{stem}.{suffix}" for stem in STEMS for suffix in ("tar", "idx")
    }


# Damage.

FILES = [f"{stem}.{suffix}" for stem in STEMS for suffix in ("tar", "idx")] + [SAMPLES]


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_flipped_byte_is_found_and_its_file_named(finished: Path, name: str, data: st.DataObject) -> None:
    path = finished / name
    with spoiled(path, data.draw(flipped(path.read_bytes()))), pytest.raises(DataError) as raised:
        ShardSet(finished)
    assert str(raised.value).startswith(f"{path} was altered; expected sha256 ")
    assert str(raised.value).endswith(f"by its manifest; remove {finished} to make it again")


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_missing_bytes_are_found_and_their_file_named_with_both_lengths(
    finished: Path, name: str, data: st.DataObject
) -> None:
    path = finished / name
    intact = path.read_bytes()
    left = data.draw(shortened(intact))
    with spoiled(path, left), pytest.raises(DataError) as raised:
        ShardSet(finished)
    assert str(raised.value) == (
        f"{path} holds {len(left)} bytes; expected {len(intact)} by its manifest; "
        f"remove {finished} to make it again"
    )


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".tar")])
def test_tables_and_indexes_are_checked_even_where_the_tars_are_trusted(own: Path, name: str) -> None:
    path = own / name
    path.write_bytes(path.read_bytes().swapcase())
    with pytest.raises(DataError, match=rf"{name} was altered"):
        ShardSet(own, check=False)


def test_the_bytes_of_tars_are_not_read_where_they_are_trusted(own: Path) -> None:
    path = own / "train-000000.tar"
    path.write_bytes(path.read_bytes().swapcase())
    assert ShardSet(own, check=False).rows["train"].keys[0] == "train_0"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_grew_is_named_with_both_lengths(own: Path, name: str) -> None:
    path = own / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError) as raised:
        ShardSet(own)
    assert str(raised.value) == (
        f"{path} holds {size + 1} bytes; expected {size} by its manifest; remove {own} to make it again"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(own: Path, name: str) -> None:
    size = (own / name).stat().st_size
    (own / name).unlink()
    with pytest.raises(DataError) as raised:
        ShardSet(own)
    assert str(raised.value) == (
        f"{own / name} is missing; expected {size} bytes by its manifest; remove {own} to make it again"
    )


def test_without_a_manifest_the_shards_are_not_finished(own: Path) -> None:
    (own / manifest.FILENAME).unlink()
    with pytest.raises(UsageError) as raised:
        ShardSet(own)
    assert str(raised.value) == (
        f"{own} holds no finished shards; expected a manifest; make them with `ukd shard`"
    )


def test_a_finished_directory_of_another_kind_holds_no_shards(tmp_path: Path) -> None:
    manifest.commit(tmp_path, "teacher", {}, {}, [])
    with pytest.raises(UsageError) as raised:
        ShardSet(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} holds no finished shards; expected a manifest of shards, not of a teacher; "
        "make them with `ukd shard`"
    )


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_or_missing_byte_of_the_manifest_is_found_unless_it_changes_nothing(
    finished: Path, data: st.DataObject
) -> None:
    path, written = finished / manifest.FILENAME, manifest.read(finished)
    with spoiled(path, data.draw(damaged(path.read_bytes()))):
        try:
            ShardSet(finished)
        except DataError as error:
            assert str(path) in error.problem  # noqa: PT017 - most damage must raise, none must pass
        else:
            assert manifest.read(finished) == written


# Tables that do not fit, though every digest does.


def refusal(directory: Path, table: bytes) -> str:
    (directory / SAMPLES).write_bytes(table)
    described = {"classes": CLASSES, "encoding": Encoding().model_dump(mode="json")}
    names = [path.name for path in directory.iterdir() if path.name != manifest.FILENAME]
    manifest.commit(directory, "shards", described, INPUTS, names)
    with pytest.raises(DataError) as raised:
        ShardSet(directory)
    return str(raised.value)


def test_a_table_in_another_order_is_refused(own: Path) -> None:
    samples = [written for written, _ in small_content()]
    samples[0], samples[1] = samples[1], samples[0]
    path = own / "train-000000.idx"
    assert refusal(own, samples_csv(samples)) == (
        f"{path} holds 'train_0' at row 0; expected 'train_1' by {SAMPLES}; remove {own} to make it again"
    )


def test_a_table_with_a_sample_too_few_is_refused(own: Path) -> None:
    samples = [written for written, _ in small_content()]
    message = refusal(own, samples_csv(samples[:4] + samples[5:]))
    assert message.startswith(
        f"{own / 'train-000001.idx'} holds 'train_4' at row 4; expected 'None' by {SAMPLES}; remove"
    )


def test_a_table_with_a_sample_too_many_is_refused(own: Path) -> None:
    samples = [written for written, _ in small_content()]
    message = refusal(own, samples_csv([*samples, sample(2, "test_2", 0, "test")]))
    assert message == f"{own} holds 2 test samples; expected 3 by {SAMPLES}; remove {own} to make it again"


def test_a_table_with_other_columns_is_refused(own: Path) -> None:
    table = samples_csv(written for written, _ in small_content()).replace(b"label,", b"", 1)
    message = refusal(own, table)
    assert message.startswith(f"{own / SAMPLES} has columns ['split', 'row', 'key', 'class',")
    assert "; expected ['split', 'row', 'key', 'label', 'class'," in message


def test_an_index_of_another_version_is_refused(own: Path) -> None:
    index = own / "test-000000.idx"
    index.write_bytes(index.read_bytes().replace(b"v1.2 2", b"v1.1 2", 1))
    message = refusal(own, (own / SAMPLES).read_bytes())
    assert message == (
        f"{index} is no index: it begins with 'v1.1 2'; expected 'v1.2 2'; remove {own} to make it again"
    )


def test_a_component_that_the_shards_lack_is_named_with_those_they_have(finished: Path) -> None:
    with pytest.raises(UsageError) as raised:
        ShardSet(finished).read("test", 0, "residual.mp4")
    assert str(raised.value) == (
        f"{finished} has no component 'residual.mp4'; expected one of flow.mp4, index.i32, json, rgb.mp4; "
        "add its modality to data.modalities and shard again"
    )


def test_a_component_is_read_as_a_view_and_not_as_a_copy(finished: Path) -> None:
    read = ShardSet(finished).read("train", 0, "rgb.mp4")
    assert read.dtype == np.uint8
    assert not read.flags.owndata
    assert not read.flags.writeable


def test_a_tar_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def cut_off() -> Iterator[tuple[Sample, dict[str, bytes]]]:
        yield small_content()[0]
        raise RejectedVideoError(tmp_path, "damaged", "in the middle of a shard")

    with pytest.raises(RejectedVideoError):
        write_shard(tmp_path / "train-000000.tar", cut_off())
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_plain_csv(finished: Path) -> None:
    lines = (finished / SAMPLES).read_text().splitlines()
    assert lines[0] == "split,row,key,label,class,group,frames,fps,width,height"
    assert lines[1] == "train,0,train_0,0,Run,3,20,29.97,64,48"
    assert len(io.StringIO((finished / SAMPLES).read_text()).readlines()) == 8


def test_shards_whose_flow_is_spread_as_in_earlier_versions_are_refused(tmp_path: Path) -> None:
    content = [(sample(0, "a"), {"flow.mp4": b"flow"})]
    with pytest.raises(
        DataError, match=r"holds flow whose levels are spread otherwise: even; expected arcsinh"
    ):
        finish(tmp_path, content, ["Run"], modalities=["rgb", "flow"])
    directory = tmp_path / "now"
    finish(directory, content, ["Run"], modalities=["rgb", "flow"], flow_levels="arcsinh")
