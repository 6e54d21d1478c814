"""Claim: a student's epoch takes the same time and memory with a target of 1 or 1,000 teachers as with none.

In one run, over shards of drawn videos, or of real ones with `--arid-data`:

- students without distillation (none), with a stored target of K teachers (stored-K), and with K teachers in
  memory (online-K): seconds of an epoch and peak memory, with real decoding, DeepSpeed's engine at one rank
  and checkpoints as in any run. Each training is a process of its own; a round is one of each in random
  order, and rounds are begun for `--minutes`, but teachers in memory, which nobody could take for the others,
  have three alone. A first epoch is not counted. Ratios are to `none` of the same round: their mean over
  rounds, with half of its 95% t-interval; `resolves` is the largest of these for seconds of stored targets;
- beside them what grows with K: a teacher's training (one is really trained: its seconds times K), the
  reduction (the stage, from K files of logits, files of targets included), and bytes on disk (the files of
  logits; one teacher's weights times K).

Teachers have the student's network and epochs, but for the one that is trained random weights and random
logits: neither changes what anything costs. On a GPU, where there is one, clips and batches are a paper's; on
a CPU they are small, and each process has one core. Peak memory is a process's resident memory on a CPU, what
torch allocated on a GPU.

Prints one JSON line and keeps it in benchmarks/results/teacher_count.json; with matplotlib, draws
docs/teacher_count.svg of it. `--small` takes a tiny network, a tenth of the teachers and one round, to see
that the script runs, and keeps nothing but a chart in `--scratch`.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, claim_of, commit, hardware, parser, save
from teacher_chart import draw

from ukd_dist import manifest
from ukd_dist.attempts import new_attempt, with_history
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember, resolved
from ukd_dist.metrics import peak_host_memory_bytes
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages import distill, teach
from ukd_dist.stages.adopt import provide_shards
from ukd_dist.stages.commits import commit as commit_attempt
from ukd_dist.stages.context import Context
from ukd_dist.stages.keeping import keep_only
from ukd_dist.stages.reduce import reduce
from ukd_dist.stages.statistics import estimate
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.setup import build_network

RESULT = RESULTS / "teacher_count.json"
CHART = RESULTS.parents[1] / "docs" / "teacher_count.svg"
REDUCTIONS, ONLINE_ROUNDS = 3, 3
EXPERIMENT = """
name: teacher-count
root: {root}
data: {data}
teachers:
  defaults: {training}
  fleet: [{{grid: {{seed: {seeds}}}}}]
targets: {targets}
students:
  defaults: {training}
  runs: {students}
