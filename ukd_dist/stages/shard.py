"""Videos to shards: lists are checked, every video is probed, then each tar is one task.

Rows are numbered after probing, so a rejected video leaves no gap and no task needs to know of another. A run
that was cut off makes only the tars that are missing.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.data.modalities import FLOW_LEVELS
from ukd_dist.data.shards import SAMPLES, SPLITS, Sample, SplitName, samples_csv, shard_name, write_shard
from ukd_dist.data.sources import Source, read_source
from ukd_dist.data.videofacts import stored_size
from ukd_dist.data_config import Codec, Data, Encoding, Modality, Synthetic
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.metrics import Recorder
from ukd_dist.progress import Bar, Progress
from ukd_dist.rundir import REJECTS
from ukd_dist.splits import as_drawn
from ukd_dist.stages.context import Context
from ukd_dist.stages.probing import Verdict, check_rejects, probe_all, write_rejects
from ukd_dist.stages.reduce import weighting_of

PLAN = "plan.json"
# Streams of random numbers that shuffle the splits. Not their places in SPLITS: shards keep their bytes.
_ORDER: dict[SplitName, int] = {"train": 0, "test": 1, "validation": 2}
_log = logging.getLogger(__name__)


def shard(context: Context) -> None:
    """Make the shards unless they are there.

    Raises:
        DataError: A list is wrong, or more videos are damaged than `data.max_rejected` allows.
        MismatchError: The shards were made from other videos or settings.
    """
    data = _with_videos(context)
    source = read_source(data)
    for combination in context.experiment.combinations:
        weighting_of(combination).check_classes(len(source.classes))
    directory = context.run.shards
    settings = shard_settings(data, source)
    inputs = {"source": source.digest()}
    if context.finished(directory, "shards", settings, inputs):
        return
    claim(directory, settings, inputs)
    verdicts = {split: probe_all(context, listed) for split in SPLITS if (listed := getattr(source, split))}
    probed = [verdict for of_split in verdicts.values() for verdict in of_split]
    rejects = [verdict for verdict in probed if verdict.info is None]
    write_rejects(directory, rejects)
    with Recorder(context.run.metrics, run=context.experiment.name, stage="shard") as recorder:
        recorder.set("ukd_listed_samples", len(probed))
    check_rejects(rejects, len(probed), data.max_rejected, directory)
    samples = [s for split in verdicts for s in _number(split, verdicts[split], source.classes, data)]
    _drop_other_rows(directory, samples_csv(s for s, _ in samples))
    _write_all(context, samples, {v.video.key: v.video.path for v in probed}, data)
    tars = [name for split in verdicts for name in _names(samples, split)]
    files = [SAMPLES, REJECTS, *tars, *(Path(tar).with_suffix(".idx").name for tar in tars)]
    counts = {split: sum(1 for s, _ in samples if s.split == split) for split in verdicts}
    summary = {"samples": counts, "rejected": dict(Counter(v.reason for v in rejects))}
    manifest.commit(directory, "shards", settings, inputs, files, summary)
    (directory / PLAN).unlink()


def shard_settings(data: Data, source: Source) -> dict[str, Any]:
    """The settings that determine the shards' bytes."""
    return {
        **stated_settings(data),
        "classes": list(source.classes),
        "listed_labels": list(source.listed_labels),
    }


def stated_settings(data: Data) -> dict[str, Any]:
    """Those of them that an experiment states by itself, without its videos and lists.

    Of what was no setting yet when shards were made, nothing is recorded unless it is set.
    """
    held_out = {"validation": data.validation.model_dump(mode="json")} if data.validation else {}
    flow = {"flow_levels": FLOW_LEVELS} if "flow" in data.modalities else {}
    return {
        **held_out,
        **flow,
        "modalities": list(data.modalities),
        "codec": data.codec,
        "encoding": _recorded(data),
        "seed": data.seed,
    }


def _recorded(data: Data) -> dict[str, Any]:
    encoding = data.encoding.model_dump(mode="json")
    if data.codec != "jpeg":
        del encoding["jpeg_qscale"]
    if data.encoding.flow == Encoding().flow:
        del encoding["flow"]
    return encoding


def draw(data: Data, home: Path, progress: Progress) -> None:
    """Draw the videos of a synthetic source and write its lists, as far as they are not there.

    Raises:
        UsageError: Sizes or splits are impossible.
        MismatchError: The folder holds videos of another seed.
        ResourceError: A file cannot be written.
    """
    from ukd_dist.data import synthetic

    wanted = data.synthetic or Synthetic()
    with ExitStack() as stack:
        bars: list[Bar] = []

        def on_progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress.bar("videos", total, "videos")))
            bars[0].update(done)

        synthetic.write_dataset(
            home,
            seed=wanted.seed,
            train_clips=wanted.train_clips,
            test_clips=wanted.test_clips,
            splits=wanted.splits,
            on_progress=on_progress,
        )


