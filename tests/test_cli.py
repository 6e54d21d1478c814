"""The command line: exit codes, one line for each error, JSON on stdout; and what bad input is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner, Result

from tests.stages import trained_member
from tests.test_manifest import mounted_disk
from ukd_dist import pipeline
from ukd_dist.cli import app
from ukd_dist.data.shards import ShardSet
from ukd_dist.resolution import load
from ukd_dist.rundir import coordinating


def commands(group: typer.core.TyperGroup, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, those of groups included."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *words, name)
        else:
            yield *words, name


COMMANDS = list(commands(typer.main.get_group(app)))
STAGES = ["shard", "teach", "reduce", "distill", "evaluate", "run"]
CLASSES = ("Walk", "Wave")
STUDY = """
name: study
root: run
data:
  source: arid
  videos: videos
  splits: {split0: {train: lists/train.txt, test: lists/test.txt}}
  clip: {frames: 16, size: 64, short_side: [64, 80]}
teachers:
  fleet: [{arch: x3d_tiny, modality: rgb, epochs: 1}]
targets: {ukd: {method: pkd}}
students:
  runs: [{name: ukd, arch: x3d_tiny, modality: rgb, epochs: 1, targets: ukd, temperature: 20}]
cluster: {metrics_port: null}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment and lists of videos, which are empty: no test gets as far as decoding."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    Path("lists").mkdir()
    Path("lists/mapping_table.txt").write_text("".join(f"{n}\t{name}\n" for n, name in enumerate(CLASSES)))
    for split in ("train", "test"):
        lines = [f"{n}\t{n}\t{name}/{name}_{split}.mp4" for n, name in enumerate(CLASSES)]
        Path(f"lists/{split}.txt").write_text("\n".join(lines) + "\n")
        for name in CLASSES:
            add_video(f"{name}/{name}_{split}.mp4")
    return tmp_path


def add_video(name: str) -> None:
    path = Path("videos") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def add_line(split: str, line: str) -> None:
    with Path(f"lists/{split}.txt").open("a") as file:
        file.write(f"{line}\n")


