"""What an experiment file means, and what a wrong one is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ukd_dist import pipeline
from ukd_dist.clip_config import Views
from ukd_dist.config import ExperimentFile, Student, Teacher
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.method.weighting import Method, Weighting
from ukd_dist.resolution import load, parse
from ukd_dist.settings import Settings
from ukd_dist.target_config import Target

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


def kinds(base: type[Settings] = Settings) -> list[type[Settings]]:
    """Every settings model with fields."""
    below = [kind for child in base.__subclasses__() for kind in kinds(child)]
    return [*([base] if base.model_fields else []), *below]


# --- Keys that nothing has ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_misspelt_field_is_told_its_name(kind: type[Settings]) -> None:
    for field in kind.model_fields:
        for wrong in (field + "z", field[:-1] + "_" + field[-1]):
            with pytest.raises(ValidationError, match=rf"unknown key '{wrong}'.*did you mean '{field}'\?"):
                kind.model_validate({wrong: 1})


@pytest.mark.parametrize(
    ("override", "place", "key", "nearest"),
    [
        ("dta=1", "", "dta", "data"),
        ("data.clip.framez=32", "data.clip: ", "framez", "frames"),
        ("data.encoding.crf_rbg=3", "data.encoding: ", "crf_rbg", "crf_rgb"),
        ("data.splits.split0.tran=a", "data.splits.split0: ", "tran", "train"),
        ("teachers.flet=[]", "teachers: ", "flet", "fleet"),
        ("teachers.defaults.epoch=3", "teachers.defaults: ", "epoch", "epochs"),
        ("teachers.fleet.1.modalty=rgb", "teachers.fleet[1]: ", "modalty", "modality"),
        ("teachers.fleet.1.clip.gama=2", "teachers.fleet[1].clip: ", "gama", "gamma"),
        ("teachers.fleet.0.gird={}", "teachers.fleet[0]: ", "gird", "grid"),
        ("teachers.fleet.0.grid.epoks=[3]", "teachers.fleet[0]: ", "epoks", "epochs"),
        ("teachers.fleet.1.resources.cpu=3", "teachers.fleet[1].resources: ", "cpu", "cpus"),
        ("targets.ukd.spaec=logits", "targets.ukd: ", "spaec", "space"),
        ("students.defaults.workerz=2", "students.defaults: ", "workerz", "workers"),
        ("students.runs.1.temprature=5", "students.runs[1]: ", "temprature", "temperature"),
        ("evaluate.fusoin={}", "evaluate: ", "fusoin", "fusion"),
        ("cluster.adress=auto", "cluster: ", "adress", "address"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(
    override: str, place: str, key: str, nearest: str
) -> None:
    message = answer(override)
    assert message.startswith(f"study.yaml: {place}unknown key '{key}'; expected one of ")
    assert message.endswith(f"did you mean '{nearest}'?")


def test_a_key_like_no_other_is_to_be_removed() -> None:
    assert answer("data.clip.qqqq=1").endswith("remove it")


# --- Values of the wrong type or range ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("name=a b", "name is 'a b'; expected pattern '^[A-Za-z0-9]"),
        ("seed=-1", "seed is -1; expected greater than or equal to 0; correct it"),
        ("root=", "root is None; expected a valid path; correct it"),
        ("teachers=5", "teachers is 5; expected a valid dictionary; correct it"),
        (
            "teachers.fleet=[]",
            "teachers: fleet is empty and nothing is imported; expected at least one teacher; add one",
        ),
        ("students.runs=[]", "students.runs is []; expected at least 1 item; correct it"),
        (
            "data.source=ucf",
            "data.source is 'ucf'; expected 'arid', 'folder', 'csv' or 'synthetic'; correct it",
        ),
        ("data.format=ucf", "data.format is 'ucf'; expected 'auto', 'csv', 'ucf101' or 'hmdb51'; correct it"),
        ("data.split={by: group}", "data.split.test is missing; expected a value; give it one"),
        ("data.split={test: 1}", "data.split.test is 1; expected less than 1; correct it"),
        (
            "data.group_pattern='('",
            "data.group_pattern: '(' is no regular expression: missing ), unterminated",
        ),
        (
            "data.group_pattern='(a)(b)'",
            "data.group_pattern: '(a)(b)' has 2 groups in parentheses; expected exactly one, the recording "
            "group; put it into ( ), and others into (?: )",
        ),
        (
            "data.shards=gs://bucket/arid",
            "data.shards: shards 'gs://bucket/arid'; expected s3://bucket/prefix, file:///folder or a "
            "folder's path; correct it",
        ),
        ("data.shards=s3://", "data.shards: shards 's3://'; expected s3://bucket/prefix, file:///folder or"),
        ("data.shards=file://made", "data.shards: shards 'file://made'; expected s3://bucket/prefix, file:"),
        ("data.shards=''", "data.shards: shards ''; expected s3://bucket/prefix, file:///folder or a"),
        (
            "cluster.shard_cache=~/cache",
            "cluster.shard_cache: shard_cache '~/cache' is no absolute path; expected one that is good on "
            "every node; ~ and variables are not replaced; write it from / on",
        ),
        ("data.modalities=[]", "data.modalities is []; expected at least 1 item; correct it"),
        ("data.modalities=[depth]", "data.modalities[0] is 'depth' (the first of 2 problems); expected"),
        ("data.max_rejected=2", "data.max_rejected is 2; expected less than or equal to 1; correct it"),
        ("data.clip.frames=0", "data.clip.frames is 0; expected greater than or equal to 1; correct it"),
        ("data.clip.frames=many", "data.clip.frames is 'many'; expected a valid integer, "),
        ("data.clip.frames=1.5", "data.clip.frames is 1.5; expected a valid integer, "),
        ("data.clip.short_side=224", "data.clip.short_side is 224; expected a valid tuple; correct it"),
        ("data.clip.short_side=[64]", "data.clip.short_side[1] is missing; expected a value; give it one"),
        ("data.validation={share: 1}", "data.validation.share is 1; expected less than 1; correct it"),
        ("data.validation={by: group}", "data.validation.share is missing; expected a value; give it one"),
        ("data.folds={count: 1}", "data.folds.count is 1; expected greater than or equal to 2; correct it"),
        (
            "data.folds={count: 5, by: class}",
            "data.folds.by is 'class'; expected 'random' or 'group'; correct",
        ),
        ("teachers.fleet.1.fold=-1", "teachers.fleet[1].fold is -1; expected greater than or equal to 0"),
        ("data.clip.gamma=0", "data.clip.gamma is 0; expected greater than 0; correct it"),
        ("teachers.defaults.lr=.nan", "teachers.fleet[0].lr is nan; expected a finite number; correct it"),
        ("teachers.fleet.1.lr=.inf", "teachers.fleet[1].lr is inf; expected a finite number; correct it"),
        ("teachers.fleet.1.dropout=1", "teachers.fleet[1].dropout is 1; expected less than 1; correct it"),
        (
            "teachers.fleet.1={arch: x3d_tiny}",
            "teachers.fleet[1].modality is missing; expected a value; give",
        ),
        (
            "teachers.fleet.1.modality=audio",
            "teachers.fleet[1].modality is 'audio'; expected 'rgb' or 'flow'",
        ),
        ("teachers.fleet.1.resources.gpus=-1", "teachers.fleet[1].resources.gpus is -1; expected greater"),
        ("targets.ukd.h=1", "targets.ukd.h is 1; expected less than 1; correct it"),
        ("targets.ukd.h=0", "targets.ukd.h is 0; expected greater than 0; correct it"),
        ("targets.ukd.method=median", "targets.ukd.method is 'median'; expected 'pkd', 'gtd', 'avg', "),
        ("students.runs.1.alpha=1.5", "students.runs[1].alpha is 1.5; expected less than or equal to 1"),
        ("students.runs.1.temperature=0", "students.runs[1].temperature is 0; expected greater than 0"),
        ("students.runs.0.targets=null", "students.runs[0].targets is None; expected a valid string"),
        ("evaluate.fusion.two=[ukd]", "evaluate.fusion.two[1] is missing; expected a value; give it one"),
        ("evaluate.published.ukd=120", "evaluate.published.ukd is 120; expected less than or equal to 100"),
        ("cluster.metrics_port=70000", "cluster.metrics_port is 70000; expected less than or equal to 65535"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_it_should_be(override: str, fragment: str) -> None:
    assert answer(override).startswith(f"study.yaml: {fragment}")


def test_the_first_of_several_problems_is_told_and_the_others_counted() -> None:
    assert answer("data.clip.frames=0", "seed=-1") == (
        "study.yaml: seed is -1 (the first of 2 problems); expected greater than or equal to 0; correct it"
    )
    assert answer("data.clip.frams=0", "seed=-1").startswith("study.yaml: seed is -1 (the first of 2 ")
    assert answer("data.clip.frams=0", "dta=1").startswith("study.yaml: unknown key 'dta'; expected one of")


# --- Settings that contradict each other -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["data.clip.size=72"], "data.clip: short_side [64, 80] does not hold a crop of 72"),
        (["data.clip.short_side=[80, 64]"], "data.clip: short_side [80, 64] does not hold a crop of 64"),
        (["teachers.fleet.1.clip.size=72"], "teachers.fleet[1].clip: short_side [64, 80] does not hold"),
        (["students.defaults.workers=3"], "students.runs[0]: batch_size 16 is not a multiple of workers 3"),
        (["students.runs.0.temperature=5"], "students.runs[0]: temperature 5 without targets; expected none"),
        (["targets.avg2.temperature=null"], "targets.avg2: space: probs with temperature: None; expected a"),
        (["targets.ukd.temperature=20"], "targets.ukd: space: logits with temperature: 20.0; expected a"),
        (["students.runs.1.temperature=null"], "student 'ukd' has no temperature; expected tau > 0"),
        (["students.runs.1.targets=avg2"], "student 'ukd' has temperature 20, its target 60; expected the"),
        (["students.runs.1.targets=avg"], "student 'ukd' learns from unknown targets 'avg'; expected one of"),
        (["targets.none={method: avg}"], "targets names one 'none', which is what a student without targets"),
        (["data.splits.split1={train: a, test: b}"], "data: splits names 2 splits; expected exactly one"),
        (["data.splits={}"], "data: splits names 0 splits; expected exactly one"),
        (
            ["data.source=null"],
            "data: source is missing; expected where the videos are, or `shards` that are",
        ),
        (
            ["data.source=null", "data.shards=/made"],
            "data: splits without a source, where nothing is sharded; expected of the settings of sharding "
            "only modalities and codec, which `shards` must fit; remove splits, or give the source",
        ),
        ([*TAKEN, "data.encoding.short_side=64"], "data: encoding without a source, where nothing is shard"),
        ([*TAKEN, "data.max_rejected=0.5"], "data: max_rejected without a source, where nothing is sharded"),
        ([*TAKEN, "data.seed=1"], "data: seed without a source, where nothing is sharded; expected of the"),
        ([*TAKEN, "data.validation={share: 0.5}"], "data: validation without a source, where nothing is sha"),
        (
            ["data.shards=s3://bucket/arid"],
            "data.shards is s3://bucket/arid, and there is no cluster.shard_cache; expected a folder on "
            "every node's own disk with room for a copy of the shards; set cluster.shard_cache",
        ),
        (["data.videos=null"], "data: videos is missing; expected the folder that the lists'"),
        (
            ["data.source=synthetic"],
            "data: splits with source: synthetic, which has no use for it; expected of the settings of "
            "sources only synthetic; remove splits, or change source",
        ),
        (
            ["data.synthetic.seed=1"],
            "data: synthetic with source: arid, which has no use for it; expected of the settings of "
            "sources only classes, splits, videos; remove synthetic, or change source",
        ),
        (["data.split={test: 0.3}"], "data: split with source: arid, which has no use for it; expected of"),
        (["data.format=csv"], "data: format with source: arid, which has no use for it; expected of the"),
        (
            ["data.group_pattern='(.)'"],
            "data: group_pattern with source: arid, which has no use for it; expe",
        ),
        ([*FOLDER, "data.classes=a"], "data: classes with source: folder, which has no use for it; expected"),
        (["data.source=folder"], "data: splits with source: folder, which has no use for it; expected of"),
        (["data.source=csv", "data.split={test: 0.3}"], "data: split with source: csv, which has no use for"),
        (["data.source=csv", "data.splits={}"], "data: splits names 0 splits; expected exactly one, since a"),
        (
            ["data.source=folder", "data.splits={}"],
            "data: split is missing; expected the share of the folder's videos that is the test split; give "
            "it, for example split: {test: 0.3}",
        ),
        (["data.modalities=[rgb, rgb]"], "data: modalities ['rgb', 'rgb'] names one twice"),
        (["data.modalities=[rgb]"], "slowfast_tiny sees modality 'flow', which is not sharded; expected one"),
        (
            ["data.codec=copy", "data.encoding.short_side=240"],
            "data: encoding.short_side 240 with codec: copy, which cannot scale; expected "
            "encoding.short_side null: a copied stream keeps its size; remove encoding.short_side, or "
            "set codec: vp9 or jpeg",
        ),
        (
            ["teachers.fleet.1.resources.decode=gpu"],
            "teachers.fleet[1].resources: decode: gpu with gpus 0; expected a GPU, or a share of one;",
        ),
        (["teachers.defaults.warmup_epochs=4"], "teachers.fleet[0]: warmup_epochs 4 leaves nothing of 4"),
        (["evaluate.fusion.two=[ukd, flow]"], "evaluate.fusion.two names unknown student 'flow'; expected"),
        (["evaluate.views={kind: random}"], "evaluate: views: kind: random; expected centre or mean: a test"),
        (
            ["evaluate.fusion.two=[ukd, baseline]", "students.runs.0.seed=1"],
            "evaluate.fusion.two: ukd and baseline have no seed in common",
        ),
        (["data.views.clips=3"], "data.views: clips 3 with kind: centre, which has no use for it; expected"),
        (["data.views={kind: mean, clips: 2, seed: 4}"], "data.views: seed 4 with kind: mean, which has no"),
        (["data.views={kind: random, crops: 3}"], "data.views: crops 3 with kind: random, which has no use"),
        (["data.views={kind: mean}"], "data.views: kind: mean of one view; expected several clips or crops"),
        (["students.runs.0.view=stored"], "students.runs[0]: view: stored with targets: none; expected view"),
        (
            ["teachers.fleet.1.fold=0"],
            "teacher x3d_tiny-rgb-s3 leaves out fold 0, but there is no data.folds",
        ),
        (
            ["data.folds={count: 5}", "teachers.fleet.1.fold=5"],
            "teacher x3d_tiny-rgb-s3 leaves out fold 5, but data.folds.count is 5; expected a fold from 0",
        ),
        (
            ["targets.ukd.rows=out_of_fold"],
            "targets.ukd is out_of_fold, but no teacher that it selects leaves a fold out; "
            "expected for every "
            "fold of data.folds a teacher that was not trained on it; give the teachers "
            "`grid: {fold: [0, 1, ",
        ),
        (
            [
                "data.folds={count: 4}",
                "teachers.fleet=[{arch: x3d_tiny, modality: rgb, grid: {fold: [null, 0, 2]}}]",
                "targets.ukd.rows=out_of_fold",
            ],
            "targets.ukd is out_of_fold, but no teacher that it selects leaves out fold 1, 3; expected",
        ),
        (
            ["targets.ukd.teachers={arch: x3d_tiny, modality: flow}"],
            "targets.ukd.teachers selects 0 of 5 teachers; expected at least one; select "
            "among slowfast_tiny-",
        ),
        (
            ["targets.ukd.method=single"],
            "targets.ukd.teachers selects 5 of 5 teachers; expected exactly one, since the "
            "method is single; ",
        ),
        (
            ["targets.ukd={method: avg1}"],
            "targets.ukd: method: avg1 with space: logits; expected space: probs, since Eq. "
            "4 is a mean of div",
        ),
        (
            ["data.folds={count: 5}", "teachers.fleet.1.folds={count: 4}"],
            "teacher x3d_tiny-rgb-s3 has folds of its own; expected those of data.folds, the same for every",
        ),
        (["teachers.imported=[a, b, a]"], "teachers: imported names one twice: a, b, a; expected each once"),
        (["teachers.quorum=6"], "teachers.quorum is 6, and the fleet has 5 members; expected at most all"),
        (["teachers.quorum=1.5"], "teachers.quorum: quorum 1.5 is no share; expected a whole number of mem"),
        (
            [f"teachers.imported=[{study().teachers[0].id}]"],
            f"teachers holds {study().teachers[0].id} twice; expected members that differ",
        ),
        (
            ["evaluate.fusion.two=[ukd, baseline]", "evaluate.published={two: 70.9, udk: 71.3}"],
            "evaluate.published names unknown student or fusion 'udk'; expected one of baseline, two, ukd; "
            "correct the name, or remove the figure",
        ),
        (["teachers.fleet.0.seed=1"], "teachers.fleet[0]: 'seed' is given by the entry and by its grid"),
        (["teachers.fleet.0.grid={seed: 1}"], "teachers.fleet[0]: grid is {'seed': 1}; expected a mapping"),
        (["teachers.fleet.0.grid={seed: []}"], "teachers.fleet[0]: grid is {'seed': []}; expected a mapping"),
        (["teachers.fleet.0.grid=seed"], "teachers.fleet[0]: grid is 'seed'; expected a mapping of fields"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_contradiction_is_named(overrides: list[str], problem: str) -> None:
    assert answer(*overrides).startswith(f"study.yaml: {problem}")


RANDOM = "data.views={kind: random, clips: 4, seed: 2}"
STORED = "students.runs.1.view=stored"


def test_a_student_of_free_crops_cannot_learn_from_targets_of_single_views() -> None:
    assert answer(RANDOM) == (
        "study.yaml: student 'ukd' sees free crops, and target 'ukd' speaks of 4 stored views of a video, "
        "each by itself (random-4-s2); expected view: stored; "
        "set it, or change data.views.kind to centre or mean"
    )


def test_a_student_cannot_see_views_whose_logits_were_averaged() -> None:
    assert answer("data.views={kind: mean, clips: 10, crops: 3}", STORED) == (
        "study.yaml: student 'ukd' is to see stored views, and target 'ukd' holds their mean only "
        "(mean-10x3); expected logits of single views; "
        "set view: free, or change data.views.kind to random or centre"
    )


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("frames", "8", "8, the teacher's 16"),
        ("stride", "1", "1, the teacher's 2"),
        ("size", "56", "56, the teacher's 64"),
        ("short_side", "[64, 90]", "(64, 90), the teacher's (64, 80)"),
        ("gamma", "1.5", "1.5, the teacher's 2.0"),
        ("flip", "false", "False, the teacher's True"),
    ],
)
def test_a_student_cannot_see_its_teachers_views_with_another_clip(
    field: str, value: str, shown: str
) -> None:
    teacher = study(RANDOM, STORED).teachers[0].id
    assert answer(RANDOM, STORED, f"students.runs.1.clip.{field}={value}") == (
        f"study.yaml: student 'ukd' takes other clips than its teacher {teacher}: its clip.{field} is "
        f"{shown}; expected equal clips with view: stored; give both the same clip.{field}, or set view: free"
    )


def test_teachers_of_one_target_see_the_same_views() -> None:
    override = "teachers.fleet.1.views={kind: mean, clips: 4}"
    assert re.fullmatch(
        r"study.yaml: target 'ukd' mixes views: teacher slowfast_tiny-rgb-s0-\w+ sees centre, "
        r"teacher x3d_tiny-rgb-s3-\w+ mean-4x1; expected the same views of all its teachers; "
        r"give them the same views, or let data.views hold for all",
        answer(override),
    )


def test_teachers_from_elsewhere_have_no_say_on_single_views() -> None:
    assert re.fullmatch(
        r"study.yaml: target 'ukd' mixes views: teacher slowfast_tiny-rgb-s0-\w+ sees random-4-s2, and the "
        r"logits of theirs speak of a video as a whole; expected the same views of all its teachers; "
        r"select among them, or change data.views.kind to centre or mean",
        answer(RANDOM, STORED, "teachers.imported=[theirs]"),
    )


def test_a_student_cannot_see_views_that_nobody_here_knows() -> None:
    overrides = ["teachers.imported=[theirs]", "targets.ukd.teachers={id: theirs}", STORED]
    assert answer(*overrides) == (
        "study.yaml: student 'ukd' is to see stored views, and every teacher of target 'ukd' is imported; "
        "expected teachers whose views are known; set view: free"
    )


def test_a_teachers_own_views_beat_those_of_the_data() -> None:
    found = study(
        "data.views={kind: mean, clips: 4}",
        "teachers.fleet.1.views.crops=3",
        "targets={}",
        "students.runs.1={name: ukd, targets: none}",
    )
    assert [t.settings.views.name for t in found.teachers] == ["mean-4x1"] * 4 + ["mean-4x3"]


def test_a_student_sees_the_views_of_its_targets_teachers_only_where_it_says_so() -> None:
    assert [s.stored_views for s in study().students] == [None, None]
    assert [s.stored_views for s in study(RANDOM, STORED).students] == [
        None,
        Views(kind="random", clips=4, seed=2),
    ]
    assert study(STORED).students[1].stored_views == Views()


VIEWS = (
    st.just(Views())
    | st.builds(Views, kind=st.just("random"), clips=st.integers(1, 500), seed=st.integers(0, 2**40))
    | st.builds(Views, kind=st.just("mean"), clips=st.integers(2, 500), crops=st.sampled_from([1, 3]))
)


@given(VIEWS)
def test_the_name_of_views_says_all_of_them(views: Views) -> None:
    assert Views.named(views.name) == views


@pytest.mark.parametrize(
    "name",
    ["", "center", "mean", "mean-4", "mean-4x2", "mean-1x1", "random-4", "random-4-s0 ", "random-0-s0"],
)
def test_other_names_are_views_of_elsewhere(name: str) -> None:
    assert Views.named(name) is None


@given(VIEWS)
def test_no_random_views_are_evaluated(views: Views) -> None:
    assert views.evaluated == (Views() if views.kind == "random" else views)


@pytest.mark.parametrize(
    ("override", "section"),
    [
        ("teachers.fleet.0.grid.seed=[1, 1]", "teachers.fleet"),
        ("teachers.fleet.1={modality: flow, seed: 1}", "teachers.fleet"),
        ("students.runs.1.grid={seed: [4, 4]}", "students.runs"),
    ],
)
def test_members_that_are_the_same_are_refused(override: str, section: str) -> None:
    assert f"{section} holds " in answer(override)
    assert answer(override).endswith("twice; expected members that differ; give each a seed")


def test_a_student_of_probabilities_takes_its_targets_temperature() -> None:
    (_, student) = study("students.runs.1={name: ukd, targets: avg2}").students
    assert student.settings.temperature == 60


# --- What a file resolves to -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), st.permutations(["rgb", "flow"]))
def test_a_grid_expands_to_its_product(seeds: list[int], modalities: list[str]) -> None:
    grid = json.dumps({"seed": seeds, "modality": modalities})
    found = study(f"teachers.fleet.0.grid={grid}", "teachers.fleet.1.modality=rgb").teachers[:-1]
    wanted = [(seed, modality) for seed in seeds for modality in modalities]
    assert [(t.settings.seed, t.settings.modality) for t in found] == wanted


def test_an_entry_inherits_the_seed_and_the_clip() -> None:
    inherits, *_ = (t.settings for t in study().teachers if t.settings.arch == "x3d_tiny")
    assert inherits.seed == 3
    assert inherits.clip == study().data.clip


def test_an_entry_beats_the_defaults_and_the_defaults_beat_what_is_inherited() -> None:
    found = study("teachers.defaults.seed=5", "teachers.fleet.1.epochs=9").teachers[-1].settings
    assert (found.seed, found.epochs) == (5, 9)


def test_the_clip_of_an_entry_is_merged_field_by_field() -> None:
    changes = ["teachers.defaults.clip={stride: 1}", "teachers.fleet.1.clip={frames: 8}"]
    clip = study(*changes).teachers[-1].settings.clip
    assert clip == study().data.clip.model_copy(update={"stride": 1, "frames": 8})


def test_the_resources_of_an_entry_are_merged_field_by_field() -> None:
    changes = ["teachers.defaults.resources={cpus: 2}", "teachers.fleet.1.resources={gpus: 1}"]
    found = study(*changes).teachers[-1].settings.resources
    assert (found.cpus, found.gpus) == (2, 1)


def test_relative_paths_start_where_the_command_was_given() -> None:
    experiment = study()
    here = Path.cwd()
    assert (experiment.root, experiment.data.videos) == (here / "runs/study", here / "videos")
    assert experiment.data.splits["split0"].train == here / "train.txt"


# --- Ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_ids_are_the_same_in_every_process(hash_seed: str) -> None:
    code = (
        "import sys; from ukd_dist.resolution import parse; e = parse(sys.stdin.read(), 'study.yaml', []);"
        "print(*[m.id for m in (*e.teachers, *e.targets, *e.students)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run(
        [sys.executable, "-c", code], input=STUDY, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == members(study())


def test_ids_differ_among_all_members() -> None:
    assert len(set(members(study()))) == len(members(study())) == 5 + 2 + 2


# Of every setting, a value that the study does not hold: a new setting has to be thought of here.
OTHER = {
    "arch": "slowfast_r50_4x16",
    "modality": "flow",
    "seed": 8,
    "epochs": 5,
    "batch_size": 8,
    "lr": 0.02,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "warmup_epochs": 1.0,
    "schedule": "constant",
    "label_smoothing": 0.1,
    "dropout": 0.1,
    "clip": {"frames": 32},
    "fold": 1,
    "name": "other",
    "alpha": 0.9,
    "temperature": 5.0,
    "view": "stored",
    "workers": 2,
}


@pytest.mark.parametrize("field", sorted(Teacher.model_fields.keys() - {"resources", "views", "folds"}))
def test_every_setting_of_a_teacher_but_its_resources_changes_its_id(field: str) -> None:
    changed = study(f"teachers.fleet.1.{field}={json.dumps(OTHER[field])}", "data.folds={count: 5}")
    assert [a == b for a, b in zip(teacher_ids(changed), teacher_ids(study()), strict=True)] == [
        *[True] * 4,
        False,
    ]


@pytest.mark.parametrize(
    "field", sorted(Student.model_fields.keys() - {"resources", "targets", "teachers", "weighting"})
)
def test_every_setting_of_a_student_but_its_resources_changes_its_id(field: str) -> None:
    changed = study(f"students.runs.1.{field}={json.dumps(OTHER[field])}")
    assert changed.students[0].id == study().students[0].id
    assert changed.students[1].id != study().students[1].id


@pytest.mark.parametrize("view", ["{kind: mean, clips: 3}", "{kind: mean, crops: 3}"])
def test_other_views_change_every_teacher_and_what_is_made_of_them(view: str) -> None:
    before, after = study(), study(f"data.views={view}")
    assert set(teacher_ids(before)).isdisjoint(teacher_ids(after))
    assert {t.id for t in before.targets}.isdisjoint(t.id for t in after.targets)
    assert [a.id == b.id for a, b in zip(before.students, after.students, strict=True)] == [True, False]


def test_ids_of_an_earlier_version_are_kept_where_nothing_is_said_of_views() -> None:
    """A new setting at its default renames nobody's directory."""
    assert members(study()) == [
        "slowfast_tiny-rgb-s0-e5227272",
        "slowfast_tiny-rgb-s1-29b98d90",
        "slowfast_tiny-flow-s0-29ff06c3",
        "slowfast_tiny-flow-s1-4205ba46",
        "x3d_tiny-rgb-s3-a4f10623",
        "ukd-281ed799",
        "avg2-189dbe20",
        "baseline-s3-a58131e4",
        "ukd-s3-8ac041b4",
    ]
    assert members(study("data.views={kind: centre}", "students.defaults.view=free")) == members(study())


