"""A small experiment as text, and what the tests of experiment files ask of it."""

from __future__ import annotations

import pytest

from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse

STUDY = """
name: study
root: runs/study
seed: 3
data:
  source: arid
  videos: videos
  splits: {split0: {train: train.txt, test: test.txt}}
  modalities: [rgb, flow]
  clip: {frames: 16, size: 64, short_side: [64, 80], gamma: 2.0}
teachers:
  defaults: {arch: slowfast_tiny, epochs: 4}
  fleet:
    - {grid: {modality: [rgb, flow], seed: [0, 1]}}
    - {arch: x3d_tiny, modality: rgb}
targets:
  ukd: {method: pkd}
  avg2: {method: avg, space: probs, temperature: 60}
students:
  defaults: {arch: slowfast_tiny, modality: rgb, epochs: 4}
  runs:
    - {name: baseline, targets: none}
    - {name: ukd, targets: ukd, temperature: 20}
"""
FOLDER = ("data.source=folder", "data.splits={}", "data.split={test: 0.3}")
TAKEN = ("data.source=null", "data.videos=null", "data.splits={}", "data.shards=/made")
NO_VIDEOS = ("data.source=synthetic", "data.videos=null", "data.splits={}")


def study(*overrides: str) -> Experiment:
    return parse(STUDY, "study.yaml", list(overrides))


def answer(*overrides: str, text: str = STUDY) -> str:
    """What the user of a wrong experiment reads."""
    with pytest.raises(UsageError) as caught:
        parse(text, "study.yaml", list(overrides))
    message = " ".join(str(caught.value).split())
    assert caught.value.exit_code == 2
    return message


def members(experiment: Experiment) -> list[str]:
    students = [student.id for student in experiment.students]
    return [*teacher_ids(experiment), *(target.id for target in experiment.targets), *students]


def teacher_ids(experiment: Experiment) -> list[str]:
    return [teacher.id for teacher in experiment.teachers]
