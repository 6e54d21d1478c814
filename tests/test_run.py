"""The whole way, on two Ray nodes and real engines: kills, refusals, and a finished run that is run again."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.method import oracle
from tests.store import Store
from tests.tiny_run import (
    TINY,
    command,
    copy,
    epochs_of,
    load,
    made,
    remove,
    running,
    said,
    undistilled,
    wait_until,
)
from ukd_dist import manifest, pipeline
from ukd_dist.attempts import read_attempts
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.knowledge import logits_name, write_logits
from ukd_dist.data.shards import Rows, ShardSet
from ukd_dist.errors import DataError, IncompleteError, MismatchError, ResourceError, UkdError
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.status import read_status

pytestmark = pytest.mark.cluster


def modified(root: Path) -> dict[Path, int]:
    kept = [p for name in ("shards", "teachers", "targets", "students") for p in (root / name).rglob("*")]
    return {path: path.stat().st_mtime_ns for path in kept if path.is_file()}


def everything(root: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file: of the lock neither, of what every run writes again the digest alone."""
    paths = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    del paths["coordinator.lock"]
    again = ("experiment.yaml", "report/index.html", "videos/synthetic.json", "videos/lists/")
    return {
        name: (manifest.sha256_of(path), 0 if name.startswith(again) else path.stat().st_mtime_ns)
        for name, path in paths.items()
    }


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