def test_a_student_of_other_targets_has_another_id() -> None:
    (_, student) = study("targets.gtd={method: gtd}", "students.runs.1.targets=gtd").students
    assert student.id != study().students[1].id


def test_equal_settings_said_otherwise_give_the_same_ids() -> None:
    said = [
        "teachers.defaults.lr=1.0e-2",
        "teachers.defaults.epochs=4.0",
        "teachers.fleet.1.clip={frames: 16}",
    ]
    assert members(study(*said)) == members(study())


@pytest.mark.parametrize(
    "override",
    [
        "teachers.defaults.resources={cpus: 8, gpus: 0.5, memory_gib: 4}",
        "students.defaults.resources={cpus: 2}",
        "teachers.defaults.resources={node_labels: {accelerator: H100}, priority: 3}",
        "teachers.quorum=2",
        "teachers.hang_minutes=5",
        "cluster.checkpoint_minutes=1",
        "cluster={local_nodes: 2, max_failures: 0, reduce_rows: 8, metrics_port: null}",
        "cluster.address=ray://elsewhere:10001",
        "root=/elsewhere",
        "name=renamed",
        "data.videos=/elsewhere",
        "data.shards=/elsewhere",
        "cluster.shard_cache=/scratch/shards",
        "evaluate.published={ukd: 71.3}",
    ],
)
def test_how_and_where_it_is_computed_changes_no_id(override: str) -> None:
    assert members(study(override)) == members(study())


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("s3://bucket/arid/v1/", "s3://bucket/arid/v1"),
        ("file:///made/shards", "/made/shards"),
        ("made/shards", str(Path("made/shards").absolute())),
    ],
)
def test_where_finished_shards_lie_is_said_in_one_form(said: str, place: str) -> None:
    found = study(*TAKEN, f"data.shards={said}", "cluster.shard_cache=/scratch")
    assert found.data.shards == place
    assert parse(found.to_yaml(), "study.yaml", []).data == found.data


