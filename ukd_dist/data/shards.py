"""Shards: WebDataset tars with DALI's index beside each, and the table of their samples.

`write_shard` makes one tar; `ShardSet` opens a finished directory and gives any component of any row. The
contract of the format is shards/README.md. What is left out: what a sample's components are made of is
`components`', which videos go where is the shard stage's.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import mmap
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import webdataset
from wds2idx import IndexCreator

from ukd_dist import manifest
from ukd_dist.data.modalities import FLOW_LEVELS
from ukd_dist.data.tarchecks import TarChecks
from ukd_dist.data_config import Codec, Encoding
from ukd_dist.errors import DataError, UsageError

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SAMPLES = "samples.csv"


@dataclass(frozen=True)
class Sample:
    """One row of samples.csv.

    Attributes:
        split: train, validation or test.
        row: Number within the split, in the order of the shards.
        key: Stable name of the video.
        label: Class index.
        class_name: Class name (column `class`).
        group: Recording group, or empty.
        frames: Frames of the video.
        fps: Frames a second.
        width: Stored width, pixels.
        height: Stored height, pixels.
    """

    split: SplitName
    row: int
    key: str
    label: int
    class_name: str
    group: str
    frames: int
    fps: float
    width: int
    height: int


_NAMED: dict[str, SplitName] = {split: split for split in SPLITS}
_COLUMNS = ["class" if f.name == "class_name" else f.name for f in fields(Sample)]


def shard_name(split: str, number: int) -> str:
    """File name of a split's n-th tar."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[tuple[Sample, dict[str, bytes]]]) -> None:
    """Write one tar and its index, each atomically, the index last.

    Args:
        path: The tar; the index lies beside it with suffix `.idx`.
        samples: Each sample with its encoded components.
    """
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0, user="", group="", mode=0o444) as tar:
        for sample, components in samples:
            index = struct.pack("<3i", sample.row, sample.label, sample.frames)
            description = json.dumps(_as_row(sample), sort_keys=True).encode()
            tar.write({"__key__": sample.key, "index.i32": index, "json": description, **components})
    manifest.write_atomically(path, buffer.getvalue())
    partial = path.with_suffix(".idx.partial")
    with IndexCreator(str(path), str(partial), verbose=False) as creator:
        creator.create_index()
    manifest.write_atomically(path.with_suffix(".idx"), partial.read_bytes())
    partial.unlink()


def samples_csv(samples: Iterable[Sample]) -> bytes:
    """The table of all samples, as samples.csv holds it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_as_row(sample) for sample in samples)
    return text.getvalue().encode()


def keys_digest(keys: Iterable[str]) -> str:
    """sha256 over keys in row order: binds logits and targets to the rows they speak of."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


