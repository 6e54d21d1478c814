"""The report's example clips: pictures of real shards, and what targets and students say of them."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.stages import fake_run
from tests.stages.page import Page
from ukd_dist import manifest
from ukd_dist.data.knowledge import CHECKS, TARGET, logits_path, open_finished, write_logits, write_target
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.examples import EXAMPLES, Example, draw_examples, read_examples
from ukd_dist.stages.findings import read_groups
from ukd_dist.stages.reduce import TARGET_FILE
from ukd_dist.stages.report import report
from ukd_dist.stages.sayings import read_sayings

TEXT = fake_run.EXPERIMENT.replace("short_side: [64, 80]", "short_side: [64, 80], gamma: 2.0")


@pytest.fixture(scope="module")
def drawn(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of real shards whose members are made up."""
    run = RunDirectory(tmp_path_factory.mktemp("drawn") / "run")
    run.root.mkdir()
    run.shards.symlink_to(shards.directory)
    experiment = of(run)
    manifest.write_atomically(run.experiment, experiment.to_yaml().encode())
    speak(run, experiment, shards)
    draw_examples(run.root, gamma=2.0)
    return run


def of(run: RunDirectory) -> Experiment:
    return parse(TEXT.format(root=run.root), "test", [])


def speak(run: RunDirectory, experiment: Experiment, shards: ShardSet) -> None:
    """Targets and students whose logits are largest at class row + 1."""
    num_classes = len(shards.classes)

    def logits(rows: int) -> torch.Tensor:
        at = torch.arange(rows)[:, None] + 1
        return 4.0 * (torch.arange(num_classes) == at % num_classes).float()

    train, test = shards.rows["train"], shards.rows["test"]
    for target in experiment.targets:
        directory, said = run.target(target.id), logits(len(train))
        said = said if target.settings.space == "logits" else said.softmax(dim=1)
        checks = write_target(directory / TARGET_FILE, said, train, {}, view="centre")
        manifest.commit(directory, "target", {}, {}, [TARGET_FILE], {CHECKS: {TARGET_FILE: checks}})
    for student in experiment.students:
        directory = run.student(student.id)
        fake_run.train(directory, student)
        path, none = logits_path(directory, "test"), torch.zeros(len(test), dtype=torch.bool)
        checks = write_logits(path, logits(len(test)), test, "test", view="centre", trained_on=none)
        manifest.commit(path.parent, "logits", {}, {}, [path.name], {CHECKS: {path.name: checks}})
        fake_run.evaluate_member(directory, student, shards.classes)


def examples(run: RunDirectory) -> list[Example]:
    found = read_examples(run, 2.0)
    assert found
    return found


def test_some_videos_of_each_split_are_shown_each_of_another_class(drawn: RunDirectory) -> None:
    shards = ShardSet(drawn.shards)
    for split in ("train", "test"):
        some = [example for example in examples(drawn) if example.split == split]
        assert len({example.class_name for example in some}) == len(some) > 1
        for example in some:
            rows = shards.rows[example.split]
            assert shards.classes[rows.labels[example.row]] == example.class_name


def test_pictures_are_as_stored_brighter_by_gamma_and_flow(drawn: RunDirectory) -> None:
    for example in examples(drawn):
        assert list(example.pictures) == ["as stored", "gamma 2", "flow"]
        stored, corrected, _ = (
            cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
            for data in example.pictures.values()
        )
        assert stored.shape == (160, 160, 3)
        assert corrected.mean() > stored.mean() + 5


def test_the_file_is_small_and_drawn_the_same_again(drawn: RunDirectory, tmp_path: Path) -> None:
    payload = (drawn.report / EXAMPLES).read_bytes()
    assert len(payload) < 600_000
    draw_examples(drawn.root, gamma=2.0)
    assert (drawn.report / EXAMPLES).read_bytes() == payload


def test_pictures_of_other_shards_are_none(drawn: RunDirectory, tmp_path: Path) -> None:
    document = json.loads((drawn.report / EXAMPLES).read_text())
    other = RunDirectory(tmp_path)
    other.shards.symlink_to(drawn.shards)
    assert read_examples(other, 2.0) is None
    manifest.write_atomically(other.report / EXAMPLES, json.dumps({**document, "shards": "0"}).encode())
    assert read_examples(other, 2.0) is None
    manifest.write_atomically(other.report / EXAMPLES, json.dumps(document).encode())
    assert read_examples(other, 2.0) == examples(drawn)
    assert read_examples(other, 3.0) is None, "of another gamma"


def test_of_training_videos_targets_speak_and_of_test_videos_students(drawn: RunDirectory) -> None:
    experiment, shards = of(drawn), ShardSet(drawn.shards)
    students = [group for group in read_groups(drawn, experiment) if group.kind == "student"]
    target = experiment.targets[0]
    said = open_finished(
        drawn.target(target.id), TARGET_FILE, TARGET, shards.rows["train"], "train", len(shards.classes)
    ).read()
    for told in read_sayings(drawn, experiment, students):
        expected = (told.example.row + 1) % len(shards.classes)
        who = [saying.who for saying in told.sayings]
        if told.example.split == "train":
            assert who == [target.name for target in experiment.targets]
            share = said[told.example.row].softmax(dim=0)[expected].item()
            assert told.sayings[0].shares[0] == (shards.classes[expected], pytest.approx(share))
        else:
            assert who == [group.label for group in students]
        for saying in told.sayings:
            assert saying.shares[0][0] == shards.classes[expected]


def test_the_page_shows_them_without_a_network(drawn: RunDirectory) -> None:
    html = report(drawn, of(drawn)).read_text()
    sources = [part.split('"')[0][:23] for part in html.split('src="')[1:]]
    assert sources == ["data:image/jpeg;base64,"] * (3 * len(examples(drawn)))
    page = Page(html)
    assert "Training videos and their targets" in page.text
    assert all(example.key in page.text for example in examples(drawn))


def test_what_is_damaged_says_nothing_and_costs_no_page(
    drawn: RunDirectory, tmp_path: Path, shards: ShardSet
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(drawn.root, run.root, symlinks=True)
    experiment = of(run)
    target, student = run.target(experiment.targets[0].id), run.student(experiment.students[0].id)
    (target / TARGET_FILE).write_bytes(b"0" * 100)
    shutil.rmtree(student / "logits")  # as it is while evaluation is made again
    students = [group for group in read_groups(run, experiment) if group.kind == "student"]
    who = {saying.who for told in read_sayings(run, experiment, students) for saying in told.sayings}
    assert experiment.targets[0].name not in who
    assert students[0].label not in who
    assert experiment.targets[1].name in who
    assert "Examples" in report(run, experiment).read_text()
