"""Claim: a thousand members cost the fleet's machinery little beside their trainings.

On four Ray nodes of one CPU each on this machine, in one run:

- overhead: 1,000 members whose training is nothing (an attempt's directory, heartbeat, one small file, its
  manifest, the coordinator's commit), in processes of their own as teachers are, and in processes that are
  used again: seconds of the whole times the slots, over members; the processor seconds that this machine
  spent on each, since the nodes share its cores; and the same of a bare Ray task that returns nothing in a
  process of its own, which is what Ray takes of it;
- status, resume: `ukd status` and `ukd teach` of a root with 1,000 finished teachers, which have a history of
  30 epochs and the record of one attempt each, whole commands;
- metrics: seconds of the exporter's answers of that root, whose teachers left a snapshot each, one answer a
  second, after the first two; and its number of series;
- memory: the peak of this process, which coordinated the members and served the metrics.

Prints one JSON line and keeps it in benchmarks/results/fleet.json. `--small` takes 40 members, to see that
the script runs, and keeps nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from record import RESULTS, claim_of, commit, hardware, parser, save

from ukd_dist import manifest
from ukd_dist.attempts import Attempt, attempt_directory, now, record
from ukd_dist.cluster import Job, RayCluster
from ukd_dist.cluster_config import Cluster, Resources
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shards import SAMPLES, Sample, ShardSet, samples_csv, shard_name, write_shard
from ukd_dist.data_config import Encoding
from ukd_dist.experiment import resolved
from ukd_dist.exporter import exporting
from ukd_dist.heartbeat import Heart
from ukd_dist.metrics import Recorder
from ukd_dist.resolution import parse
from ukd_dist.rundir import HISTORY, RunDirectory, open_run
from ukd_dist.stages.members import Member, Members
from ukd_dist.status import committed_metrics
from ukd_dist.training.history import Epoch, record_epoch, write_history

MEMBERS, NODES, CLASSES, ROWS, EPOCHS = 1000, 4, 11, 22, 30
REPEATS, ANSWERS = 5, 22
RESULT = RESULTS / "fleet.json"
EXPERIMENT = """
name: fleet
root: {root}
data: {{source: synthetic}}
teachers:
  keep: all
  fleet: [{{arch: slowfast_tiny, modality: rgb, grid: {{seed: {seeds}}}}}]
students:
  runs: [{{name: nobody, arch: slowfast_tiny, modality: rgb, targets: none}}]
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--small", action="store_true", help="40 members")
    small = arguments.parse_args().small
    count = 40 if small else MEMBERS
    with tempfile.TemporaryDirectory() as scratch:
        overhead = {
            way: measure_overhead(Path(scratch) / way, count, fresh)
            for way, fresh in (("own_processes", True), ("used_again", False))
        }
        overhead["bare_task"] = measure_bare_task(Path(scratch) / "bare", count)
        seconds_of_slots, seconds_of_cores = (
            {way: found[place] for way, found in overhead.items()} for place in (0, 1)
        )
        finished = Path(scratch) / "finished"
        seconds = measure_commands(finished, count)
        answers, series = measure_answers(finished)
    figures = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/fleet.py",
        "commit": commit(),
        "hardware": hardware(),
        "members": count,
        "nodes": NODES,
        "overhead_seconds_a_member": seconds_of_slots,
        "processor_seconds_a_member": seconds_of_cores,
        "coordinator_peak_mib": round(peak_mib()),
        "repeats": REPEATS,
        "command_seconds": seconds,
        "answer_seconds": answers,
        "series": series,
    }
    print(json.dumps(figures))
    if not small:
        save(RESULT, figures)


def measure_overhead(folder: Path, count: int, fresh: bool) -> tuple[float, float]:
    """A member's seconds of a slot, and of the machine's cores."""
    with started_nodes(folder) as cluster:
        members = [
            Member(f"m{n}", folder / f"m{n}", Resources(), partial(job, folder / f"m{n}", fresh))
            for n in range(count)
        ]
        with timing(count) as spent:
            failed = Members(cluster, hang_seconds=600.0).run(members, lambda: None)
    assert not failed, failed
    assert all((member.directory / manifest.FILENAME).exists() for member in members)
    return spent[0], spent[1]


def measure_bare_task(folder: Path, count: int) -> tuple[float, float]:
    """As `measure_overhead`, of Ray alone."""
    with started_nodes(folder):
        bare = ray.remote(max_calls=1, num_cpus=1)(return_nothing)
        with timing(count) as spent:
            ray.get([bare.remote() for _ in range(count)])
    return spent[0], spent[1]


def return_nothing() -> None:
    pass


@contextmanager
def started_nodes(folder: Path) -> Iterator[RayCluster]:
    with RayCluster(Cluster(local_nodes=NODES, cpus_per_node=1), folder / "logs") as cluster:
        list(cluster.run([Job("start", len, ("",))]))
        yield cluster