class Rows:
    """The samples of one split, column by column, in row order; `sizes` are heights and widths, pixels."""

    def __init__(self, samples: list[Sample]) -> None:
        self.keys: list[str] = [s.key for s in samples]
        self.labels: npt.NDArray[np.int64] = np.array([s.label for s in samples], np.int64)
        self.groups: list[str] = [s.group for s in samples]
        self.frames: npt.NDArray[np.int64] = np.array([s.frames for s in samples], np.int64)
        sizes = [(s.height, s.width) for s in samples]
        self.sizes: npt.NDArray[np.int64] = np.array(sizes, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def portrait(self) -> npt.NDArray[np.bool_]:
        """Which videos are taller than wide."""
        return self.sizes[:, 0] > self.sizes[:, 1]

    @cached_property
    def digest(self) -> str:
        """The keys' digest."""
        return keys_digest(self.keys)


class ShardSet:
    """A finished shards directory: its samples, and the bytes of any component.

    Args:
        directory: The directory.
        check: Verify bytes and sha256 of the tars too, not of the tables and indexes alone.
        checks: Of the directory's tars, which are then checked as they are read; none: they are not.

    Raises:
        UsageError: The directory is not finished.
        DataError: A file is missing, cut off or altered, or the table does not fit the tars.
    """

    def __init__(self, directory: Path, *, check: bool = True, checks: TarChecks | None = None) -> None:
        found = manifest.read(directory)
        if found is None or found.kind != "shards":
            raise UsageError(
                f"{directory} holds no finished shards",
                expected=f"a manifest of shards, not of a {found.kind}" if found else "a manifest",
                action="make them with `ukd shard`",
            )
        check_flow(directory, found.settings)
        manifest.verify(directory, found, [n for n in found.files if check or not n.endswith(".tar")])
        self.directory = directory
        self.digest = found.digest()
        self.classes: tuple[str, ...] = tuple(found.settings["classes"])
        self.encoding = Encoding(**found.settings["encoding"])
        self.codec: Codec = found.settings.get("codec", "vp9")
        samples = _read_samples(directory / SAMPLES)
        self.rows = {split: Rows([s for s in samples if s.split == split]) for split in SPLITS}
        self.splits: tuple[SplitName, ...] = tuple(split for split in SPLITS if len(self.rows[split]))
        self.samples = samples
        indexes = sorted(directory / name for name in found.files if name.endswith(".idx"))
        self._places = {split: self._index(split, indexes) for split in SPLITS}
        self._maps: dict[str, mmap.mmap] = {}
        self._checks = checks

    def read(self, split: SplitName, row: int, name: str) -> npt.NDArray[np.uint8]:
        """A component's bytes, as a view of the mapped tar.

        Raises:
            UsageError: The shards lack the component.
            DataError: The tar was altered there, where tars are checked as they are read.
        """
        tar, components = self._places[split][row]
        if name not in components:
            raise UsageError(
                f"{self.directory} has no component '{name}'",
                expected=f"one of {', '.join(sorted(components))}",
                action="add its modality to data.modalities and shard again",
            )
        offset, size = components[name]
        if tar not in self._maps:
            with (self.directory / tar).open("rb") as file:
                self._maps[tar] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._checks is not None:
            self._checks.check(tar, self._maps[tar], offset, size)
        return np.frombuffer(self._maps[tar], np.uint8, size, offset)

    def _index(self, split: SplitName, indexes: list[Path]) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        places: list[tuple[str, dict[str, tuple[int, int]]]] = []
        for path in (path for path in indexes if path.name.startswith(f"{split}-")):
            for key, components in read_index(path):
                expected = self.rows[split].keys[len(places)] if len(places) < len(self.rows[split]) else None
                if key != expected:
                    raise DataError(
                        f"{path} holds '{key}' at row {len(places)}",
                        expected=f"'{expected}' by {SAMPLES}",
                        action=f"remove {self.directory} to make it again",
                    )
                places.append((path.with_suffix(".tar").name, components))
        if len(places) != len(self.rows[split]):
            raise DataError(
                f"{self.directory} holds {len(places)} {split} samples",
                expected=f"{len(self.rows[split])} by {SAMPLES}",
                action=f"remove {self.directory} to make it again",
            )
        return places


def check_flow(directory: Path, settings: dict[str, Any]) -> None:
    """Refuse shards whose flow this version would read wrongly.

    Args:
        directory: The shards.
        settings: Those of their manifest.

    Raises:
        DataError: Its levels are spread otherwise.
    """
    levels = settings.get("flow_levels", "even")
    if "flow" in settings.get("modalities", ()) and levels != FLOW_LEVELS:
        raise DataError(
            f"{directory} holds flow whose levels are spread otherwise: {levels}",
            expected=f"{FLOW_LEVELS}, as this version reads them",
            action=f"remove {directory} to make it again",
        )


def read_index(path: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and components (name -> offset and bytes inside the tar) of each sample of a DALI index, v1.2."""
    header, *lines = path.read_text().splitlines()
    version, _, count = header.partition(" ")
    if version != "v1.2" or int(count) != len(lines):
        raise DataError(
            f"{path} is no index: it begins with '{header}'",
            expected=f"'v1.2 {len(lines)}'",
            action=f"remove {path.parent} to make it again",
        )
    samples = []
    for line in lines:
        words = line.split(" ")
        components = {words[i]: (int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 4)}
        samples.append((words[3].split(".", 1)[0], components))
    return samples


def _read_samples(path: Path) -> list[Sample]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _COLUMNS:
            raise DataError(
                f"{path} has columns {reader.fieldnames}",
                expected=str(_COLUMNS),
                action=f"remove {path.parent} to make it again",
            )
        return [_from_row(row) for row in reader]


def _as_row(sample: Sample) -> dict[str, str | int | float]:
    row = asdict(sample)
    return {("class" if name == "class_name" else name): value for name, value in row.items()}


def _from_row(row: dict[str, str]) -> Sample:
    return Sample(
        split=_NAMED[row["split"]],
        row=int(row["row"]),
        key=row["key"],
        label=int(row["label"]),
        class_name=row["class"],
        group=row["group"],
        frames=int(row["frames"]),
        fps=float(row["fps"]),
        width=int(row["width"]),
        height=int(row["height"]),
    )