cluster: {{keep_sums: false, metrics_port: null}}
"""


@dataclass(frozen=True)
class Size:
    """What is trained, on what, and how many teachers there are."""

    arch: str
    frames: int
    crop: int
    batch: int
    epochs: int
    train_clips: int
    stored: tuple[int, ...]
    online: tuple[int, ...]
    gpus: int = 0

    @property
    def names(self) -> list[str]:
        return [*self.apart, *(f"online-{k}" for k in self.online)]

    @property
    def apart(self) -> list[str]:
        """Those without teachers in memory."""
        return ["none", *(f"stored-{k}" for k in self.stored)]


ON_CPU = Size("slowfast_r50_4x16", 16, 64, 8, 6, 4, (1, 10, 100, 1000), (1, 2, 4))
ON_GPU = Size("slowfast_r50_4x16", 64, 224, 16, 3, 24, (1, 10, 100, 1000), (1, 2, 4), gpus=1)
SMALL = Size("slowfast_tiny", 16, 64, 8, 2, 2, (1, 10, 100), (1, 2))


def main() -> None:
    given = arguments()
    if given.work:
        work_off(given.work)
        return
    size = ON_GPU if torch.cuda.is_available() else ON_CPU
    if given.small:
        size = replace(SMALL, gpus=size.gpus)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        experiment = prepare(Path(scratch), size, given.arid_data)
        grows = what_grows(experiment, size)
        minutes = 0.0 if given.small else given.minutes
        rounds = measure(experiment, size, minutes)
        rows = len(ShardSet(RunDirectory(experiment.root).shards).rows["train"])
    students = {name: summary(name, rounds) for name in size.names}
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/teacher_count.py" + " --arid-data DIR" * bool(given.arid_data),
        "commit": commit(),
        "hardware": hardware(),
        "size": asdict(size),
        "videos": "real" if given.arid_data else "drawn",
        "rows": rows,
        "rounds": len(rounds),
        "resolves": max(students[name]["time_ratio"]["margin"] for name in size.apart),
        "students": students,
        "grows_with_teachers": grows,
    }
    print(json.dumps(record))
    if not given.small:
        save(RESULT, record)
        draw(record, CHART)
    elif given.scratch:
        draw(record, given.scratch / CHART.name)


def arguments() -> Any:
    known = parser(__doc__)
    known.add_argument("--small", action="store_true", help="a tiny network, fewer teachers, one round")
    known.add_argument("--minutes", type=float, default=45.0, help="for how long rounds are begun")
    known.add_argument("--scratch", type=Path, help="folder for some GB of files; default: the system's")
    known.add_argument(
        "--arid-data", type=Path, default=os.environ.get("UKD_ARID_DATA"), help="folder with arid_subset/"
    )
    known.add_argument("--work", type=Path, help="(internal) what this process is to train")
    return known.parse_args()


def prepare(folder: Path, size: Size, arid_data: Path | None) -> Experiment:
    """Shards, and all teachers but the one that is to be trained."""
    experiment = describe(folder / "run", size, data_of(folder, size, arid_data))
    run = RunDirectory(experiment.root)
    run.root.mkdir()
    manifest.write_atomically(run.experiment, experiment.to_yaml().encode())
    with RayCluster(experiment.cluster, run.logs) as cluster:
        provide_shards(Context(run, experiment, cluster, Progress()))
    shards = ShardSet(run.shards)
    for number, member in enumerate(experiment.teachers[1:], start=1):
        finish(run, member, shards, with_weights=number < max(size.online))
    return experiment


def describe(root: Path, size: Size, data: str) -> Experiment:
    training = (
        f"{{arch: {size.arch}, modality: rgb, epochs: {size.epochs}, batch_size: {size.batch}, "
        f"resources: {{cpus: {8 if size.gpus else 1}, gpus: {size.gpus}}}}}"
    )
    stored = [f"{{name: stored-{k}, targets: of-{k}, temperature: 20}}" for k in size.stored]
    online = [f"{{name: online-{k}, targets: online, teachers: {k}, temperature: 20}}" for k in size.online]
    targets = ", ".join(f"of-{k}: {{method: pkd, teachers: {{count: {k}}}}}" for k in size.stored)
    text = EXPERIMENT.format(
        root=root,
        data=data,
        training=training,
        seeds=list(range(max(size.stored))),
        targets=f"{{{targets}}}",
        students=f"[{', '.join(['{name: none, targets: none}', *stored, *online])}]",
    )
    return parse(text, "teacher_count", [])


def data_of(folder: Path, size: Size, arid_data: Path | None) -> str:
    """Drawn videos, or of the real ones every second for training."""
    short = size.crop + size.crop // 4
    clip = f"{{frames: {size.frames}, stride: 2, size: {size.crop}, short_side: [{size.crop}, {short}]}}"
    common = f"clip: {clip}, encoding: {{short_side: {short}}}"
    if arid_data is None:
        return (
            f"{{source: synthetic, synthetic: {{train_clips: {size.train_clips}, test_clips: 1}}, {common}}}"
        )
    subset = Path(arid_data) / "arid_subset"
    for name, step in (("train", 1 if size.gpus else 2), ("test", 4)):
        lines = (subset / "lists" / f"split0_{name}.txt").read_text().splitlines(keepends=True)
        (folder / f"{name}.txt").write_text("".join(lines[::step]))
    splits = f"{{split0: {{train: {folder}/train.txt, test: {folder}/test.txt}}}}"
    return f"{{source: arid, videos: {subset}/videos, splits: {splits}, {common}}}"


def finish(run: RunDirectory, member: TeacherMember, shards: ShardSet, with_weights: bool) -> None:
    """A finished teacher of random logits, and of random weights where a student is to keep it in memory."""
    directory, rows = run.teacher(member.id), shards.rows["train"]
    generator = torch.Generator().manual_seed(member.settings.seed)
    logits_nc = torch.randn(len(rows), len(shards.classes), generator=generator) * 2
    logits_nc[torch.arange(len(rows)), torch.from_numpy(rows.labels)] += 3
    seen = torch.ones(len(rows), dtype=torch.bool)
    path = logits_path(directory, "train")
    checks = {
        logits_name("train"): write_logits(path, logits_nc, rows, "train", view="centre", trained_on=seen)
    }
    files = [*checks]
    if with_weights:
        save_weights(build_network(member.settings, len(shards.classes)), directory / WEIGHTS)
        files.append(WEIGHTS)
    settings, inputs = resolved(member.settings), {"shards": shards.digest}
    manifest.commit(directory, "teacher", settings, inputs, files, {CHECKS: checks})


def what_grows(experiment: Experiment, size: Size) -> dict[str, Any]:
    """Of each number of teachers what they cost beside the student's training; makes the targets."""
    run = RunDirectory(experiment.root)
    one = experiment.teachers[0]
    trained = in_a_process(teach.Work(run.root, experiment.name, one), run.root)
    weights_bytes = (run.teacher(one.id) / WEIGHTS).stat().st_size
    seconds = reductions(experiment)
    return {
        "one_teacher": {"seconds": trained["seconds"], "weights_bytes": weights_bytes},
        "of": {
            str(k): {
                "teacher_seconds": k * trained["seconds"],
                "reduce_seconds": statistics.median(seconds[f"of-{k}"]),
                "reduce_seconds_all": seconds[f"of-{k}"],
                "logits_bytes": sum(
                    logits_path(run.teacher(member.id), "train").stat().st_size
                    for member in experiment.teachers[:k]
                ),
                "weights_bytes": k * weights_bytes,
            }
            for k in size.stored
        },
    }


