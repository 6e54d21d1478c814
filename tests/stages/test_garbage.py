"""`ukd gc`: what goes, what never goes, and that nobody else works there meanwhile."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.stages import fake_run
from ukd_dist import manifest
from ukd_dist.cli import app
from ukd_dist.data.sums import SUMS
from ukd_dist.errors import BusyError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, coordinating
from ukd_dist.scaling import begin, points
from ukd_dist.stages.garbage import Collection, collect
from ukd_dist.stages.imports import IMPORTED
from ukd_dist.stages.reduce import OPINIONS
from ukd_dist.stages.verify import verify
from ukd_dist.training.inference import WEIGHTS

CHECKPOINT, ATTEMPT = "checkpoint/epoch-0010/state.pt", "attempts/2/history.jsonl"
OLD_SUMS, NAMED_SUMS = f"{SUMS}/000000000-old.safetensors", f"{SUMS}/000000000-new.safetensors"


def load(root: Path, *overrides: str) -> Experiment:
    return parse(fake_run.EXPERIMENT.format(root=root), "test", list(overrides))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run with all that training and reduction leave behind; its last teacher is not finished."""
    run, experiment = fake_run.build(tmp_path / "run"), load(tmp_path / "run")
    for member in experiment.teachers:
        directory = run.teacher(member.id)
        for name in (CHECKPOINT, ATTEMPT, WEIGHTS):
            manifest.write_atomically(directory / name, name.encode())
        found = manifest.read(directory)
        assert found is not None
        manifest.commit(directory, "teacher", found.settings, found.inputs, [WEIGHTS])
    (run.teacher(experiment.teachers[-1].id) / manifest.FILENAME).unlink()
    for target in experiment.targets:
        directory = run.target(target.id)
        for name in (OLD_SUMS, NAMED_SUMS):
            manifest.write_atomically(directory / name, name.encode())
        found = manifest.read(directory)
        assert found is not None
        manifest.commit(directory, "target", found.settings, {}, [OPINIONS, NAMED_SUMS])
    return run


def files(run: RunDirectory) -> set[str]:
    lock = "coordinator.lock"
    found = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}
    return found - {lock}


def names(collection: Collection, run: RunDirectory) -> set[str]:
    return {item.path.relative_to(run.root).as_posix() for item in collection.excess}


def leave_partial(path: Path, age_seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"cut off")
    written = time.time() - age_seconds
    os.utime(path, (written, written))
    return path


@pytest.mark.parametrize(("keep", "of_teachers"), [("all", 1), ("weights", 2), ("logits", 3)])
def test_what_is_not_to_be_kept_of_finished_teachers_and_targets_goes(
    run: RunDirectory, keep: str, of_teachers: int
) -> None:
    experiment, before = load(run.root, f"teachers.keep={keep}"), files(run)
    finished = [member.id for member in experiment.teachers[:-1]]
    gone = {
        f"teachers/{id_}/{name}" for id_ in finished for name in (ATTEMPT, CHECKPOINT, WEIGHTS)[:of_teachers]
    }
    gone |= {f"targets/{target.id}/{OLD_SUMS}" for target in experiment.targets}
    sizes = sum((run.root / name).stat().st_size for name in gone)

    collection = collect(experiment)

    assert before - files(run) == gone
    assert collection.bytes == sizes
    assert [verdict.problem for verdict in verify(run) if verdict.problem] == []
    assert collect(experiment).excess == ()


def test_weights_stay_while_a_student_waits_that_keeps_teachers_in_memory(run: RunDirectory) -> None:
    waiting = "students.runs=[{name: waits, targets: online, teachers: 1, temperature: 20}]"
    experiment = load(run.root, "teachers.keep=logits", "evaluate={}", waiting)
    (student,) = experiment.students
    kept, *others = [run.teacher(member.id) / WEIGHTS for member in experiment.teachers[:-1]]

    assert str(kept.parent.name) in student.teachers
    assert {item.path for item in collect(experiment).excess if item.what == "weights"} == set(others)
    manifest.commit(run.student(student.id), "student", {}, {}, [])
    assert {item.path for item in collect(experiment).excess if item.what == "weights"} == {kept}


