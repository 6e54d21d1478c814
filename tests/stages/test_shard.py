from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.odd_videos import film
from tests.data.test_odd_videos import KINDS, SOUND
from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.shards import Sample, ShardSet, read_index
from ukd_dist.data.sources import ListedVideo, read_source
from ukd_dist.data_config import Encoding
from ukd_dist.errors import DataError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.exporter import merge_snapshots
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.probing import probe_videos
from ukd_dist.stages.shard import shard, shard_settings, write_one
from ukd_dist.status import rejected

STUDY = """
name: study
root: {root}
data:
  source: arid
  videos: {drawn}/videos
  splits: {{split0: {{train: {drawn}/lists/split0_train.txt, test: {drawn}/lists/split0_test.txt}}}}
  modalities: [rgb]
  encoding: {{short_side: 32, samples_per_shard: 8}}
teachers: {{fleet: [{{arch: slowfast_tiny, modality: rgb}}]}}
targets: {{ukd: {{method: pkd}}}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none}}]}}
"""


def study(root: Path, drawn: Path, *overrides: str) -> Experiment:
    return parse(STUDY.format(root=root, drawn=drawn), "study.yaml", list(overrides))


def context(experiment: Experiment, cluster: RayCluster) -> Context:
    return Context(RunDirectory(experiment.root), experiment, cluster, Progress())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(Cluster(), tmp_path_factory.mktemp("logs")) as ray:
        yield ray


@pytest.fixture
def damaged(videos: Path, tmp_path: Path) -> Path:
    """The drawn videos, of which one is empty and one is cut off."""
    drawn = tmp_path / "drawn"
    shutil.copytree(videos, drawn)
    paths = sorted((drawn / "videos").glob("*/*.mp4"))
    paths[0].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:20_000])
    return drawn