def reductions(experiment: Experiment) -> dict[str, list[float]]:
    """Seconds of the stage for each target, over and over, each time from nothing."""
    run, seconds = (
        RunDirectory(experiment.root),
        {target.name: list[float]() for target in experiment.targets},
    )
    order = [target for target in experiment.targets for _ in range(REDUCTIONS)]
    random.Random(0).shuffle(order)
    with RayCluster(experiment.cluster, run.logs) as cluster:
        for target in (experiment.targets[0], *order):  # the first one, not counted, starts workers
            shutil.rmtree(run.target(target.id), ignore_errors=True)
            alone = replace(experiment, targets=(target,))
            began = time.perf_counter()
            reduce(Context(run, alone, cluster, Progress()))
            seconds[target.name].append(time.perf_counter() - began)
    del seconds[experiment.targets[0].name][0]
    return seconds


def measure(experiment: Experiment, size: Size, minutes: float) -> list[dict[str, dict[str, float]]]:
    """What each student costs, by rounds; at least one."""
    run, found = RunDirectory(experiment.root), list[dict[str, dict[str, float]]]()
    members = {member.settings.name: member for member in experiment.students}
    began = time.monotonic()
    while not found or time.monotonic() - began < 60 * minutes:
        names = size.names if len(found) < ONLINE_ROUNDS else size.apart
        order = random.Random(len(found)).sample(names, len(names))
        found.append({name: cost(run, experiment.name, members[name]) for name in order})
    return found


def cost(run: RunDirectory, run_name: str, member: StudentMember) -> dict[str, float]:
    """Of one training in a process of its own: seconds of an epoch, of them waited for clips, peak bytes."""
    directory = run.student(member.id)
    shutil.rmtree(directory, ignore_errors=True)
    work = distill.Work(run.root, run_name, member, new_attempt(directory), Cluster())
    peak_bytes = in_a_process(work, run.root)["peak_bytes"]
    epochs = read_history(with_history(directory))[1:]
    return {
        "seconds": statistics.fmean(line["seconds"] for line in epochs),
        "waited": statistics.fmean(line["data_wait_seconds"] for line in epochs),
        "peak_bytes": peak_bytes,
    }


def in_a_process(work: distill.Work | teach.Work, folder: Path) -> dict[str, float]:
    """What a process says that did the work. It is given no more than Ray gives to a rank or an attempt."""
    environment = os.environ | {"LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "work.pickle"
        file.write_bytes(pickle.dumps(work))
        command = [sys.executable, __file__, "--work", str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{work.member.id} failed:\n{done.stderr}")
        found: dict[str, float] = json.loads(file.with_suffix(".json").read_text())
    return found


def work_off(file: Path) -> None:
    """Train a student's only rank or a teacher; leave what it cost beside the file."""
    work = pickle.loads(file.read_bytes())
    on_gpu = work.member.settings.resources.gpus > 0
    began = time.perf_counter()
    if isinstance(work, teach.Work):
        train_teacher(work)
    else:
        rendezvous = f"file://{file.with_suffix('.ranks')}"
        backend = "nccl" if on_gpu else "gloo"
        torch.distributed.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1)
        distill.train_student(work)
        torch.distributed.destroy_process_group()
    seconds = time.perf_counter() - began
    peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else peak_host_memory_bytes()
    file.with_suffix(".json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}))


def train_teacher(work: teach.Work) -> None:
    directory = RunDirectory(work.root).teacher(work.member.id)
    number = new_attempt(directory)
    commit_attempt(directory, number, teach.train_teacher(work, number))
    keep_only(directory, "weights")


def summary(name: str, rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    rounds = [found for found in rounds if name in found]
    own = [found[name] for found in rounds]
    return {
        "epoch_seconds": statistics.median(line["seconds"] for line in own),
        "data_wait_share": statistics.median(line["waited"] / line["seconds"] for line in own),
        "peak_mib": statistics.median(line["peak_bytes"] for line in own) / 2**20,
        "time_ratio": to_none([found[name]["seconds"] / found["none"]["seconds"] for found in rounds]),
        "memory_ratio": to_none(
            [found[name]["peak_bytes"] / found["none"]["peak_bytes"] for found in rounds]
        ),
        "epoch_seconds_all": [round(line["seconds"], 4) for line in own],
    }


def to_none(ratios: list[float]) -> dict[str, float]:
    """The mean with half of its 95% t-interval (of one round there is none), and the median."""
    found = estimate(ratios, error=0.0)
    return {"mean": found.mean, "margin": found.margin, "median": statistics.median(ratios)}


if __name__ == "__main__":
    main()
