"""`teachers.keep`: what stays of a finished teacher, and that nothing else changes with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.stages import fake_store, small_run
from ukd_dist import manifest
from ukd_dist.config import Keep
from ukd_dist.data.knowledge import LOGITS, logits_name, open_finished
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError
from ukd_dist.rundir import HISTORY, RunDirectory
from ukd_dist.stages.evaluate import score
from ukd_dist.stages.keeping import keep_only
from ukd_dist.stages.results import RESULT, Subject, read_result
from ukd_dist.stages.verify import refuse_damage, verify
from ukd_dist.training.inference import WEIGHTS

LOGITS_FILE = logits_name("train")
ALWAYS = {manifest.FILENAME, HISTORY, LOGITS_FILE}
KEPT: dict[Keep, set[str]] = {
    "all": ALWAYS | {WEIGHTS, "checkpoint/epoch-0002/state.pt", "attempts/1/checkpoint/epoch-0001/state.pt"},
    "weights": ALWAYS | {WEIGHTS},
    "logits": ALWAYS,
}


def finish_teacher(root: Path) -> Path:
    """The directory of a finished teacher, with real logits and everything that training leaves."""
    store = fake_store.build(root, 1, 40, 3)
    (member,) = store.experiment("{pkd: {method: pkd}}").teachers
    directory = RunDirectory(root).teacher(member.id)
    for name in sorted(KEPT["all"] - {manifest.FILENAME, LOGITS_FILE}):
        manifest.write_atomically(directory / name, f"{name}\n".encode() * 100)
    found = manifest.read(directory)
    assert found is not None
    files = [LOGITS_FILE, WEIGHTS, HISTORY]
    manifest.commit(directory, found.kind, found.settings, found.inputs, files, found.summary)
    return directory


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return finish_teacher(tmp_path / "run")


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def read(directory: Path) -> manifest.Manifest:
    found = manifest.read(directory)
    assert found is not None
    return found


def damaged(teacher: Path) -> list[str]:
    return [verdict.problem for verdict in verify(RunDirectory(teacher.parents[1])) if verdict.problem]


@pytest.mark.parametrize("keep", KEPT)
def test_what_stays_is_what_the_setting_says(teacher: Path, keep: Keep) -> None:
    before = sum((teacher / name).stat().st_size for name in KEPT["all"] - KEPT[keep])
    dropped = keep_only(teacher, keep)
    assert files(teacher) == KEPT[keep]
    assert sum(item.bytes for item in dropped) == before
    assert keep_only(teacher, keep) == []


@pytest.mark.parametrize("keep", KEPT)
def test_the_manifest_stays_true_and_keeps_its_digest(teacher: Path, keep: Keep) -> None:
    before = read(teacher)
    keep_only(teacher, keep)
    after = read(teacher)
    assert after.digest() == before.digest()
    assert after.files == before.files
    assert set(after.present) == {name for name in KEPT[keep] if name in before.files}
    assert manifest.finished(teacher, after.kind, before.settings, before.inputs) == after
    assert damaged(teacher) == []


def test_a_result_that_was_measured_before_is_still_the_teachers(teacher: Path) -> None:
    shards = small_run.build(teacher.parents[2] / "other")
    about = {"kind": "teacher", "id": teacher.name, "name": "x", "modality": "rgb", "seed": 0}
    result = score(
        torch.eye(3).repeat(2, 1), ShardSet(shards.shards), Subject(**about, of=read(teacher).digest())
    )  # type: ignore[arg-type]
    manifest.write_atomically(teacher / RESULT, json.dumps(dataclasses.asdict(result)).encode())
    keep_only(teacher, "logits")
    assert read_result(teacher) == result


def test_the_logits_are_still_checked_as_they_are_read(teacher: Path) -> None:
    keep_only(teacher, "logits")
    rows = ShardSet(teacher.parents[1] / "shards").rows["train"]
    assert open_finished(teacher, LOGITS_FILE, LOGITS, rows, "train", 3).read().shape == (40, 3)
    content = bytearray((teacher / LOGITS_FILE).read_bytes())
    content[-200] ^= 1
    (teacher / LOGITS_FILE).write_bytes(content)
    with pytest.raises(DataError, match="was altered in"):
        open_finished(teacher, LOGITS_FILE, LOGITS, rows, "train", 3).read()
    assert damaged(teacher) == [f"{teacher / LOGITS_FILE} was altered"]


def test_a_kill_before_the_weights_went_leaves_a_sound_teacher_of_which_they_go_later(teacher: Path) -> None:
    weights = (teacher / WEIGHTS).read_bytes()
    manifest.drop_files(teacher, read(teacher), [WEIGHTS])
    (teacher / WEIGHTS).write_bytes(weights)  # the manifest was written, the file not yet removed
    assert damaged(teacher) == []
    keep_only(teacher, "logits")
    assert files(teacher) == KEPT["logits"]
    assert damaged(teacher) == []


def test_a_kill_amid_the_checkpoints_loses_nothing(teacher: Path) -> None:
    (teacher / "checkpoint/epoch-0002/state.pt").unlink()
    keep_only(teacher, "weights")
    assert files(teacher) == KEPT["weights"]
    assert damaged(teacher) == []


DROPPING = """
import sys
from pathlib import Path
from ukd_dist.stages.keeping import keep_only

