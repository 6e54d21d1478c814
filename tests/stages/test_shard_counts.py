"""ARID's three list formats and its real clips become shards that hold what a count by hand gives.

By hand: lists are cut up as text, and frames are counted as the packets of a clip's container. The product
does neither.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import pytest

from tests.stages.test_shard import context, study
from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.stages.shard import shard

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(Cluster(), tmp_path_factory.mktemp("logs")) as ray:
        yield ray


@dataclass(frozen=True)
class Line:
    """A line of a list, read by hand."""

    text: str
    class_name: str
    key: str
    label: int

    @classmethod
    def read(cls, text: str) -> Line:
        """Read a line of v1.0 (tabs), v1.1 (commas) or v1.5 (a space)."""
        if "\t" in text:
            _, label, path = text.split("\t")
        elif "," in text:
            _, path, label = text.split(",")
        else:
            path, label = text.split(" ")
        folder, file = path.split("/")
        return cls(text, folder, file[:-4], int(label))


@dataclass(frozen=True)
class Listing:
    """Lines of real lists, and what comes beside them.

    Attributes:
        train: Lines of the training list.
        test: Lines of the test list.
        header: First line of both files, or empty.
        table: Lines of the class table; empty for none.
    """

    train: list[Line]
    test: list[Line]
    header: str = ""
    table: str = ""

    @property
    def splits(self) -> dict[str, list[Line]]:
        """Both, by the name that shards give them."""
        return {"train": self.train, "test": self.test}

    def write(self, home: Path, clips: Path, damaged: dict[str, bytes]) -> None:
        """The lists, and a folder with links to the clips that they name; some are other files instead."""
        (home / "lists").mkdir()
        if self.table:
            (home / "lists/mapping_table.txt").write_text(self.table)
        for split, lines in self.splits.items():
            text = self.header + "".join(f"{line.text}\n" for line in lines)
            (home / f"lists/split0_{split}.txt").write_text(text)
            for line in lines:
                path = home / "videos" / line.class_name / f"{line.key}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                if line.key in damaged:
                    path.write_bytes(damaged[line.key])
                else:
                    path.symlink_to(clips / line.class_name / path.name)


def lines_of(arid_data: Path, name: str) -> list[Line]:
    """The lines of a real list that name a clip which is there."""
    texts = (arid_data / "arid_lists" / name).read_text().splitlines()
    lines = [Line.read(text) for text in texts if re.search(r"\.(avi|mp4)", text)]
    clips = arid_data / "arid_subset/videos"
    return [line for line in lines if (clips / line.class_name / f"{line.key}.mp4").is_file()]


def few(lines: list[Line]) -> list[Line]:
    """One line of the first class, two of the second, one of the third, and so on."""
    of_class: dict[str, list[Line]] = {}
    for line in lines:
        of_class.setdefault(line.class_name, []).append(line)
    return [line for number, name in enumerate(sorted(of_class)) for line in of_class[name][: 1 + number % 2]]


def besides(lines: list[Line], taken: list[Line]) -> list[Line]:
    """The lines whose clips are not taken."""
    keys = {line.key for line in taken}
    return [line for line in lines if line.key not in keys]


def table_of(arid_data: Path, name: str, lines: list[Line]) -> str:
    """A real class table's lines, of the classes that are listed."""
    names = {line.class_name for line in lines}
    texts = (arid_data / "arid_lists" / name).read_text().splitlines()
    return "".join(f"{text}\n" for text in texts if text.split()[1] in names)


def v1_0(arid_data: Path) -> Listing:
    train = few(lines_of(arid_data, "v1.0/ARID_split3_train.txt"))
    test = few(lines_of(arid_data, "v1.0/ARID_split3_test.txt"))
    return Listing(train, test, table=table_of(arid_data, "v1.0/mapping_table.txt", train))