def test_the_members_of_a_grid_of_folds_say_which_fold_they_leave_out() -> None:
    found = study("data.folds={count: 3}", "teachers.fleet=[{modality: rgb, grid: {fold: [null, 0, 2]}}]")
    whole, first, last = found.teachers
    assert [t.id.rsplit("-", 1)[0] for t in found.teachers] == [
        "slowfast_tiny-rgb-s3",
        "slowfast_tiny-rgb-s3-f0",
        "slowfast_tiny-rgb-s3-f2",
    ]
    assert (whole.settings.folds, whole.id) == (
        None,
        study("teachers.fleet.0={modality: rgb}").teachers[0].id,
    )
    assert first.settings.folds == last.settings.folds == found.data.folds


@pytest.mark.parametrize("change", ["count=4", "by=group", "seed=1"])
def test_other_folds_change_the_ids_of_the_teachers_that_leave_one_out_alone(change: str) -> None:
    folded = ["data.folds={count: 3}", "teachers.fleet.0.grid.fold=[null, 1]"]
    before, after = study(*folded), study(*folded, f"data.folds.{change}")
    kept = [a == b for a, b in zip(teacher_ids(before), teacher_ids(after), strict=True)]
    assert kept == [t.settings.fold is None for t in before.teachers]
    assert kept.count(True) == 5