@pytest.mark.slow
def test_a_student_of_stored_views_learns_from_a_target_of_each(tmp_path: Path) -> None:
    root = tmp_path / "run"
    views = ["data.views={kind: random, clips: 2, seed: 5}", "students.runs.1.view=stored"]
    done = subprocess.run(command(root, *views), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr

    experiment, run = load(root, *views), RunDirectory(root)
    teachers = [run.teacher(teacher.id) for teacher in experiment.teachers]
    logits_knvc = np.stack([load_file(t / logits_name("train"))["logits"].numpy() for t in teachers])
    target_nvc = load_file(run.target(experiment.targets[0].id) / "train.safetensors")["target"].numpy()
    labels = ShardSet(run.shards).rows["train"].labels
    assert target_nvc.shape == logits_knvc.shape[1:] == (len(labels), 2, 11)
    assert not np.array_equal(logits_knvc[:, :, 0], logits_knvc[:, :, 1])
    for view in range(2):
        expected = oracle.target(logits_knvc[:, :, view].astype(np.float64), labels, method="pkd", h=0.99)
        np.testing.assert_allclose(
            target_nvc[:, view], expected, atol=1e-6 * max(1.0, np.abs(expected).max())
        )
    assert {load_file(t / logits_name("test"))["logits"].shape for t in teachers} == {(22, 11)}
    assert [s.stored_views is None for s in experiment.students] == [True, False]


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
    before = everything(undisturbed)

    done = subprocess.run(command(undisturbed), capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr
    assert everything(undisturbed) == before


def test_a_run_killed_while_teaching_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = copy(undisturbed, tmp_path)
    for name in ("teachers", "targets", "students", "report"):
        remove(root / name)
    with running(root) as process:
        wait_until("a checkpoint", lambda: any(root.glob("teachers/*/attempts/*/checkpoint/*/manifest.json")))
        process.kill()
        process.wait()
    states = {m.state for m in read_status(RunDirectory(root), load(root))}
    assert "interrupted" in states
    shards_before = {
        path: time_ns for path, time_ns in modified(root).items() if path.parent.name == "shards"
    }

    again = subprocess.run(command(root), capture_output=True, text=True, timeout=400, check=False)

    assert again.returncode == 0, again.stderr
    assert modified(root).items() >= shards_before.items()
    assert made(root) == made(undisturbed)


@pytest.mark.slow
def test_a_student_of_shards_in_a_store_ends_with_the_bytes_of_one_of_local_shards(
    undisturbed: Path, tmp_path: Path, store: Store
) -> None:
    root, student = undistilled(undisturbed, tmp_path)
    taken = [
        f"data.shards={store.upload(root / 'shards', 'run/tiny')}",
        f"cluster.shard_cache={tmp_path}/copies",
    ]
    remove(root / "shards")
    remove(root / "videos")

    done = subprocess.run(command(root, *taken), capture_output=True, text=True, timeout=400, check=False)

    assert done.returncode == 0, done.stderr
    assert not list((root / "shards").glob("*.tar"))
    logs = [(root / "logs" / f"{student.name}-rank{rank}.log").read_text() for rank in (0, 1)]
    assert "".join(logs).count("copying ") == 1
    assert without_shards(made(root)) == without_shards(made(undisturbed))


def test_an_interrupted_run_says_so_and_fails(undisturbed: Path, tmp_path: Path) -> None:
    root, student = undistilled(undisturbed, tmp_path)

    with running(root) as process:
        wait_until("an epoch", lambda: bool(epochs_of(student)))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)

    assert process.returncode == 1
    assert said(root).read_text().splitlines()[-1] == "ukd: interrupted; run again to go on"


@pytest.mark.slow
def test_a_cancelled_run_goes_on_to_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    root, student = undistilled(undisturbed, tmp_path)

    with running(root) as process:
        wait_until("an epoch", lambda: bool(epochs_of(student)))
        cancelled = subprocess.run(
            [sys.executable, "-m", "ukd_dist.cli", "cancel", str(root)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        process.wait(timeout=60)
    (first_epoch, *_) = epochs_of(student)
    again = subprocess.run(command(root), capture_output=True, text=True, timeout=400, check=False)

    assert cancelled.stdout.startswith(f"{root}: process {process.pid} on "), cancelled.stderr
    assert process.returncode == 1
    (line,) = [line for line in said(root).read_text().splitlines() if line.startswith("ukd: ")]
    assert line.startswith(f"ukd: {root} was cancelled by process ")
    assert again.returncode == 0, again.stderr
    assert epochs_of(student)[0] == first_epoch
    assert made(root) == made(undisturbed)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    root, moments, killed = tmp_path / "run", random.Random(0), 0
    first_video = min(path.stat().st_mtime for path in undisturbed.rglob("*.mp4"))
    seconds = (undisturbed / "stdout.json").stat().st_mtime - first_video

    for _ in range(10):
        with running(root) as process, suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.1, 0.45) * seconds)
            assert process.returncode == 0, said(root).read_text()
        killed += process.returncode == -signal.SIGKILL
    done = subprocess.run(command(root), capture_output=True, text=True, timeout=400, check=False)

    assert killed >= 5
    assert done.returncode == 0, done.stderr
    assert made(root) == made(undisturbed)


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


@pytest.mark.parametrize(
    ("prefix", "classes", "error", "problem"),
    [
        ("another-", 11, MismatchError, r"speaks of other videos \(split train, shape \[33, 11\]\)"),
        ("", 12, DataError, r"has shape \[33, 12\]; expected \[33, 11\]: rows, classes"),
    ],
    ids=["other videos", "another class"],
)
def test_logits_of_another_dataset_stop_the_reduction_by_name(
    undisturbed: Path, tmp_path: Path, prefix: str, classes: int, error: type[UkdError], problem: str
) -> None:
    root = copy(undisturbed, tmp_path)
    experiment = load(root)
    teacher = RunDirectory(root).teacher(experiment.teachers[1].id)
    samples = [s for s in ShardSet(root / "shards").samples if s.split == "train"]
    foreign = Rows([dataclasses.replace(s, key=prefix + s.key) for s in samples])
    found, path = manifest.read(teacher), teacher / logits_name("train")
    assert found is not None
    logits_nc, trained_on = torch.zeros(len(foreign), classes), torch.ones(len(foreign), dtype=torch.bool)
    write_logits(path, logits_nc, foreign, "train", view="centre", trained_on=trained_on)
    manifest.commit(teacher, found.kind, found.settings, found.inputs, found.files)
    remove(root / "targets")

    with pytest.raises(error, match=f"{path} {problem}"):
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
    before = everything(undisturbed)

    with pytest.raises(MismatchError, match=r"settings.encoding.crf_rgb = 24; expected 30"):
        pipeline.run(load(undisturbed, "data.encoding.crf_rgb=30"), ["shard"], progress=Progress())

    assert everything(undisturbed) == before


def test_shards_are_made_again_where_that_is_asked_for_and_what_follows_is_not(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = copy(undisturbed, tmp_path)
    before = modified(root)
    changed = load(root, "data.encoding.crf_rgb=30")

    pipeline.run(changed, ["shard"], replace=True, progress=Progress())

    assert ShardSet(root / "shards").encoding.crf_rgb == 30
    assert made(root)["shards/train-000000.tar"] != made(undisturbed)["shards/train-000000.tar"]
    assert {path for path, time_ns in modified(root).items() if before.get(path) != time_ns} == set(
        (root / "shards").iterdir()
    )
    with pytest.raises(MismatchError, match=r"was made with inputs.shards = "):
        pipeline.run(changed, ["teach"], progress=Progress())


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


def test_a_run_goes_on_without_a_teacher_where_the_others_are_enough_and_fails_at_its_end(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = copy(undisturbed, tmp_path)
    fleet = "teachers.fleet.0={grid: {modality: [rgb], lr: [0.05, 1.0e+30]}}"
    lacking = pipeline.load(TINY, [f"root={root}", fleet, "teachers.quorum=1"])
    there, missing = (teacher.id for teacher in lacking.teachers)

    with pytest.raises(
        IncompleteError, match=rf"1 of 1 teachers failed.*; missing: {missing}; expected all 2"
    ):
        pipeline.run(lacking, ["teach", "reduce"], progress=Progress())

    found = manifest.read(RunDirectory(root).target(lacking.targets[0].id))
    assert found is not None
    assert (found.summary["teachers"], found.summary["missing"]) == ([there], [missing])
    assert [line.outcome for line in read_attempts(RunDirectory(root).teacher(missing))] == ["not_finite"] * 3
    assert missing in (root / "report/index.html").read_text()


def test_an_address_without_a_cluster_is_answered(tmp_path: Path) -> None:
    from ukd_dist.cluster import Job, RayCluster

    with (
        RayCluster(Cluster(address="127.0.0.1:1"), tmp_path) as cluster,
        pytest.raises(ResourceError, match=r"no Ray cluster at '127.0.0.1:1'"),
    ):
        list(cluster.run([Job("nothing", print, ())]))


def without_shards(digests: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if not name.startswith("shards/")}
