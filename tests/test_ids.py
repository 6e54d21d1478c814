"""Members' ids: what changes them, and what leaves them alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.small_study import STUDY, members, study, teacher_ids
from ukd_dist.experiment import resolved
from ukd_dist.resolution import load, parse
from ukd_dist.training_config import Student, Teacher


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
    "init": "/nets/theirs.pth",
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
    "accumulate": 2,
    "optimizer": "adamw",
    "lr_scale": {"blocks.0": 0.1},
    "freeze": ["blocks.0"],
    "batch_norm": "frozen",
    "clip_norm": 1.0,
    "ema": 0.99,
    "precision": "bf16",
    "recompute": True,
    "zero": 1,
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


@pytest.mark.parametrize(
    "field", sorted(Teacher.model_fields.keys() - {"resources", "views", "folds", "milestones", "zero"})
)
def test_every_setting_of_a_teacher_but_its_resources_changes_its_id(field: str) -> None:
    changed = study(f"teachers.fleet.1.{field}={json.dumps(OTHER[field])}", "data.folds={count: 5}")
    assert [a == b for a, b in zip(teacher_ids(changed), teacher_ids(study()), strict=True)] == [
        *[True] * 4,
        False,
    ]


def test_the_zero_stage_of_a_teacher_of_several_ranks_changes_its_id() -> None:
    first, second = (study("teachers.fleet.1.workers=2", f"teachers.fleet.1.zero={zero}") for zero in (0, 1))
    assert teacher_ids(first)[-1] != teacher_ids(second)[-1]


def test_what_is_recorded_of_a_teacher_of_one_rank_is_what_was_before_there_were_others() -> None:
    alone, together = study(), study("teachers.fleet.1.workers=2")
    new = {"workers", "zero"}
    assert new.isdisjoint(resolved(alone.teachers[-1].settings))
    assert new <= resolved(together.teachers[-1].settings).keys()
    assert new <= resolved(alone.students[-1].settings).keys()


def test_of_settings_that_came_later_manifests_say_nothing_where_nothing_is_asked_of_them() -> None:
    later = {"init", "lr_scale", "freeze", "batch_norm"}
    plain = study().students[-1].settings
    assert later.isdisjoint(resolved(plain))
    asked = plain.model_copy(update={"freeze": ("blocks.0",), "batch_norm": "frozen"})
    assert later & resolved(asked).keys() == {"freeze", "batch_norm"}


@pytest.mark.parametrize(
    "field",
    sorted(Student.model_fields.keys() - {"resources", "targets", "teachers", "weighting", "milestones"}),
)
def test_every_setting_of_a_student_but_its_resources_changes_its_id(field: str) -> None:
    changed = study(f"students.runs.1.{field}={json.dumps(OTHER[field])}")
    assert changed.students[0].id == study().students[0].id
    assert changed.students[1].id != study().students[1].id


def test_other_milestones_change_an_id() -> None:
    first, second = (
        study("students.runs.1.schedule=step", f"students.runs.1.milestones=[{epoch}]") for epoch in (1, 2)
    )
    assert first.students[0].id == second.students[0].id
    assert first.students[1].id != second.students[1].id


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


def test_another_target_leaves_the_others() -> None:
    found = study("targets.gtd={method: gtd}")
    assert [t.id for t in found.targets][:2] == [t.id for t in study().targets]
