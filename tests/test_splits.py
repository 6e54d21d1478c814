"""Experiments of several splits: what their file resolves to, what it may not say, who holds their root."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.holders import holder
from tests.small_study import FOLDER, NO_VIDEOS, answer, members, study
from ukd_dist import whole
from ukd_dist.cli import app
from ukd_dist.data import synthetic
from ukd_dist.errors import BusyError, MismatchError, UsageError
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, coordinating
from ukd_dist.splits import begun, has_several, only_part, open_parts, parts
from ukd_dist.stages.packing import parse_nodes
from ukd_dist.status import is_held

BOTH = "data.splits={split0: {train: train0, test: test0}, split1: {train: train1, test: test1}}"
DRAWN = (*NO_VIDEOS, "data.synthetic={train_clips: 2, test_clips: 1, splits: 2}")
PUBLISHED = "evaluate.published={ukd: {split0: 70.0, average: 71.3}, slowfast_tiny-flow: {split1: 60.0}}"
HOLDER = """
import sys, time
from pathlib import Path
from ukd_dist import whole
from ukd_dist.resolution import load

with whole.holding(load(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


# --- What a file resolves to -------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), FOLDER, NO_VIDEOS], ids=["listed", "folder", "synthetic"])
def test_an_experiment_of_one_split_is_its_own_only_part(overrides: tuple[str, ...]) -> None:
    experiment = study(*overrides)
    assert not has_several(experiment)
    assert list(parts(experiment).values()) == [experiment]


@pytest.mark.parametrize("overrides", [(BOTH,), DRAWN], ids=["listed", "synthetic"])
def test_each_of_several_splits_has_the_same_members_below_a_root_of_its_own(
    overrides: tuple[str, ...],
) -> None:
    experiment = study(*overrides)
    found = parts(experiment)
    assert {name: (part.name, part.root) for name, part in found.items()} == {
        "split0": ("study-split0", experiment.root / "split0"),
        "split1": ("study-split1", experiment.root / "split1"),
    }
    assert all(members(part) == members(experiment) == members(study()) for part in found.values())
    assert [list(part.data.splits) for part in found.values()] == [["split0"], ["split1"]]


@pytest.mark.parametrize("overrides", [(BOTH,), DRAWN], ids=["listed", "synthetic"])
def test_a_part_is_what_its_own_file_resolves_to(overrides: tuple[str, ...]) -> None:
    for part in parts(study(*overrides, PUBLISHED)).values():
        assert parse(part.to_yaml(), "experiment.yaml", []) == part
        assert list(parts(part).values()) == [part]


def test_drawn_videos_lie_once_in_the_outer_root() -> None:
    experiment = study(*DRAWN)
    videos = experiment.root / "videos"
    part = parts(experiment)["split1"]
    assert part.data.videos == videos / "videos"
    assert part.data.splits["split1"].test == videos / "lists/split1_test.txt"


def test_finished_shards_of_several_splits_lie_below_one_place() -> None:
    experiment = study(BOTH, "data.shards=s3://bucket/arid", "cluster.shard_cache=/scratch")
    found = [part.data.shards for part in parts(experiment).values()]
    assert found == ["s3://bucket/arid/split0", "s3://bucket/arid/split1"]


def test_published_figures_are_a_splits_or_the_averages() -> None:
    experiment = study(BOTH, PUBLISHED)
    assert [part.published for part in parts(experiment).values()] == [
        {"ukd": 70.0},
        {"slowfast_tiny-flow": 60.0},
    ]
    assert experiment.evaluate.figures("average") == {"ukd": 71.3}
    for said in ("71.3", "{split0: 71.3}"):
        assert study(f"evaluate.published={{ukd: {said}}}").published == {"ukd": 71.3}


# --- What it may not say -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["data.splits.report={train: a, test: b}"],
            "data: splits names one 'report', which is taken; expected none of average, init, logs, ",
        ),
        (
            [BOTH, "evaluate.published={ukd: 71.3}"],
            "evaluate.published.ukd is 71.3, and there are 2 splits; expected figures by name, of split0, "
            "split1, average; say of what it is, for example {average: 71.3}",
        ),
        (
            [BOTH, "evaluate.published={ukd: {splt1: 71.3}}"],
            "evaluate.published.ukd names unknown split 'splt1'; expected one of split0, split1, average; ",
        ),
        (
            ["evaluate.published={ukd: {average: 71.3}}"],
            "evaluate.published.ukd names unknown split 'average'; expected one of split0; correct the name",
        ),
        (
            [*FOLDER, "evaluate.published={ukd: {split0: 71.3}}"],
            "evaluate.published.ukd names unknown split 'split0'; expected a number, since splits have no ",
        ),
        (
            ["students.runs.0.name=x3d_tiny-rgb", "evaluate.published={x3d_tiny-rgb: 1}"],
            "evaluate.published names 'x3d_tiny-rgb', which is a student and the teachers of that network",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_contradiction_of_splits_is_named(overrides: list[str], problem: str) -> None:
    assert answer(*overrides).startswith(f"study.yaml: {problem}")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [((BOTH,), "one of split0, split1"), ((), "one of split0"), (FOLDER, "none to be named: its one split")],
)
def test_an_unknown_split_is_told_the_known_ones(overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UsageError, match=f"study has no split 'split2'; expected {expected}"):
        parts(study(*overrides), "split2")


def test_what_speaks_of_one_splits_videos_needs_its_name() -> None:
    experiment = study(BOTH)
    with pytest.raises(UsageError, match=r"study has 2 splits; .*; give --split split0 or --split split1"):
        only_part(experiment)
    assert only_part(experiment, "split1") == parts(experiment)["split1"]
    assert only_part(study()) == study()


def test_wrong_lists_of_any_split_are_told_before_the_first_is_begun(tmp_path: Path) -> None:
    for number, name in enumerate(("Walk", "Wave")):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for kind in ("train", "test"):
            (tmp_path / f"videos/{name}/{name}_{kind}.mp4").touch()
            for split in (0, 1):
                with (tmp_path / f"{kind}{split}").open("a") as file:
                    file.write(f"{name}/{name}_{kind}.mp4 {number}\n")
    (tmp_path / "test1").unlink()
    lists = BOTH.replace(": t", f": {tmp_path}/t")
    experiment = study(f"root={tmp_path}/run", f"data.videos={tmp_path}/videos", lists)

    with pytest.raises(UsageError, match=rf"^split1: list {tmp_path}/test1"):
        whole.run(experiment, ["shard"], progress=Progress())

    assert not experiment.root.exists()


# --- The outer root ----------------------------------------------------------------------------------------


def test_a_root_of_one_split_is_no_root_of_several_nor_the_other_way_round(begun_study: Path) -> None:
    one, several = (study(f"root={begun_study}", *more) for more in ((), (BOTH,)))
    with pytest.raises(MismatchError, match=f"^{begun_study} holds split0, .* to {begun_study}/split0"):
        whole.run(one, ["shard"], progress=Progress())
    (begun_study / "shards").mkdir()
    with pytest.raises(MismatchError, match=f"^{begun_study} holds a run of one split, .*/NAME, by the"):
        whole.run(several, ["shard"], progress=Progress())


@pytest.fixture
def begun_study(tmp_path: Path) -> Path:
    """The outer root of a study of which split0 was begun, and then the root was moved."""
    experiment = study(BOTH, f"root={tmp_path}/run")
    with coordinating(experiment), coordinating(parts(experiment)["split0"]):
        pass
    return experiment.root.rename(tmp_path / "moved")


def test_a_root_tells_its_splits_wherever_it_lies(begun_study: Path) -> None:
    found = open_parts(begun_study)
    assert {name: run.root for name, (run, _) in found.items()} == {
        name: begun_study / name for name in ("split0", "split1")
    }
    _, experiment = found["split1"]
    assert experiment.root == begun_study / "split1"
    assert list(begun(replace(study(BOTH), root=begun_study))) == ["split0"]
    assert list(open_parts(begun_study / "split0")) == ["split0"]


def test_the_status_of_a_root_names_each_split(begun_study: Path) -> None:
    told = CliRunner().invoke(app, ["status", str(begun_study)])
    alone = CliRunner().invoke(app, ["status", str(begun_study / "split0")])
    assert told.exit_code == alone.exit_code == 0
    assert told.stdout == f"split0:\n{alone.stdout}split1:\n{alone.stdout}"


def test_the_report_of_a_root_is_written_before_anything_is_evaluated(begun_study: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(begun_study)])
    assert done.stdout == f"report: {begun_study}/report/index.html\n", done.stderr
    page = (begun_study / "report/index.html").read_text()
    assert '<a href="../split0/report/index.html">split0</a>' in page
    assert "not finished" in page
    assert (begun_study / "split1/report/index.html").is_file()