@pytest.mark.cluster
def test_more_damaged_videos_than_allowed_stop_the_stage_and_are_listed(
    damaged: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    experiment = study(tmp_path / "run", damaged)

    with pytest.raises(
        DataError, match=r"2 of 33 videos cannot be used.* at most 1.0% \(data.max_rejected\)"
    ):
        shard(context(experiment, cluster))

    assert manifest.read(tmp_path / "run/shards") is None
    assert sum(rejected(RunDirectory(tmp_path / "run")).values()) == 2
    snapshots = merge_snapshots((tmp_path / "run/metrics").glob("*.prom"))
    listed = {sample.name: sample.value for family in snapshots for sample in family.samples}
    assert listed == {"ukd_listed_samples": 33}


@pytest.mark.cluster
def test_damaged_videos_are_left_out_with_their_reasons_and_rows_stay_whole(
    damaged: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    experiment = study(tmp_path / "run", damaged, "data.max_rejected=0.1")

    shard(context(experiment, cluster))

    shards = ShardSet(tmp_path / "run/shards")
    lines = [json.loads(line) for line in (shards.directory / "rejects.jsonl").read_text().splitlines()]
    assert sorted(line["reason"] for line in lines) == ["no_frames", "unreadable"]
    kept = [key for rows in shards.rows.values() for key in rows.keys]
    assert len(kept) == 31
    assert not {line["key"] for line in lines} & set(kept)
    for split, rows in shards.rows.items():
        assert [s.row for s in shards.samples if s.split == split] == list(range(len(rows)))


@pytest.mark.cluster
def test_every_reason_of_a_rejection_is_listed_and_counted(
    videos: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    drawn = tmp_path / "drawn"
    shutil.copytree(videos, drawn)
    first_of = {kind.verdict: kind for kind in reversed(KINDS) if kind.verdict != SOUND}
    kinds = list(first_of.values())
    expected = {}
    for kind, path in zip(kinds, sorted((drawn / "videos").glob("*/*_1_1.mp4")), strict=False):
        path.unlink()
        kind.make(path)
        expected[path.stem] = kind.verdict
    experiment = study(tmp_path / "run", drawn, "data.max_rejected=0.5")

    shard(context(experiment, cluster))

    lines = [json.loads(line) for line in (tmp_path / "run/shards/rejects.jsonl").read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == expected
    assert rejected(RunDirectory(tmp_path / "run")) == dict.fromkeys((kind.verdict for kind in kinds), 1)


@pytest.mark.parametrize("name", ["two words.mp4", "v1.5.final.mp4", "Läufer_跑步.mp4"])
def test_a_sample_is_named_by_its_key_whatever_its_file_is_called(name: str, tmp_path: Path) -> None:
    film()(tmp_path / name)
    (verdict,) = probe_videos([ListedVideo("Run_1_1", 0, "1", tmp_path / name)])
    assert verdict.info is not None
    sample = Sample("train", 0, verdict.video.key, 0, "Run", "1", verdict.info.frames, 30.0, 96, 64)

    write_one(tmp_path / "train-000000.tar", [(sample, tmp_path / name)], ("rgb", "flow"), Encoding(), "vp9")

    ((key, components),) = read_index(tmp_path / "train-000000.idx")
    assert key == "Run_1_1"
    assert set(components) == {"index.i32", "json", "rgb.mp4", "flow.mp4"}


@pytest.mark.cluster
def test_validation_videos_have_tars_and_rows_of_their_own_and_the_others_keep_theirs(
    videos: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    whole = study(tmp_path / "whole", videos)
    parted = study(tmp_path / "parted", videos, "data.validation={share: 0.5}")
    shard(context(whole, cluster))
    shard(context(parted, cluster))

    before, after = ShardSet(tmp_path / "whole/shards"), ShardSet(tmp_path / "parted/shards")
    recorded = [manifest.read(shards.directory) for shards in (before, after)]
    assert [found and found.settings.get("validation") for found in recorded] == [
        None,
        {"share": 0.5, "by": "group", "seed": 0},
    ]
    assert [found and list(found.summary["samples"]) for found in recorded] == [
        ["train", "test"],
        ["train", "validation", "test"],
    ]
    assert before.splits == ("train", "test")
    assert after.splits == ("train", "validation", "test")
    assert {split: len(rows) for split, rows in after.rows.items()} == {
        "train": 11,
        "validation": 11,
        "test": 11,
    }
    assert sorted(after.rows["train"].keys + after.rows["validation"].keys) == sorted(
        before.rows["train"].keys
    )
    (held_out,) = {s.group for s in after.samples if s.split == "validation"}
    assert held_out not in {s.group for s in after.samples if s.split == "train"}
    assert len(after.read("validation", 10, "rgb.mp4")) > 1000
    for name in ("test-000000.tar", "test-000001.tar"):
        assert (after.directory / name).read_bytes() == (before.directory / name).read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("codec", ["vp9", "copy", "jpeg"])
def test_tars_that_are_there_are_not_made_again_and_the_bytes_are_the_same(
    videos: Path, tmp_path: Path, cluster: RayCluster, codec: str
) -> None:
    stored = [f"data.codec={codec}", *(["data.encoding.short_side=null"] if codec == "copy" else [])]
    whole, cut = (study(tmp_path / name, videos, *stored) for name in ("whole", "cut"))
    shard(context(whole, cluster))
    shard(context(cut, cluster))
    directory = tmp_path / "cut/shards"
    kept = directory / "train-000001.tar"
    written_ns = kept.stat().st_mtime_ns
    undo_the_end(directory)

    shard(context(cut, cluster))

    assert kept.stat().st_mtime_ns == written_ns
    assert contents(directory) == contents(tmp_path / "whole/shards")
    assert ShardSet(directory).codec == codec


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        ([], {}),
        (["data.encoding.jpeg_qscale=5"], {}),
        (["data.codec=jpeg"], {"jpeg_qscale": 2}),
        (["data.encoding.flow=farneback"], {"flow": "farneback"}),
    ],
)
def test_settings_that_make_no_difference_to_earlier_shards_are_not_recorded(
    videos: Path, tmp_path: Path, overrides: list[str], recorded: dict[str, object]
) -> None:
    data = study(tmp_path, videos, *overrides).data
    earlier = {"short_side": 32, "crf_rgb": 24, "crf_flow": 12, "flow_bound": 20.0, "samples_per_shard": 8}
    assert shard_settings(data, read_source(data))["encoding"] == {**earlier, **recorded}


@pytest.mark.cluster
def test_a_folder_of_classes_and_ucf101s_lists_become_shards_that_keep_what_was_listed(
    videos: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    home = tmp_path / "there"
    labels = {"Run": 12, "Sit": 7}
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name, label in labels.items():
        for number, path in enumerate(sorted((videos / "videos" / name).glob("*.mp4")), start=1):
            file = f"v_{name}_g0{number}_c01"
            (home / "videos" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, home / "videos" / name / f"{file}.mp4")
            part, suffix = ("test", "") if number == 1 else ("train", f" {label}")
            lists[part].append(f"{name}/{file}.avi{suffix}\n")
    for part, lines in lists.items():
        (home / f"{part}list01.txt").write_text("".join(lines))
    (home / "classInd.txt").write_text("".join(f"{label} {name}\n" for name, label in labels.items()))
    split = f"{{train: {home}/trainlist01.txt, test: {home}/testlist01.txt}}"
    common = [f"data.videos={home}/videos", "targets={}"]
    listed = study(
        tmp_path / "listed", videos, *common, "data.source=csv", f"data.splits={{split1: {split}}}"
    )
    folder = study(
        tmp_path / "folder",
        videos,
        *common,
        "data.source=folder",
        "data.splits={}",
        "data.split={test: 0.34, by: group}",
    )

    shard(context(listed, cluster))
    shard(context(folder, cluster))

    first, second = ShardSet(tmp_path / "listed/shards"), ShardSet(tmp_path / "folder/shards")
    mapping = [(s["classes"], s["listed_labels"]) for s in (settings_of(first), settings_of(second))]
    assert mapping == [(["Sit", "Run"], [7, 12]), (["Run", "Sit"], ["Run", "Sit"])]
    assert sorted(first.rows["test"].keys) == ["v_Run_g01_c01", "v_Sit_g01_c01"]
    everything = [
        sorted((s.key, s.class_name, s.group) for s in shards.samples) for shards in (first, second)
    ]
    assert everything[0] == everything[1]
    assert {group for _, _, group in everything[0]} == {"g01", "g02", "g03"}
    assert {s.group for s in second.samples if s.split == "test"}.isdisjoint(
        s.group for s in second.samples if s.split == "train"
    )


def test_a_preferred_distribution_that_prefers_nothing_is_refused_before_any_work(
    videos: Path, tmp_path: Path
) -> None:
    experiment = study(tmp_path / "run", videos, "targets.ukd.h=0.05")

    with (
        RayCluster(Cluster(), tmp_path) as unused,
        pytest.raises(UsageError, match=r"h is 0.05"),
    ):
        shard(context(experiment, unused))

    assert not unused.was_asked
    assert not (tmp_path / "run").exists()


def settings_of(shards: ShardSet) -> dict[str, Any]:
    found = manifest.read(shards.directory)
    assert found is not None
    return found.settings


def undo_the_end(directory: Path) -> None:
    """Leave a shards directory as a kill would: its plan is there, its manifest and a tar's index are not."""
    found = manifest.read(directory)
    assert found is not None
    plan = json.dumps({"settings": found.settings, "inputs": found.inputs}, sort_keys=True)
    (directory / "plan.json").write_text(plan)
    for name in ("manifest.json", "samples.csv", "train-000000.idx", "test-000000.tar"):
        (directory / name).unlink()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