PINNED = {
    "launch/experiments/tiny.yaml": [
        "slowfast_tiny-rgb-s0-742b9686",
        "slowfast_tiny-flow-s0-506e0e99",
        "ukd-c1ee4a99",
        "baseline-s0-a8c7efa9",
        "ukd-s0-ab9a0f49",
    ],
    "ukd_dist/experiments/demo.yaml": [
        "slowfast_tiny-rgb-s0-82798614",
        "slowfast_tiny-flow-s0-55e1be97",
        "x3d_tiny-rgb-s0-d9304d07",
        "x3d_tiny-flow-s0-883e29ae",
        "ukd-fcdec702",
        "baseline-s0-d767ff23",
        "ukd-s0-b8455362",
    ],
    "launch/experiments/arid_subset.yaml": [
        "slowfast_tiny-rgb-s0-5d4b036d",
        "slowfast_tiny-flow-s0-c71b5bcf",
        "x3d_tiny-rgb-s0-52fef638",
        "x3d_tiny-flow-s0-f1034948",
        "ukd-29ca7aa1",
        "baseline-rgb-s0-8d4f4441",
        "ukd-rgb-s0-5e72c2bb",
        "baseline-flow-s0-9947e6a4",
        "ukd-flow-s0-04fac120",
    ],
}