def test_weights_stay_while_a_student_of_the_study_waits_for_them(run: RunDirectory) -> None:
    experiment = load(run.root, "teachers.keep=logits", "study={teachers: [1], repeats: 1, online: 1}")
    begin(run)
    (waiting,) = [point.student for point in points(experiment) if point.way == "online"]

    assert not {run.teacher(id_) / WEIGHTS for id_ in waiting.teachers} & {
        item.path for item in collect(experiment).excess
    }
    manifest.commit(run.student(waiting.id), "student", {}, {}, [])
    assert {item.path for item in collect(experiment).excess if item.what == "weights"} == {
        run.teacher(id_) / WEIGHTS for id_ in waiting.teachers
    }


def test_a_begun_study_that_is_not_possible_any_more_stops_it_before_anything_goes(run: RunDirectory) -> None:
    begin(run)
    before = files(run)
    with pytest.raises(UsageError, match=r"study\.teachers"):
        collect(load(run.root, "study={teachers: [99]}"), removed=True)
    assert files(run) == before


def test_a_dry_run_says_the_same_and_changes_nothing(run: RunDirectory) -> None:
    experiment = load(run.root, "teachers.keep=logits")
    before = {name: (run.root / name).stat().st_mtime_ns for name in files(run)}
    said = collect(experiment, removed=True, dry_run=True)
    assert {name: (run.root / name).stat().st_mtime_ns for name in files(run)} == before
    assert said == collect(experiment, removed=True)


def test_sums_that_are_not_kept_any_more_go_and_their_target_stays_finished(run: RunDirectory) -> None:
    experiment = load(run.root, "cluster.keep_sums=false")
    digests = [manifest.read(run.target(t.id)) for t in experiment.targets]
    collect(experiment)
    assert not [name for name in files(run) if f"/{SUMS}/" in name]
    after = [manifest.read(run.target(t.id)) for t in experiment.targets]
    assert [found and found.digest() for found in after] == [found and found.digest() for found in digests]


def test_what_the_experiment_names_no_more_stays_unless_it_is_asked_for(run: RunDirectory) -> None:
    fewer = load(
        run.root,
        "teachers.fleet=[{arch: slowfast_tiny, modality: rgb}]",
        "targets={ukd: {method: pkd}}",
        "students.runs=[{name: baseline, targets: none}]",
        "evaluate={}",
        "teachers.keep=all",
    )
    assert {item.what for item in collect(fewer).excess} == {"attempts"}
    collection = collect(fewer, removed=True)
    assert {item.what for item in collection.excess} == {
        "removed teachers",
        "removed targets",
        "removed students",
    }
    left = {path.name for kind in ("teachers", "targets", "students") for path in run.root.glob(f"{kind}/*")}
    # Of fewer teachers the target is another, which is not made yet.
    assert left == {fewer.teachers[0].id, fewer.students[0].id}


def test_teachers_from_elsewhere_are_never_dropped(run: RunDirectory) -> None:
    directory = run.teacher("theirs")
    manifest.write_atomically(directory / "logits/train.safetensors", b"theirs")
    manifest.commit(directory, "teacher", {IMPORTED: True}, {}, ["logits/train.safetensors"])
    collection = collect(load(run.root), removed=True)
    assert directory not in {item.path for item in collection.excess}
    assert (directory / "logits/train.safetensors").is_file()


