"""TensorBoard event files: one point an epoch, however often they are written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.stages import fake_run
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.events import EventFiles
from ukd_dist.training.history import read_epochs, write_history


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return fake_run.build(tmp_path / "run")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What a member's files hold: tag -> step -> value; each point once."""
    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events.*"):
        for event in records(path.read_bytes()):
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def records(payload: bytes) -> list[Event]:
    """TFRecords: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    events, place = [], 0
    while place < len(payload):
        length = int.from_bytes(payload[place : place + 8], "little")
        events.append(Event.FromString(payload[place + 12 : place + 12 + length]))
        place += 16 + length
    return events


def test_each_epoch_is_a_point_of_each_figure(run: RunDirectory, tmp_path: Path) -> None:
    experiment = fake_run.experiment(run.root)
    files = EventFiles(run, experiment, tmp_path / "events")
    assert files.update() == 10 * (len(experiment.teachers) + len(experiment.students))
    student = next(s for s in experiment.students if s.settings.name == "ukd")
    found = scalars(tmp_path / "events" / "students" / student.id)
    epochs = read_epochs(run.student(student.id))
    assert found["loss/kl"] == pytest.approx({e.epoch: e.losses["kl"] for e in epochs}, rel=1e-6)
    assert found["accuracy/train"] == pytest.approx({e.epoch: e.accuracy for e in epochs}, rel=1e-6)
    assert list(found["accuracy/test"]) == [10]
    assert Counter(len(steps) for steps in found.values()) == {10: len(found) - 1, 1: 1}


def test_looking_again_adds_what_is_new_alone(run: RunDirectory, tmp_path: Path) -> None:
    experiment = fake_run.experiment(run.root)
    teacher = run.teacher(experiment.teachers[0].id)
    epochs = read_epochs(teacher)
    write_history(teacher, epochs[:6])
    files = EventFiles(run, experiment, tmp_path / "events")
    files.update()
    write_history(teacher, epochs)
    assert files.update() == 4
    assert files.update() == 0
    assert sorted(scalars(tmp_path / "events" / "teachers" / teacher.name)["lr"]) == list(range(1, 11))


def test_a_training_that_is_made_again_starts_anew(run: RunDirectory, tmp_path: Path) -> None:
    experiment = fake_run.experiment(run.root)
    teacher = run.teacher(experiment.teachers[0].id)
    epochs = read_epochs(teacher)
    files = EventFiles(run, experiment, tmp_path / "events")
    files.update()
    write_history(teacher, epochs[1:3])
    assert files.update() == 2
    found = scalars(tmp_path / "events" / "teachers" / teacher.name)
    assert list(found["lr"]) == [2, 3]


def test_no_file_stays_open(run: RunDirectory, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = EventFiles(run, fake_run.experiment(run.root), tmp_path / "events")
    files.update()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