@pytest.mark.parametrize("file", PINNED)
def test_a_setting_that_is_new_and_not_used_changes_no_id_of_a_file_that_ships(file: str) -> None:
    """Runs that were begun with an earlier version go on; who changes a file changes its ids here."""
    path = Path(__file__).parents[1] / file
    videos = ["data.videos=v", "data.splits.split0.train=a", "data.splits.split0.test=b"]
    assert members(load(path, videos if "arid" in file else [])) == PINNED[file]


def test_another_teacher_changes_the_targets_but_no_other_teacher() -> None:
    before, after = study(), study("teachers.fleet.0.grid.seed=[0, 1, 2]")
    assert set(teacher_ids(before)) < set(teacher_ids(after))
    assert {t.id for t in before.targets} & {t.id for t in after.targets} == set()


def test_another_teacher_changes_only_the_students_that_learn_from_it() -> None:
    before, after = study(), study("teachers.fleet.0.grid.seed=[0, 1, 2]")
    assert [a.id == b.id for a, b in zip(before.students, after.students, strict=True)] == [True, False]


def test_the_order_of_the_fleet_changes_no_target() -> None:
    document = yaml.safe_load(STUDY)
    document["teachers"]["fleet"].reverse()
    turned = parse(yaml.safe_dump(document, sort_keys=False), "study.yaml", [])
    assert [t.id for t in turned.targets] == [t.id for t in study().targets]