def v1_1(arid_data: Path) -> Listing:
    """Its training list is the only one that is public: the test clips are others of it."""
    lines = lines_of(arid_data, "v1.1/ARID1.1_t1_train_pub.csv")
    train = few(lines)
    table = table_of(arid_data, "v1.1/mapping_table_t1.txt", train)
    return Listing(train, few(besides(lines, train)), "VideoID,Video,ClassID\n", table)


def v1_5(arid_data: Path) -> Listing:
    """Its test list is the only one that is public, and comes without a table."""
    test = lines_of(arid_data, "v1.5/test_2011.txt")[:4]
    return Listing(few(besides(lines_of(arid_data, "v1.0/ARID_split2_train.txt"), test)), test)


def packets_in(file: str | BinaryIO) -> int:
    """How many pictures a clip's container holds."""
    with av.open(file) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def pictures_in_tars(directory: Path) -> dict[tuple[str, str], int]:
    """Split and key of every rgb component of the tars -> how many pictures it holds."""
    found = {}
    for path in directory.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, component = member.name.partition(".")
                if component == "rgb.mp4":
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    found[path.name.partition("-")[0], key] = packets_in(io.BytesIO(content))
    return found


def check(directory: Path, listing: Listing, clips: Path, damaged: dict[str, str]) -> None:
    """Compare finished shards with a count by hand; `damaged` gives the reasons of those that are."""
    sound = [
        (split, line) for split, lines in listing.splits.items() for line in lines if line.key not in damaged
    ]
    classes = dict(sorted((line.label, line.class_name) for line in listing.train))
    labels = {name: label for label, name in enumerate(classes.values())}
    frames = {
        (split, line.key): packets_in(str(clips / line.class_name / f"{line.key}.mp4"))
        for split, line in sound
    }

    found = manifest.read(directory)
    assert found is not None
    assert found.summary == {
        "samples": Counter(split for split, _ in sound),
        "rejected": Counter(damaged.values()),
    }
    assert found.settings["classes"] == list(classes.values())
    assert found.settings["listed_labels"] == list(classes)

    rows = list(csv.DictReader(io.StringIO((directory / "samples.csv").read_text())))
    assert Counter((row["split"], row["class"], int(row["label"])) for row in rows) == Counter(
        (split, line.class_name, labels[line.class_name]) for split, line in sound
    )
    assert {(row["split"], row["key"]): int(row["frames"]) for row in rows} == frames
    assert {row["key"]: row["class"] for row in rows} == {line.key: line.class_name for _, line in sound}
    for split, number in found.summary["samples"].items():
        assert [int(row["row"]) for row in rows if row["split"] == split] == list(range(number))
    assert pictures_in_tars(directory) == frames

    rejects = [json.loads(line) for line in (directory / "rejects.jsonl").read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in rejects} == damaged


@pytest.mark.parametrize("listing_of", [v1_0, v1_1, v1_5], ids=["v1.0", "v1.1", "v1.5"])
def test_real_clips_of_each_list_format_are_counted_as_by_hand(
    listing_of: Callable[[Path], Listing], arid_data: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    listing, clips = listing_of(arid_data), arid_data / "arid_subset/videos"
    empty, no_video = listing.train[2].key, listing.test[0].key
    listing.write(tmp_path, clips, {empty: b"", no_video: b"no video"})

    shard(context(study(tmp_path / "run", tmp_path, "data.max_rejected=0.5"), cluster))

    check(tmp_path / "run/shards", listing, clips, {empty: "no_frames", no_video: "unreadable"})


@pytest.mark.slow
def test_the_whole_real_subset_is_counted_as_by_hand(
    arid_data: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    subset = arid_data / "arid_subset"
    train, test = (
        [Line.read(text) for text in (subset / f"lists/split0_{split}.txt").read_text().splitlines()]
        for split in ("train", "test")
    )

    shard(context(study(tmp_path, subset), cluster))

    assert (len(train), len(test)) == (102, 48)
    check(tmp_path / "shards", Listing(train, test), subset / "videos", {})
