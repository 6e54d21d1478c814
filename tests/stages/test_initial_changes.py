"""Members that are finished, and what they began with changes: refused, or with `replace` trained again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages import attempted
from tests.stages.test_initial import checkpoint, context, made, shard, study
from ukd_dist import manifest
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import MismatchError
from ukd_dist.experiment import Experiment, resolved
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import shards_digest
from ukd_dist.stages.distill import needs_training, student_inputs
from ukd_dist.stages.garbage import collect
from ukd_dist.stages.initial import prepare, teacher_inputs
from ukd_dist.stages.teach import teach
from ukd_dist.training.inference import WEIGHTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "theirs.pth")


@pytest.fixture
def finished(shards: ShardSet, path: Path, tmp_path: Path) -> Experiment:
    """Two teachers and a student that began with a checkpoint; only manifests are there of them."""
    run = shard(shards, RunDirectory(tmp_path / "run"))
    wanted = study(run.root, path)
    prepare(context(wanted), [wanted.teachers[0].settings])
    for teacher in wanted.teachers:
        inputs = teacher_inputs(run, teacher, shards_digest(run))
        manifest.commit(run.teacher(teacher.id), "teacher", resolved(teacher.settings), inputs, [])
    for student in wanted.students:
        inputs = student_inputs(run, student)
        manifest.commit(run.student(student.id), "student", resolved(student.settings), inputs, [])
    return wanted


def change_shards(run: RunDirectory) -> None:
    found = manifest.read(run.shards)
    assert found is not None
    manifest.commit(run.shards, found.kind, {**found.settings, "seed": 9}, found.inputs, found.files)


def test_what_is_trained_again_after_gc_has_its_initial_weights_made_again(finished: Experiment) -> None:
    run, (student,) = RunDirectory(finished.root), finished.students
    collect(finished)
    assert not made(finished).exists()
    change_shards(run)
    with pytest.raises(MismatchError, match=r"was made with inputs.shards"):
        needs_training(context(finished), student)
    assert needs_training(context(finished, replace=True), student)
    assert (made(finished) / WEIGHTS).is_file()
    assert not run.student(student.id).exists()


def test_a_checkpoint_that_changes_is_refused_though_all_are_finished(
    finished: Experiment, path: Path
) -> None:
    (student,) = finished.students
    teach(context(finished))
    assert not needs_training(context(finished), student)
    checkpoint(path, seed=8)
    told = rf"^{made(finished)} was made with inputs.checkpoint = "
    with pytest.raises(MismatchError, match=told):
        teach(context(finished))
    with pytest.raises(MismatchError, match=told):
        needs_training(context(finished), student)


def test_a_checkpoint_that_changes_begins_students_again_with_replace(
    finished: Experiment, path: Path
) -> None:
    (student,) = finished.students
    checkpoint(path, seed=8)
    assert needs_training(context(finished, replace=True), student)
    found = manifest.read(made(finished))
    assert found is not None
    assert found.inputs == {"checkpoint": manifest.sha256_of(path)}


def test_a_parent_that_changes_is_refused_though_its_children_are_finished(
    shards: ShardSet, tmp_path: Path
) -> None:
    run = shard(shards, RunDirectory(tmp_path / "run"))
    first = study(run.root, "none").teachers[0]
    wanted = study(run.root, "none", f"teachers.fleet.1.init=member:{first.id}", "teachers.keep=logits")
    parent, child = wanted.teachers
    attempted.train(wanted, parent)
    prepare(context(wanted), [child.settings])
    attempted.train(wanted, child)
    teach(context(wanted))
    found = manifest.read(run.teacher(parent.id))
    assert found is not None
    (run.teacher(parent.id) / WEIGHTS).write_bytes(b"of another training")
    manifest.commit(run.teacher(parent.id), found.kind, found.settings, found.inputs, [WEIGHTS])
    with pytest.raises(MismatchError, match=rf"^{made(wanted, 1)} was made with inputs.checkpoint = "):
        teach(context(wanted))