def test_a_teacher_from_elsewhere_stands_behind_every_target() -> None:
    before, after = study(), study("teachers.imported=[theirs]")
    assert after.imported == ("theirs",)
    assert after.teachers == before.teachers
    assert [t.teachers for t in after.targets] == [(*teacher_ids(before), "theirs")] * len(before.targets)
    assert {t.id for t in before.targets} & {t.id for t in after.targets} == set()


def test_teachers_from_elsewhere_need_no_fleet() -> None:
    found = study("teachers.fleet=[]", "teachers.imported=[theirs, others]")
    assert found.teachers == ()
    assert parse(found.to_yaml(), "study.yaml", []).targets == found.targets


def test_a_target_has_the_weightings_of_the_method_and_their_defaults() -> None:
    assert get_args(Target.model_fields["method"].annotation) == get_args(Method)
    ours, theirs = Target(method="gtd"), Weighting(method="gtd")
    for name in ("h", "floor", "space", "temperature"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (
            "{arch: [slowfast_tiny, x3d_tny]}",
            "arch names x3d_tny, which no teacher has; expected one of slowfast_tiny, x3d_tiny",
        ),
        ("{seed: [0, 9]}", "seed names 9, which no teacher has; expected one of 0, 1, 3"),
        ("{modality: rgb, fold: 0}", "fold names 0, which no teacher has; expected no fold"),
    ],
)
def test_a_target_cannot_choose_by_what_no_teacher_has(selection: str, told: str) -> None:
    assert answer(f"targets.ukd.teachers={selection}") == (
        f"study.yaml: targets.ukd.teachers.{told}; correct it, or add such a teacher"
    )