def test_files_of_dead_writers_go_and_what_is_being_written_stays(run: RunDirectory) -> None:
    unfinished = run.teacher(load(run.root).teachers[-1].id)
    dead = leave_partial(unfinished / ".history.jsonl.0a1b2c3d.partial", 3600)
    living = leave_partial(unfinished / ".model.safetensors.0a1b2c3d.partial", 5)
    collection = collect(load(run.root))
    assert not dead.exists()
    assert living.exists()
    assert [item.path for item in collection.excess if item.what == "partial files"] == [dead]


def test_a_partial_file_in_a_folder_that_goes_is_not_counted_twice(run: RunDirectory) -> None:
    finished = run.teacher(load(run.root).teachers[0].id)
    leave_partial(finished / "attempts/2/.model.safetensors.0a1b2c3d.partial", 3600)
    assert "partial files" not in {item.what for item in collect(load(run.root), dry_run=True).excess}


def test_a_removed_member_from_which_another_is_to_start_stays_until_that_is_finished(
    run: RunDirectory,
) -> None:
    last = load(run.root).teachers[-1]
    parent = load(run.root).teachers[0]
    fleet = f"[{{arch: {parent.settings.arch}, modality: rgb, seed: 7, init: 'member:{parent.id}'}}]"
    child = load(run.root, f"teachers.fleet={fleet}")
    place = f"teachers/{parent.id}"
    found = names(collect(child, removed=True, dry_run=True), run)
    assert place not in found
    assert f"teachers/{last.id}" in found
    manifest.commit(run.teacher(child.teachers[0].id), "teacher", {}, {}, [])
    assert place in names(collect(child, removed=True, dry_run=True), run)


def test_a_partial_file_of_a_removed_member_is_not_counted_twice(run: RunDirectory) -> None:
    leave_partial(run.teacher("gone") / ".model.safetensors.0a1b2c3d.partial", 3600)
    excess = collect(load(run.root), removed=True, dry_run=True).excess
    assert [item.what for item in excess if "gone" in str(item.path)] == ["removed teachers"]


def test_a_damaged_directory_is_passed_over_and_named(run: RunDirectory) -> None:
    experiment = load(run.root, "cluster.keep_sums=false")
    broken = run.target(experiment.targets[0].id)
    (broken / OPINIONS).write_bytes(b"{}")
    result = CliRunner().invoke(app, ["gc", str(run.root), "cluster.keep_sums=false"])
    assert result.exit_code == 1
    assert f"1 directories were left as they are, first: {broken / OPINIONS} holds 2 bytes" in result.stderr
    assert (broken / NAMED_SUMS).is_file()
    assert not (run.target(experiment.targets[1].id) / NAMED_SUMS).exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_root_that_a_coordinator_holds_is_left_alone(run: RunDirectory, dry_run: bool) -> None:
    experiment, before = load(run.root), files(run)
    with coordinating(experiment), pytest.raises(BusyError):
        collect(experiment, dry_run=dry_run)
    assert files(run) == before


def test_a_root_that_holds_no_run_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no experiment\.yaml; expected the root of a run"):
        collect(load(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_the_command_takes_a_root_or_an_experiment_and_tells_people_and_programs(run: RunDirectory) -> None:
    path = run.root.parent / "study.yaml"
    path.write_text(fake_run.EXPERIMENT.format(root=run.root))
    told = CliRunner().invoke(app, ["gc", str(run.root), "--dry-run"])
    assert told.exit_code == 0, told.stderr
    lines = [line.split() for line in told.stdout.splitlines()]
    assert lines[0] == ["would", "be", "dropped", "items", "size"]
    assert [line[:2] for line in lines[1:]] == [
        ["attempts", "3"],
        ["checkpoints", "3"],
        ["sums", "2"],
        ["all", "8"],
    ]
    answer = CliRunner().invoke(app, ["gc", str(path), "--json"])
    document = json.loads(answer.stdout)
    assert document["dropped"] is True
    assert len(document["items"]) == 8
    assert document["bytes"] == sum(item["bytes"] for item in document["items"])
    assert not any(Path(item["path"]).exists() for item in document["items"])
