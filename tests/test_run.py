"""The whole way, on two Ray nodes and real engines; one kill, and what a finished run does when run again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.method import oracle
from ukd_dist import pipeline
from ukd_dist.config import Cluster
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, MismatchError, ResourceError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.status import read_status

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.cluster


def load(root: Path, *overrides: str) -> Experiment:
    return pipeline.load(TINY, [f"root={root}", *overrides])


def command(root: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "ukd_dist.cli", "run", str(TINY), f"root={root}", *overrides]


def modified(root: Path) -> dict[Path, int]:
    kept = [p for name in ("shards", "teachers", "targets", "students") for p in (root / name).rglob("*")]
    return {path: path.stat().st_mtime_ns for path in kept if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny experiment."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(
        [*command(root), "--json"], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    (root / "stdout.json").write_text(done.stdout)
    return root


def test_a_run_ends_with_results_of_every_member(undisturbed: Path) -> None:
    results = json.loads((undisturbed / "stdout.json").read_text())["results"]

    assert [(r["kind"], r["name"], r["modality"]) for r in results] == [
        ("teacher", "slowfast_tiny", "rgb"),
        ("teacher", "slowfast_tiny", "flow"),
        ("student", "baseline", "rgb"),
        ("student", "ukd", "rgb"),
    ]
    assert all(r["clips"] == 22 and 0 <= r["top1"] <= 1 for r in results)
    with (undisturbed / "report/results.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == [r["id"] for r in results]


def test_the_work_was_spread_over_two_ray_nodes_and_two_deepspeed_ranks(undisturbed: Path) -> None:
    experiment = load(undisturbed)
    ranks = [undisturbed / "logs" / f"{s.id}-rank{rank}.log" for s in experiment.students for rank in (0, 1)]
    nodes = {json.loads(p.read_text().splitlines()[0])["node"] for p in ranks}

    assert len(nodes) == 2
    assert all("deepspeed_shm_comm_op" in p.read_text() for p in ranks)


def test_the_target_is_the_oracles_reading_of_the_teachers_logits(undisturbed: Path) -> None:
    experiment = load(undisturbed)
    run = RunDirectory(undisturbed)
    logits_knc = np.stack(
        [
            load_file(run.teacher(t.id) / "logits/train.safetensors")["logits"].numpy()
            for t in experiment.teachers
        ]
    )
    labels = ShardSet(run.shards).rows["train"].labels

    target = load_file(run.target(experiment.targets[0].id) / "train.safetensors")["target"].numpy()

    expected = oracle.target(logits_knc.astype(np.float64), labels, method="pkd", h=0.99)
    np.testing.assert_allclose(target, expected, atol=1e-6 * max(1.0, np.abs(logits_knc).max()))
    assert np.abs(target - logits_knc.mean(axis=0)).max() > 1e-6


def test_metrics_of_every_stage_were_written(undisturbed: Path) -> None:
    text = "".join(path.read_text() for path in (undisturbed / "metrics").glob("*.prom"))

    for stage in ("teach", "reduce", "distill", "evaluate"):
        assert f'stage="{stage}"' in text
    for name in (
        "ukd_epoch_seconds",
        "ukd_step_seconds_bucket",
        "ukd_clips_total",
        "ukd_reduce_logits_bytes_total",
    ):
        assert name in text


def test_a_finished_run_does_nothing_when_run_again(undisturbed: Path) -> None:
    before = modified(undisturbed)

    done = subprocess.run(command(undisturbed), capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr
    assert modified(undisturbed) == before


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    root = tmp_path / "run"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(root), stdout=log, stderr=log, start_new_session=True)
        yield root, process
        process.kill()
        process.wait()


def wait_until(what: str, condition: object, seconds: float = 240.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.02)


def test_a_run_killed_while_teaching_ends_with_the_bytes_of_an_undisturbed_one(
    killed: tuple[Path, subprocess.Popen[bytes]], undisturbed: Path
) -> None:
    root, process = killed
    wait_until("a checkpoint", lambda: any(root.glob("teachers/*/checkpoint/*/manifest.json")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    states = {m.state for m in read_status(RunDirectory(root), load(root))}
    assert "interrupted" in states or "pending" in states
    shards_before = modified(root)

    again = subprocess.run(command(root), capture_output=True, text=True, timeout=400, check=False)

    assert again.returncode == 0, again.stderr
    kept = {path: time_ns for path, time_ns in modified(root).items() if path.parent.name == "shards"}
    assert kept == {path: shards_before[path] for path in kept}
    for weights in sorted(undisturbed.glob("*/*/" + WEIGHTS)):
        assert (root / weights.relative_to(undisturbed)).read_bytes() == weights.read_bytes(), weights
    (target,) = undisturbed.glob("targets/*/train.safetensors")
    assert (root / target.relative_to(undisturbed)).read_bytes() == target.read_bytes()


def test_logits_that_were_altered_stop_the_reduction_by_name(undisturbed: Path, tmp_path: Path) -> None:
    root = copy(undisturbed, tmp_path)
    experiment = load(root)
    logits = RunDirectory(root).teacher(experiment.teachers[0].id) / "logits/train.safetensors"
    content = bytearray(logits.read_bytes())
    content[-1] ^= 1
    logits.write_bytes(bytes(content))
    remove(root / "targets")

    with pytest.raises(DataError, match=f"{logits} was altered"):
        pipeline.run(experiment, ["reduce"], progress=Progress())


def test_the_reduction_gives_the_same_bytes_in_other_blocks(undisturbed: Path, tmp_path: Path) -> None:
    root = copy(undisturbed, tmp_path)
    (target,) = (root / "targets").glob("*/train.safetensors")
    before = target.read_bytes()
    remove(root / "targets")

    pipeline.run(load(root, "cluster.reduce_rows=7"), ["reduce"], progress=Progress())

    assert target.read_bytes() == before


def test_a_new_teacher_trains_alone_and_makes_a_new_target(undisturbed: Path, tmp_path: Path) -> None:
    root = copy(undisturbed, tmp_path)
    before = modified(root)

    grown = load(root, "teachers.fleet.0.grid.seed=[0, 1]", "teachers.defaults.epochs=3")
    pipeline.run(grown, ["teach", "reduce"], progress=Progress())

    after = modified(root)
    assert {path: after[path] for path in before} == before
    assert len(list((root / "teachers").iterdir())) == 4
    assert len(list((root / "targets").iterdir())) == 2


def test_shards_of_other_settings_are_never_silently_reused(undisturbed: Path) -> None:
    with pytest.raises(MismatchError, match=r"settings.encoding.crf_rgb = 24; expected 30"):
        pipeline.run(load(undisturbed, "data.encoding.crf_rgb=30"), ["shard"], progress=Progress())


def test_gpus_that_the_cluster_lacks_are_refused_before_training(undisturbed: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    root = copy(undisturbed, tmp_path)
    asking = load(root, "teachers.defaults.resources={gpus: 1}", "teachers.defaults.seed=9")

    with pytest.raises(
        ResourceError, match=r"1 CPUs and 1 GPUs\) were asked for, but the cluster's 2 nodes have"
    ):
        pipeline.run(asking, ["teach"], progress=Progress())


def test_a_teacher_that_fails_is_named_and_the_others_are_kept(undisturbed: Path, tmp_path: Path) -> None:
    root = copy(undisturbed, tmp_path)
    failing = pipeline.load(
        TINY, [f"root={root}", "teachers.fleet.0={grid: {modality: [rgb], lr: [0.06, 1.0e+30]}}"]
    )

    with pytest.raises(
        Exception, match=r"1 of 2 teachers failed, first slowfast_tiny-rgb-s0-\w+: the loss is"
    ):
        pipeline.run(failing, ["teach"], progress=Progress())

    states = [m.state for m in read_status(RunDirectory(root), failing) if m.kind == "teacher"]
    assert states == ["done", "failed"]


def test_an_address_without_a_cluster_is_answered(tmp_path: Path) -> None:
    from ukd_dist.cluster import Job, RayCluster

    with (
        RayCluster(Cluster(address="127.0.0.1:1"), tmp_path) as cluster,
        pytest.raises(ResourceError, match=r"no Ray cluster at '127.0.0.1:1'"),
    ):
        list(cluster.run([Job("nothing", print, ())]))


def copy(root: Path, folder: Path) -> Path:
    """A copy of a finished run that may be changed."""
    subprocess.run(["cp", "-a", str(root), str(folder / "run")], check=True)
    return folder / "run"


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-r", str(folder)], check=True)