def test_a_target_cannot_choose_a_teacher_that_is_not_there() -> None:
    override = "targets.ukd.teachers={id: [theirs, others]}"
    message = answer("teachers.imported=[theirs]", override)
    assert message.startswith("study.yaml: targets.ukd.teachers.id names others, which no teacher has; ")


def test_another_target_leaves_the_others() -> None:
    found = study("targets.gtd={method: gtd}")
    assert [t.id for t in found.targets][:2] == [t.id for t in study().targets]


# --- The resolved file -------------------------------------------------------------------------------------


def clips() -> st.SearchStrategy[dict[str, Any]]:
    sides = st.tuples(st.integers(64, 96), st.integers(0, 32)).map(lambda s: [s[0], s[0] + s[1]])
    fields = {
        "frames": st.integers(1, 64),
        "short_side": sides,
        "gamma": st.floats(0.1, 5),
        "flip": st.booleans(),
    }
    return st.fixed_dictionaries({}, optional=fields)


def entries() -> st.SearchStrategy[dict[str, Any]]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "lr": st.floats(1e-6, 1) | st.sampled_from(["1e-3", 1]),
        "weight_decay": st.floats(0, 0.1),
        "schedule": st.sampled_from(["constant", "cosine"]),
        "batch_size": st.sampled_from([8, 16]),
        "clip": clips(),
        "resources": st.fixed_dictionaries({"cpus": st.floats(0.5, 8)}),
    }
    return st.fixed_dictionaries({}, optional=fields)


TARGETS = st.dictionaries(
    st.from_regex(r"\A[a-m][A-Za-z0-9_-]{0,9}\Z"),
    st.sampled_from(
        [
            {"method": "pkd", "h": 0.5},
            {"method": "gtd"},
            {"method": "avg", "space": "probs", "temperature": 3},
        ]
    ),
    max_size=3,
)


@settings(deadline=None)
@given(st.integers(0, 2**31), clips(), entries(), entries(), TARGETS, st.booleans())
def test_the_written_experiment_loads_to_the_same_members(
    seed: int,
    clip: dict[str, Any],
    defaults: dict[str, Any],
    entry: dict[str, Any],
    targets: dict[str, Any],
    synthetic: bool,
) -> None:
    document = yaml.safe_load(STUDY)
    document["seed"] = seed
    document["data"]["clip"] = {"size": 64, "short_side": [64, 80], **clip}
    document["teachers"]["defaults"] |= defaults
    document["teachers"]["fleet"][0] |= entry
    document["targets"] = targets
    document["students"]["runs"] = [
        {"name": name, "targets": name, **({} if "temperature" in target else {"temperature": 2.5})}
        for name, target in targets.items()
    ] or [{"name": "alone", "targets": "none"}]
    experiment = parse(yaml.safe_dump(document), "study.yaml", list(NO_VIDEOS if synthetic else ()))
    assert parse(experiment.to_yaml(), "experiment.yaml", []) == experiment