def _with_videos(context: Context) -> Data:
    """The data with videos and lists in place: a synthetic source draws its own first."""
    data, home = context.experiment.data, context.run.videos
    if data.source != "synthetic":
        return data
    draw(data, home, context.progress)
    return as_drawn(data, home)


def claim(directory: Path, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    """Say what the unfinished directory will hold; what was begun for something else is dropped."""
    plan = json.dumps({"settings": settings, "inputs": inputs}, sort_keys=True).encode()
    path = directory / PLAN
    if directory.is_dir() and not path.is_file() and any(directory.iterdir()):
        raise MismatchError(
            f"{directory} holds files that are no run's",
            expected="an empty folder, or shards that were begun here",
            action="choose another root, or move them away",
        )
    if path.is_file() and path.read_bytes() != plan:
        _log.warning("dropping unfinished shards in %s, which were begun with other settings", directory)
        shutil.rmtree(directory)
    manifest.write_atomically(path, plan)


def _number(
    split: SplitName, verdicts: Sequence[Verdict], classes: Sequence[str], data: Data
) -> list[tuple[Sample, int]]:
    """The split's usable videos in the order of the shards, and the number of each one's tar."""
    usable = [v for v in verdicts if v.info is not None]
    if split != "test":
        _check_classes(usable, classes, "training" if split == "train" else "validation")
    if not usable:
        raise DataError(
            f"no usable video is left in the {split} list",
            expected="at least one",
            action="mend those that were rejected, or list others",
        )
    order = np.random.default_rng([data.seed, _ORDER[split]]).permutation(len(usable))
    numbered = []
    for row, index in enumerate(order):
        video, info = usable[index].video, usable[index].info
        assert info is not None
        width, height = stored_size(info.width, info.height, data.encoding.short_side)
        name = classes[video.label]
        sample = Sample(
            split, row, video.key, video.label, name, video.group, info.frames, info.fps, width, height
        )
        numbered.append((sample, row // data.encoding.samples_per_shard))
    return numbered


def _check_classes(usable: Sequence[Verdict], classes: Sequence[str], kind: str) -> None:
    left = {verdict.video.label for verdict in usable}
    for label, name in enumerate(classes):
        if label not in left:
            raise DataError(
                f"class '{name}' has lost all its {kind} videos to rejection",
                expected=f"a usable {kind} video for each class",
                action=f"see {REJECTS}; mend its videos",
            )


def _names(samples: Sequence[tuple[Sample, int]], split: SplitName) -> list[str]:
    return [shard_name(split, n) for n in sorted({n for sample, n in samples if sample.split == split})]


def _write_all(
    context: Context, samples: Sequence[tuple[Sample, int]], paths: dict[str, Path], data: Data
) -> None:
    shards: dict[str, list[tuple[Sample, Path]]] = {}
    for sample, number in samples:
        shards.setdefault(shard_name(sample.split, number), []).append((sample, paths[sample.key]))
    directory = context.run.shards
    missing = {name: content for name, content in shards.items() if not _written(directory / name)}
    jobs = [
        Job(
            f"shard-{name}",
            write_one,
            (directory / name, content, data.modalities, data.encoding, data.codec),
        )
        for name, content in missing.items()
    ]
    done = sum(len(content) for name, content in shards.items() if name not in missing)
    with context.progress.bar("sharding", len(samples), "videos") as bar:
        for outcome in context.cluster.run(jobs):
            if outcome.error is not None:
                raise outcome.error
            done += outcome.value
            bar.update(done)


def _drop_other_rows(directory: Path, table: bytes) -> None:
    """Write samples.csv before the tars; tars that were begun for other rows are of no use."""
    path = directory / SAMPLES
    if path.is_file() and path.read_bytes() != table:
        for stale in (*directory.glob("*.tar"), *directory.glob("*.idx")):
            stale.unlink()
    manifest.write_atomically(path, table)


def _written(tar: Path) -> bool:
    return tar.is_file() and tar.with_suffix(".idx").is_file()


def write_one(
    tar: Path,
    content: Sequence[tuple[Sample, Path]],
    modalities: Sequence[Modality],
    encoding: Encoding,
    codec: Codec,
) -> int:
    """Encode and write one tar (a Ray task); returns its number of samples."""
    from ukd_dist.data.components import encode_sample

    write_shard(
        tar, ((sample, encode_sample(sample, path, modalities, encoding, codec)) for sample, path in content)
    )
    return len(content)
