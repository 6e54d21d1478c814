"""Shards as the stage leaves them, of samples and components that a test makes up or encodes itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ukd_dist import manifest
from ukd_dist.data.shards import SAMPLES, SPLITS, Sample, ShardSet, samples_csv, shard_name, write_shard
from ukd_dist.data_config import Encoding

ENCODING = Encoding()
INPUTS = {"source": "0" * 64}


def finish(
    directory: Path,
    content: Iterable[tuple[Sample, dict[str, bytes]]],
    classes: Sequence[str],
    *,
    encoding: Encoding = ENCODING,
    samples_per_shard: int = 1_000_000,
    files: Sequence[str] = (),
    summary: dict[str, Any] | None = None,
    **settings: Any,
) -> ShardSet:
    """Write tars, indexes, table and manifest.

    Args:
        directory: Where to.
        content: Each sample with its encoded components.
        classes: Names by label.
        encoding: What the manifest says of it.
        samples_per_shard: By default each split is one tar.
        files: Others that lie there, for the manifest.
        summary: The manifest's.
        settings: Further ones in the manifest.
    """
    every, names = list(content), [SAMPLES, *files]
    for split in SPLITS:
        own = [entry for entry in every if entry[0].split == split]
        for begin in range(0, len(own), samples_per_shard):
            tar = shard_name(split, begin // samples_per_shard)
            write_shard(directory / tar, own[begin : begin + samples_per_shard])
            names += [tar, Path(tar).with_suffix(".idx").name]
    manifest.write_atomically(directory / SAMPLES, samples_csv(sample for sample, _ in every))
    described = {"classes": list(classes), "encoding": encoding.model_dump(mode="json"), **settings}
    manifest.commit(directory, "shards", described, INPUTS, names, summary)
    return ShardSet(directory)
