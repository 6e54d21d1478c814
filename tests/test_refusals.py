"""What the writer of a wrong experiment file is told, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.small_study import FOLDER, STUDY, TAKEN, answer, study
from ukd_dist import pipeline  # noqa: F401 - with it every settings model is loaded
from ukd_dist.errors import UsageError
from ukd_dist.resolution import load
from ukd_dist.settings import Settings


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
        ("evaluate.published.ukd=120", "evaluate.published.ukd: 120 is no percentage; expected 0 to 100"),
        (
            "evaluate.published.ukd={split0: -1}",
            "evaluate.published.ukd: -1 is no percentage; expected 0 to 100",
        ),
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
        (["teachers.defaults.workers=3"], "teachers.fleet[0]: batch_size 16 is not a multiple of workers 3"),
        (["teachers.defaults.zero=1"], "teachers.fleet[0]: zero: 1 with one rank; expected several ranks"),
        (["students.runs.0.temperature=5"], "students.runs[0]: temperature 5 without targets; expected none"),
        (["targets.avg2.temperature=null"], "targets.avg2: space: probs with temperature: None; expected a"),
        (["targets.ukd.temperature=20"], "targets.ukd: space: logits with temperature: 20.0; expected a"),
        (["students.runs.1.temperature=null"], "student 'ukd' has no temperature; expected tau > 0"),
        (["students.runs.1.targets=avg2"], "student 'ukd' has temperature 20, its target 60; expected the"),
        (["students.runs.1.targets=avg"], "student 'ukd' learns from unknown targets 'avg'; expected one of"),
        (["targets.none={method: avg}"], "targets names one 'none', which is what a student without targets"),
        (
            ["data.splits={}"],
            "data: splits is missing; expected the lists of at least one split; give them, ",
        ),
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
        (["data.source=csv", "data.splits={}"], "data: splits is missing; expected the lists of at least"),
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
        (
            ["teachers.defaults.accumulate=3"],
            "teachers.fleet[0]: batch_size 16 is not a multiple of accumulate 3",
        ),
        (["teachers.defaults.schedule=step"], "teachers.fleet[0]: schedule: step with 0 milestones"),
        (["teachers.defaults.milestones=[1]"], "teachers.fleet[0]: schedule: cosine with 1 milestones"),
        (
            ["teachers.defaults.schedule=step", "teachers.defaults.milestones=[3, 2]"],
            "teachers.fleet[0]: milestones 3, 2 of 4 epochs",
        ),
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
            "evaluate.published names unknown student or fusion 'udk'; expected one of baseline, two, ukd, "
            "or a teacher's network and modality; correct the name, or remove the figure",
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