def invoke(*arguments: str | Path) -> Result:
    """Call a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ukd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call a command as a shell does."""
    command = [sys.executable, "-m", "ukd_dist.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def told(result: Result, exit_code: int) -> str:
    """The one line that the user reads."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (exit_code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("ukd: ")
    return line.removeprefix("ukd: ")


# --- Exit codes, streams and formats -----------------------------------------------------------------------


def test_wrong_usage_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    result = ukd("status", tmp_path)
    expected = (
        f"ukd: {tmp_path} holds no experiment.yaml; expected the root of a run; start one with `ukd run`\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (2, "", expected)


def test_a_failure_is_one_line_on_stderr_and_exit_code_1(here: Path) -> None:
    Path("videos/Walk/Walk_test.mp4").unlink()
    result = ukd("shard", "study.yaml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("ukd: ")
    assert result.stderr.count("\n") == 1


def test_debug_adds_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    result = ukd("status", tmp_path, "--debug")
    assert result.returncode == 2
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "ukd_dist.errors.UsageError: " in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"ukd: {tmp_path} holds no experiment.yaml")


INTERRUPTIBLE = """
import signal
from ukd_dist.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit another
main()
"""


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE, "synth", str(tmp_path), "--train-clips", "99"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 30
            while not any(tmp_path.glob("videos/*/*.mp4")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (1, "")
    assert stderr == "ukd: interrupted; run again to go on\n"


def test_synth_says_as_json_what_it_drew(tmp_path: Path) -> None:
    result = ukd("synth", tmp_path / "drawn", "--train-clips", "1", "--test-clips", "1", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"dest": str(tmp_path / "drawn"), "train": 11, "test": 11}
    assert len(list(tmp_path.glob("drawn/videos/*/*.mp4"))) == 22


def test_doctor_says_as_json_what_it_found() -> None:
    result = ukd("doctor", "--json")
    assert result.returncode == 0, result.stderr
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert {"python", "torch", "ray", "deepspeed", "nvidia-dali", "GPU", "decode"} <= set(findings)
    assert findings["decode"]["verdict"] == "ok", findings["decode"]


def test_status_tells_every_member_as_json(here: Path) -> None:
    with coordinating(load(Path("study.yaml"))) as run:
        run.shards.mkdir()
        result = ukd("status", "run", "--json")
    assert result.returncode == 0, result.stderr
    members = json.loads(result.stdout)
    assert [member["kind"] for member in members] == ["shards", "teacher", "target", "student"]
    assert [member["state"] for member in members] == ["running", "pending", "pending", "pending"]


def test_status_tells_people_the_same(here: Path) -> None:
    with coordinating(load(Path("study.yaml"))):
        pass
    result = invoke("status", "run")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "kind",
        "shards",
        "teacher",
        "target",
        "student",
    ]


def parameters(command: tuple[str, ...]) -> list[click.Parameter]:
    found: Any = typer.main.get_group(app)
    for word in command:
        found = found.commands[word]
    return list(found.params)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert [p.name for p in parameters(command) if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_json_and_debug(command: tuple[str, ...]) -> None:
    assert {"--json", "--debug"} <= {o for p in parameters(command) for o in p.opts}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["status"],
        ["status", "run", "--nonsense"],
        ["status", "run", "another"],
        ["synth", "drawn", "--train-clips", "0"],
        ["synth", "drawn", "--seed", "x"],
        ["run"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_code_2(here: Path, arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert not Path("drawn").exists()


# --- Experiments that are wrong: told before anything is made ----------------------------------------------


@pytest.mark.parametrize("command", STAGES)
def test_every_stage_refuses_a_wrong_experiment_before_it_begins(here: Path, command: str) -> None:
    line = told(invoke(command, "study.yaml", "data.clip.framez=3"), exit_code=2)
    assert line.startswith("study.yaml: data.clip: unknown key 'framez'; expected one of ")
    assert line.endswith("did you mean 'frames'?")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "data.clip.size=300",
            "study.yaml: data.clip: short_side [64, 80] does not hold a crop of 300; expec",
        ),
        ("data.splits.b={train: a, test: b}", "b: list /"),
        ("teachers.fleet.0.arch=x3d", "study.yaml: x3d-rgb-s0-"),
        ("data.clip.frames=15", "study.yaml: x3d_tiny-rgb-s0-"),
        ("data.clip.frames", "override 'data.clip.frames'; expected a.b=value; for example data.clip.frames"),
        (
            "data.clip.frames=[",
            "override 'data.clip.frames=[' names no setting: while parsing a flow node ex",
        ),
    ],
)
def test_a_contradiction_is_told_before_anything_is_made(here: Path, override: str, problem: str) -> None:
    assert told(invoke("run", "study.yaml", override), exit_code=2).startswith(problem)
    assert not Path("run").exists()


def test_an_unknown_network_is_told_the_known_ones(here: Path) -> None:
    line = told(invoke("teach", "study.yaml", "teachers.fleet.0.arch=x3d"), exit_code=2)
    assert "unknown network 'x3d'; expected one of c2d_r50, i3d_nl_r101, " in line
    assert line.endswith("x3d_xs, or package.module:function; correct arch")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["study.teachers=9"],
            "study.teachers asks for 9, and the run's target has 1 teachers to draw from;",
        ),
        (["--offline", "--tau", "1,x"], "ukd study: tau[1] is 'x'; expected a valid number"),
        (["--offline", "--tau", "0"], "ukd study: tau[0] is '0'; expected greater than 0"),
        (["--offline", "--h", "1.0"], "ukd study: h[0] is '1.0'; expected less than 1"),
        (
            ["--offline", "--methods", "avg,pdk"],
            "ukd study: methods[1] is 'pdk'; expected 'pkd', 'gtd', 'avg'",
        ),
        (["--offline", "--spaces", ""], "ukd study: spaces[0] is ''; expected 'logits' or 'probs'"),
    ],
)
def test_a_study_of_nothing_that_there_is_makes_nothing(
    here: Path, arguments: list[str], problem: str
) -> None:
    assert told(invoke("study", "study.yaml", *arguments), exit_code=2).startswith(problem)
    assert not Path("run").exists()


def test_a_study_before_its_shards_says_which_command_makes_them(here: Path) -> None:
    line = told(invoke("study", "study.yaml", "--offline"), exit_code=2)
    assert line.endswith(
        "run/shards holds no finished shards; expected a manifest; make them with `ukd shard`"
    )


def test_the_demo_refuses_a_wrong_override(here: Path) -> None:
    line = told(invoke("demo", "--root", "demo", "teachers.defaults.epoch=1"), exit_code=2)
    assert "teachers.defaults: unknown key 'epoch'" in line
    assert not Path("demo").exists()


def test_a_missing_experiment_is_named(here: Path) -> None:
    line = told(invoke("run", "nowhere.yaml"), exit_code=2)
    assert line == (
        "experiment nowhere.yaml: No such file or directory; expected a YAML file; "
        "give the path of one (see launch/experiments)"
    )


def test_a_video_is_no_experiment(here: Path) -> None:
    Path("study.mp4").write_bytes(bytes(range(128, 256)))
    assert told(invoke("run", "study.mp4"), exit_code=2).startswith("study.mp4 is not YAML: ")


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_folder_without_a_run_is_no_root(here: Path, command: str) -> None:
    line = told(invoke(command, "lists"), exit_code=2)
    assert line == "lists holds no experiment.yaml; expected the root of a run; start one with `ukd run`"


@pytest.mark.parametrize("command", ["teach", "reduce", "distill", "evaluate"])
def test_a_stage_before_its_shards_says_which_command_makes_them(here: Path, command: str) -> None:
    line = told(invoke(command, "study.yaml"), exit_code=2)
    assert (
        line == f"{here}/run/shards holds no finished shards; expected a manifest; make them with `ukd shard`"
    )


@pytest.mark.parametrize("command", ["teach", "reduce", "distill", "evaluate"])
def test_a_stage_after_sharding_asks_for_no_videos(here: Path, command: str) -> None:
    shutil.rmtree("videos")
    shutil.rmtree("lists")
    assert "run/shards holds no finished shards" in told(invoke(command, "study.yaml"), exit_code=2)


# --- Lists that are wrong: told before any video is decoded -------------------------------------------------


def sharding() -> str:
    """What `ukd shard` says before it writes anything."""
    line = told(invoke("shard", "study.yaml"), exit_code=1)
    assert not Path("run").exists()
    return line


def test_a_listed_video_that_is_missing_is_named_with_its_line(here: Path) -> None:
    add_line("train", "2\t0\tWalk/Walk_9_9.mp4")
    assert sharding() == (
        f"1 of 5 listed videos are missing in {here}/videos, "
        f"first Walk/Walk_9_9.mp4 ({here}/lists/train.txt:3); "
        "expected every listed video, .avi and .mp4 being taken for each other; "
        "correct data.videos or the list"
    )


def test_a_video_under_the_other_extension_is_found(here: Path) -> None:
    """The line after it is the one that is wrong."""
    add_line("train", "2\t0\tWalk/Walk_1_1.avi")
    add_line("train", "3\t0\tWalk/Walk_9_9.avi")
    add_video("Walk/Walk_1_1.mp4")
    assert sharding().startswith(
        f"1 of 6 listed videos are missing in {here}/videos, "
        f"first Walk/Walk_9_9.avi ({here}/lists/train.txt:4)"
    )


def test_a_label_without_a_class_is_named_with_its_line(here: Path) -> None:
    add_line("test", "2\t7\tWalk/Walk_test.mp4")
    assert sharding() == (
        f"{here}/lists/test.txt:3: label 7 is no class of the class table; expected one of [0, 1]; "
        "correct the label, or add its class to the table"
    )


def test_a_key_with_a_dot_is_named_with_its_line(here: Path) -> None:
    add_line("train", "2\t0\tWalk/Walk.1.mp4")
    add_video("Walk/Walk.1.mp4")
    line = sharding()
    assert line.startswith(f"{here}/lists/train.txt:3: key 'Walk.1' holds a dot, at which WebDataset would")
    assert line.endswith("; rename the file")


def test_a_class_without_videos_is_named(here: Path) -> None:
    Path("lists/mapping_table.txt").write_text("0\tWalk\n1\tWave\n2\tJump\n")
    assert sharding() == (
        f"class 'Jump' has no training video in {here}/lists/train.txt; "
        "expected at least one for each class of the table; add one, or remove the class from the table"
    )


def test_a_line_in_another_format_is_shown(here: Path) -> None:
    add_line("train", "Walk/Walk_1_1.mp4 0")
    assert sharding() == (
        f"{here}/lists/train.txt:3: 'Walk/Walk_1_1.mp4 0'; expected index<TAB>label<TAB>path; "
        "correct the line"
    )


def test_a_video_in_both_splits_is_named(here: Path) -> None:
    add_line("test", "2\t0\tWalk/Walk_train.mp4")
    assert "Walk_train" in sharding()


def test_an_empty_list_is_named(here: Path) -> None:
    Path("lists/test.txt").write_text("\n")
    assert sharding().startswith(f"{here}/lists/test.txt lists no video; expected one on each line")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "data.videos=nowhere",
            "data.videos {here}/nowhere is no folder; expected the folder with the classes' folders; correct",
        ),
        (
            "data.splits.split0.train=nowhere.txt",
            "list {here}/nowhere.txt: No such file or directory; expected a readable file; correct",
        ),
        ("data.classes=nowhere.txt", "class table {here}/nowhere.txt: No such file or directory; expected"),
    ],
)
def test_a_path_that_leads_nowhere_is_wrong_usage(here: Path, override: str, problem: str) -> None:
    arguments = [override]
    if "split0" in override:
        arguments.append("data.classes=lists/mapping_table.txt")
    line = told(invoke("shard", "study.yaml", *arguments), exit_code=2)
    assert line.startswith(problem.format(here=here))
    assert not Path("run").exists()


# --- Roots and disks ---------------------------------------------------------------------------------------


def test_a_root_that_another_run_holds_is_refused_with_its_holder(here: Path) -> None:
    with coordinating(pipeline.load(Path("study.yaml"))):
        line = told(invoke("shard", "study.yaml"), exit_code=1)
    assert line.startswith(f"{here}/run is held by process {os.getpid()} on ")
    assert line.endswith("; expected one coordinator a root; wait for it, or stop it first")


def test_a_root_below_a_file_is_named(here: Path) -> None:
    line = told(invoke("shard", "study.yaml", "root=study.yaml/run"), exit_code=1)
    assert line == (
        f"{here}/study.yaml/run: Not a directory; expected a file that can be read and written; "
        "check it and run again"
    )


def test_a_full_disk_is_told_what_to_do(here: Path) -> None:
    with mounted_disk(here) as disk:
        (disk / "other").write_bytes(bytes(64 << 10))
        line = told(invoke("shard", "study.yaml", f"root={disk}/run"), exit_code=1)
    assert line == (
        f"{disk}/run/coordinator.lock: No space left on device; expected free space; "
        "free some space and run again: what is finished is kept"
    )


# --- Finished networks -------------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path, shards: ShardSet) -> Path:
    """A finished student of rgb."""
    trained_member.build(tmp_path / "trained", shards)
    (directory,) = tmp_path.glob("trained/students/rgb-*")
    return directory


def test_predict_prints_a_line_a_video_and_goes_on_after_one_that_cannot_be_read(
    network: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    first, second, *_ = sorted(videos.glob("videos/*/*.mp4"))
    result = ukd("predict", network, first, tmp_path / "text.mp4", second)
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(first), str(second)]
    assert all(
        re.search(r": [A-Z][a-z]+ [0-9.]+% \(([A-Z][a-z]+ [0-9.]+%, ){3}[A-Z]", line) for line in lines
    )
    told, summary = result.stderr.splitlines()
    assert told.startswith(f"ukd: {tmp_path}/text.mp4: not a readable video (")
    assert summary.startswith(f"ukd: 1 of 3 videos could not be read, first {tmp_path}/text.mp4; expected ")


def test_predict_prints_a_json_object_a_video(network: Path, videos: Path) -> None:
    folder = videos / "videos" / "Jump"
    result = invoke("predict", network, folder, "--json", "--batch-size", "2", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["video"] for answer in answers] == [str(path) for path in sorted(folder.glob("*.mp4"))]
    for answer in answers:
        assert len(answer["top5"]) == 5
        assert answer["top5"][0] == {key: answer[key] for key in ("class", "probability")}
        probabilities = [entry["probability"] for entry in answer["top5"]]
        assert probabilities == sorted(probabilities, reverse=True)


def test_export_says_as_json_what_it_compared(network: Path, tmp_path: Path) -> None:
    result = invoke("export", network, "--format", "onnx", "--out", tmp_path / "x.onnx", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["file"], answer["classes"]) == (str(tmp_path / "x.onnx"), 11)
    assert answer["difference"] <= answer["tolerance"] == 1e-4


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_folder_without_a_network_is_refused(here: Path, command: str) -> None:
    line = told(invoke(command, "lists", *(["a.mp4"] if command == "predict" else [])), exit_code=2)
    assert line == (
        f"{here}/lists holds no finished student or teacher; expected ROOT/students/ID or ROOT/teachers/ID; "
        "name one that `ukd status ROOT` calls done"
    )