for name in sys.argv[1:]:
    keep_only(Path(name), "logits")
"""


def test_a_real_kill_leaves_every_teacher_sound_and_the_rest_is_dropped_later(
    teacher: Path,
) -> None:
    directories = [teacher.with_name(f"t{number}") for number in range(60)]
    for directory in directories:
        shutil.copytree(teacher, directory)
    command = [sys.executable, "-c", DROPPING, *map(str, directories)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while (directories[3] / WEIGHTS).exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert (directories[-1] / WEIGHTS).exists(), "it came to its end before it was killed"
    assert damaged(teacher) == []
    for directory in directories:
        keep_only(directory, "logits")
    left = [{name for name in files(d) if not name.endswith(".partial")} for d in directories]
    assert left == [KEPT["logits"]] * len(directories)  # what it was writing then is for `ukd gc`
    assert damaged(teacher) == []


def test_weights_stay_where_the_logits_are_damaged(teacher: Path) -> None:
    content = (teacher / LOGITS_FILE).read_bytes()
    (teacher / LOGITS_FILE).write_bytes(content[:-1])
    before = files(teacher)
    with pytest.raises(
        DataError, match=f"{LOGITS_FILE} holds {len(content) - 1} bytes; expected {len(content)}"
    ):
        keep_only(teacher, "logits")
    assert files(teacher) == before


def test_nothing_is_dropped_of_a_teacher_that_is_not_finished(teacher: Path) -> None:
    (teacher / manifest.FILENAME).unlink()
    before = files(teacher)
    assert keep_only(teacher, "logits") == []
    assert files(teacher) == before


def test_dropped_weights_that_are_wanted_again_stay_away_and_the_teacher_finished(teacher: Path) -> None:
    keep_only(teacher, "logits")
    assert keep_only(teacher, "all") == []
    assert keep_only(teacher, "weights") == []
    assert damaged(teacher) == []


def test_a_missing_file_that_was_not_dropped_is_still_damage(teacher: Path) -> None:
    keep_only(teacher, "weights")
    (teacher / WEIGHTS).unlink()
    verdicts = list(verify(RunDirectory(teacher.parents[1])))
    assert damaged(teacher) == [f"{teacher / WEIGHTS} is missing"]
    with pytest.raises(DataError):
        refuse_damage(verdicts)


def test_what_is_kept_is_part_of_no_id(tmp_path: Path) -> None:
    ids = {
        tuple(member.id for member in (*one.teachers, *one.targets, *one.students))
        for one in (small_run.experiment(tmp_path, f"teachers.keep={keep}") for keep in KEPT)
    }
    assert len(ids) == 1
    assert small_run.experiment(tmp_path).keep == "weights"
