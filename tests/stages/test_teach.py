"""A teacher that leaves a fold out: what it is trained on, and what its files say of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from tests.finished_shards import finish
from tests.stages import attempted
from ukd_dist import manifest
from ukd_dist.data.clips import Clips, decode_clips
from ukd_dist.data.folds import assign_folds
from ukd_dist.data.knowledge import LOGITS, TRAINED_ON, logits_path
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.data.views import training_batches
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.metrics import Recorder
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.inference import WEIGHTS
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, supervised
from ukd_dist.training_config import Training

STUDY = """
name: study
root: {root}
data:
  source: synthetic
  folds: {{count: 2}}
  clip: {{frames: 8, stride: 2, size: 32, short_side: [32, 40]}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb, epochs: 1, batch_size: 2}}
  fleet: [{{grid: {{fold: [null, 0, 1]}}}}]
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none, epochs: 1}}]}}
"""
SPLIT_SIZES: dict[SplitName, int] = {"train": 8, "validation": 2, "test": 2}


def shard(shards: ShardSet, directory: Path) -> ShardSet:
    """Real videos of other shards as eight training, two validation and two test samples of two classes."""
    sources: list[tuple[SplitName, int]] = [("train", row) for row in range(8)]
    sources += [("test", row) for row in range(4)]
    content = []
    for split, size in SPLIT_SIZES.items():
        for row in range(size):
            of, number = sources.pop(0)
            frames = int(shards.rows[of].frames[number])
            name = f"{split}{row}"
            sample = Sample(split, row, name, row % 2, ("Run", "Sit")[row % 2], "", frames, 30.0, 84, 64)
            content.append((sample, {"rgb.mp4": shards.read(of, number, "rgb.mp4").tobytes()}))
    return finish(directory, content, ("Run", "Sit"), encoding=shards.encoding)


@pytest.fixture(scope="module")
def taught(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run with a teacher of every row and one of each of two folds."""
    root = tmp_path_factory.mktemp("taught")
    study = parse(STUDY.format(root=root), "study.yaml", [])
    shard(shards, RunDirectory(root).shards)
    for member in study.teachers:
        attempted.train(study, member)
    return study


def clips_of(
    shards: ShardSet, settings: Training, epochs: range, rows: npt.NDArray[np.int64]
) -> Iterator[Clips]:
    """Clips of those rows and of no other."""
    frames, size = shards.rows["train"].frames, settings.batch_size
    batches = list(
        training_batches(frames, settings.clip, seed=settings.seed, epochs=epochs, batch_size=size, rows=rows)
    )
    assert {row for batch in batches for row in batch.rows.tolist()} == set(rows.tolist())
    return decode_clips(
        shards,
        "train",
        settings.modality,
        settings.clip,
        iter(batches),
        batch_size=size,
        device=torch.device("cpu"),
        num_threads=1,
    )


def trained_on(study: Experiment, member: TeacherMember, split: SplitName) -> list[bool]:
    path = logits_path(RunDirectory(study.root).teacher(member.id), split)
    found: list[bool] = load_file(path)[TRAINED_ON].tolist()
    return found


def test_the_files_say_on_which_rows_a_teacher_was_trained(taught: Experiment) -> None:
    rows = ShardSet(RunDirectory(taught.root).shards).rows["train"]
    folds = taught.data.folds
    assert folds is not None
    fold_n = assign_folds(rows.labels, rows.groups, folds, ("Run", "Sit")).tolist()
    whole, *of_folds = taught.teachers
    assert trained_on(taught, whole, "train") == [True] * 8
    for number, member in enumerate(of_folds):
        assert trained_on(taught, member, "train") == [fold != number for fold in fold_n]


def test_logits_are_written_for_every_row_of_every_split(taught: Experiment) -> None:
    for member in taught.teachers:
        directory = RunDirectory(taught.root).teacher(member.id)
        found = manifest.read(directory)
        assert found is not None
        manifest.verify(directory, found)
        assert {name for name in found.files if name.startswith("logits/")} == {
            f"logits/{split}.safetensors" for split in SPLIT_SIZES
        }
        for split, size in SPLIT_SIZES.items():
            assert load_file(logits_path(directory, split))[LOGITS].shape == (size, 2)
            if split != "train":
                assert trained_on(taught, member, split) == [False] * size


def test_an_epoch_is_as_long_as_what_is_trained_on(taught: Experiment) -> None:
    run = RunDirectory(taught.root)
    clips = [line["clips"] for member in taught.teachers for line in read_history(run.teacher(member.id))]
    assert clips == [8, 4, 4]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_teachers_weights_are_those_of_a_training_on_its_rows_alone(
    number: int, taught: Experiment, tmp_path: Path
) -> None:
    run, member = RunDirectory(taught.root), taught.teachers[number]
    shards, settings, cpu = ShardSet(run.shards), member.settings, torch.device("cpu")
    rows = np.flatnonzero(trained_on(taught, member, "train"))
    model = build_network(settings, 2)
    with Recorder(tmp_path, run="test", stage="teach", member="m") as recorder:
        train(
            PlainEngine(model, build_optimizer(settings, model), cpu, settings),
            supervised(settings),
            lambda epochs, _: clips_of(shards, settings, epochs, rows),
            settings,
            rows=shards.rows["train"],
            directory=tmp_path,
            inputs={},
            recorder=recorder,
            num_rows=len(rows),
        )
    weights = load_file(run.teacher(member.id) / WEIGHTS)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_manifest_records_the_folds_only_where_one_is_left_out(taught: Experiment) -> None:
    recorded = [manifest.read(RunDirectory(taught.root).teacher(member.id)) for member in taught.teachers]
    settings = [found.settings for found in recorded if found]
    assert "fold" not in settings[0]
    assert "folds" not in settings[0]
    assert [(s["fold"], s["folds"]) for s in settings[1:]] == [
        (fold, {"count": 2, "by": "random", "seed": 0}) for fold in (0, 1)
    ]