def test_a_plan_before_the_videos_are_drawn_knows_how_many_each_split_has(tmp_path: Path) -> None:
    experiment = study(
        *NO_VIDEOS, "data.synthetic={train_clips: 6, test_clips: 5, splits: 2}", f"root={tmp_path}"
    )
    nodes = parse_nodes(["cpus=2"])
    before = {name: plan.target_bytes for name, plan in whole.plan(experiment, nodes)}
    divisions = synthetic.divide(*synthetic.plan(seed=0, train_clips=6, test_clips=5), 2)
    synthetic.write_lists(divisions, tmp_path / "videos/lists")
    for video in (*divisions[0][0], *divisions[0][1]):
        path = tmp_path / "videos/videos" / video.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert {name: plan.target_bytes for name, plan in whole.plan(experiment, nodes)} == before
    assert before["split1"] > before["split0"]
    ((only, _),) = whole.plan(experiment, nodes, split="split1")
    assert only == "split1"


def test_one_coordinator_at_a_time_holds_the_root_of_several_splits(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    experiment = study(*DRAWN, f"root={tmp_path}/run")
    file.write_text(experiment.to_yaml())
    with holder(HOLDER, str(file)) as process:
        with pytest.raises(BusyError, match=f"{experiment.root} is held by process {process.pid} on "):
            whole.run(experiment, split="split1", progress=Progress())
        cancel = [sys.executable, "-m", "ukd_dist.cli", "cancel", str(experiment.root)]
        done = subprocess.run(cancel, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.startswith(f"{experiment.root}: process {process.pid} on "), done.stderr
    assert not is_held(RunDirectory(experiment.root))
    assert not (experiment.root / "split1").exists()