@pytest.mark.parametrize(
    "overrides", [FOLDER, ["data.source=csv", "data.format=hmdb51", "data.group_pattern='^(.)'"]]
)
def test_the_written_experiment_keeps_its_source(overrides: list[str]) -> None:
    experiment = study(*overrides)
    assert parse(experiment.to_yaml(), "experiment.yaml", []) == experiment
    assert members(experiment) == members(study())


def test_the_resolved_file_holds_absolute_paths_only() -> None:
    file = ExperimentFile.model_validate(yaml.safe_load(study().to_yaml()))
    assert file.data.videos is not None
    paths = [file.root, file.data.videos, *(p for s in file.data.splits.values() for p in (s.train, s.test))]
    assert all(path.is_absolute() for path in paths)


# --- Overrides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("seed=9", lambda e: e.document["seed"] == 9),
        ("data.clip.short_side=[70, 90]", lambda e: e.data.clip.short_side == (70, 90)),
        ("data.encoding.short_side=64", lambda e: e.data.encoding.short_side == 64),
        ("teachers.fleet.1.seed=9", lambda e: e.teachers[-1].settings.seed == 9),
        ("teachers.fleet.0.grid.seed.1=9", lambda e: e.teachers[1].settings.seed == 9),
        ("students.runs.-1.alpha=0.25", lambda e: e.students[1].settings.alpha == 0.25),
        ("targets.gtd={method: gtd}", lambda e: e.targets[-1].name == "gtd"),
        ("root=a=b", lambda e: e.root.name == "a=b"),
    ],
)
def test_an_override_sets_what_it_names(override: str, found: Any) -> None:
    assert found(study(override))


def test_the_last_of_two_overrides_wins() -> None:
    assert study("seed=4", "seed=5") == study("seed=5")


@pytest.mark.parametrize("override", ["seed", "=3", "data.clip.frames", ""])
def test_an_override_without_a_name_or_a_value_is_shown_how(override: str) -> None:
    assert answer(override).startswith(f"override '{override}'; expected a.b=value; for example ")


@pytest.mark.parametrize(
    "override", ["teachers.fleet.7.seed=3", "teachers.fleet.x.seed=3", "name.a=3", "seed.a.b=3", "seed=["]
)
def test_an_override_of_nothing_is_named(override: str) -> None:
    assert answer(override).startswith(f"override '{override}' names no setting: ")


# --- Files that are no experiment --------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"experiment .*nowhere\.yaml: No such file or directory; expected a"
    ):
        load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text",
    ["name: [", "\t- tabs", "name: *nobody", "!!python/object:os.system {}", "name: 2024-13-45", "a: \0"],
)
def test_what_is_not_yaml_is_said_to_be_none(text: str) -> None:
    assert answer(text=text).startswith("study.yaml is not YAML: ")


def test_a_key_that_is_given_twice_is_named_with_its_line() -> None:
    assert "key 'seed' is given twice, the second time in line" in answer(text=STUDY + "\nseed: 1\nseed: 2\n")


def test_a_file_of_bytes_is_said_to_be_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match=r"video\.mp4 is not YAML: .*; expected text in UTF-8"):
        load(path)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a list\n", "a word"])
def test_a_file_without_an_experiment_is_told_what_one_holds(text: str) -> None:
    assert answer(text=text) == (
        "study.yaml holds no experiment; expected a mapping with name, root, data, teachers, ...; "
        "see launch/experiments for some"
    )


# --- Networks, which only the pipeline knows ---------------------------------------------------------------


@pytest.mark.parametrize(("said", "quorum"), [("null", 5), ("2", 2), ("1.0", 5), ("0.8", 4), ("0.5", 3)])
def test_a_quorum_is_a_number_of_members_or_a_share_of_them(said: str, quorum: int) -> None:
    assert study(f"teachers.quorum={said}").quorum == quorum


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_the_pipeline_loads_what_the_experiment_says(written: Path) -> None:
    assert pipeline.load(written) == load(written)


@pytest.mark.parametrize(
    ("override", "member"),
    [("teachers.fleet.1.arch=x3d_m", "x3d_m-rgb-s3"), ("students.runs.1.arch=x3d_m", "ukd-s3")],
)
def test_an_unknown_network_is_named_with_its_member(written: Path, override: str, member: str) -> None:
    known = "one of slowfast_r50_4x16, slowfast_tiny, x3d_tiny"
    with pytest.raises(
        UsageError, match=rf"study\.yaml: {member}-\w+: unknown network 'x3d_m'; expected {known}"
    ):
        pipeline.load(written, [override])


def test_a_clip_that_does_not_divide_among_the_pathways_is_refused(written: Path) -> None:
    problem = r"slowfast_tiny cannot sample its pathways from clips of 18 frames; expected a multiple of 4"
    with pytest.raises(
        UsageError, match=rf"study\.yaml: slowfast_tiny-rgb-s0-\w+: {problem}; change clip.frames"
    ):
        pipeline.load(written, ["data.clip.frames=18"])