@contextmanager
def timing(count: int) -> Iterator[list[float]]:
    """Yields a list; at the end it holds seconds of a slot, and of the machine's cores, over `count`."""
    spent: list[float] = []
    began, busy = time.perf_counter(), busy_seconds()
    yield spent
    seconds, busy = time.perf_counter() - began, busy_seconds() - busy
    spent += [round(seconds * NODES / count, 3), round(busy / count, 3)]


def busy_seconds() -> float:
    """What all cores of this machine have worked so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def job(directory: Path, fresh: bool, number: int, resources: Resources) -> Job:
    return Job(directory.name, train_nothing, (directory, number), resources, fresh_process=fresh, retries=0)


def train_nothing(directory: Path, number: int) -> str:
    attempt = attempt_directory(directory, number)
    with Heart(attempt, node="", epochs=1) as heart:
        heart.begin("")
        (attempt / "file").write_bytes(b"0" * 1024)
        return manifest.commit(attempt, "teacher", {}, {}, ["file"]).digest()


def measure_commands(root: Path, count: int) -> dict[str, list[float]]:
    """Seconds of `ukd status` and `ukd teach` where all is finished."""
    root.mkdir()
    file = root.with_suffix(".yaml")
    file.write_text(EXPERIMENT.format(root=root, seeds=list(range(count))))
    maker = multiprocessing.get_context("spawn").Process(target=finish_teachers, args=(file,))
    maker.start()  # in a process of its own: this one's memory is measured
    maker.join()
    assert maker.exitcode == 0
    commands = {"status": ["status", str(root)], "resume": ["teach", str(file)]}
    return {name: [seconds_of(command) for _ in range(REPEATS)] for name, command in commands.items()}


def measure_answers(root: Path) -> tuple[list[float], int]:
    """Seconds of each answer of the exporter, and how many series the last one has."""
    run, experiment = open_run(root)
    for member in experiment.teachers:
        with Recorder(run.metrics, run=experiment.name, stage="teach", member=member.id) as recorder:
            record_epoch(recorder, epoch_line(EPOCHS), member.settings.resources)
            for name in ("ukd_clips_total", "ukd_data_wait_seconds_total"):
                recorder.count(name)
            recorder.observe("ukd_step_seconds", 0.5)
    seconds = []
    with exporting(run.metrics, experiment.name, 0, lambda: committed_metrics(run, experiment)) as port:
        for _ in range(ANSWERS):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
                text = answer.read().decode()
            seconds.append(round(time.perf_counter() - began, 4))
            time.sleep(1.0)
    return seconds[2:], sum(not line.startswith("#") for line in text.splitlines())


def finish_teachers(file: Path) -> None:
    experiment = parse(file.read_text(), str(file), [])
    run = RunDirectory(experiment.root)
    shards = finish_shards(run.shards)
    manifest.write_atomically(run.experiment, experiment.to_yaml().encode())
    none = torch.zeros(ROWS, dtype=torch.bool)
    for member in experiment.teachers:
        directory = run.teacher(member.id)
        path = logits_path(directory, "train")
        logits_nc = torch.randn(ROWS, CLASSES)
        checks = {
            logits_name("train"): write_logits(
                path, logits_nc, shards.rows["train"], "train", view="centre", trained_on=none
            )
        }
        write_history(directory, [epoch_line(n + 1) for n in range(EPOCHS)])
        record(directory, [Attempt(1, "host", "node", now(), now(), "done")])
        inputs, settings = {"shards": shards.digest}, resolved(member.settings)
        manifest.commit(directory, "teacher", settings, inputs, [*checks, HISTORY], {CHECKS: checks})


def epoch_line(number: int) -> Epoch:
    return Epoch(number, {"total": 1.5, "ce": 1.5}, 0.5, 0.1, 20.0, 1.0, ROWS, 2**30)


def finish_shards(directory: Path) -> ShardSet:
    """Shards of no videos."""
    names = [f"class{n}" for n in range(CLASSES)]
    samples = [
        Sample("train", row, f"clip{row}", row % CLASSES, names[row % CLASSES], "1", 30, 30.0, 64, 48)
        for row in range(ROWS)
    ]
    tar = shard_name("train", 0)
    write_shard(directory / tar, ((sample, {"rgb.mp4": b"no video"}) for sample in samples))
    manifest.write_atomically(directory / SAMPLES, samples_csv(samples))
    settings: dict[str, Any] = {"classes": names, "encoding": Encoding().model_dump(mode="json")}
    files = [SAMPLES, tar, Path(tar).with_suffix(".idx").name]
    summary = {"samples": {"train": ROWS, "test": 0}, "rejected": {}}
    manifest.commit(directory, "shards", settings, {"source": "0" * 64}, files, summary)
    return ShardSet(directory)


def seconds_of(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ukd_dist.cli", *arguments], check=True, capture_output=True)
    return round(time.perf_counter() - began, 2)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
