"""Claim: members that train keep a fleet's nodes busy, at no less than 95% of ideal packing.

64 members (two tiny networks, rgb and flow, 16 seeds) on shards of drawn videos, through the stage that
`ukd teach` runs, on four Ray nodes of one CPU each on this machine. The nodes share its cores, which makes
everybody slower and no ratio another. Ideal packing takes the sum of the members' times over the slots:

- ratio: ideal seconds over the stage's, on a cluster that stands; what its start took is stated beside. A
  member's time is that for which it has its slot: from the birth of its attempt's process, or, where Ray gave
  birth to that ahead, from the moment when its node's one slot became free, until the attempt has written
  its manifest. So Python, torch and logits are the member's; Ray, the coordinator and slots that stand empty
  at the end are not.
- training_ratio: stricter. A member's time is that of its epochs alone, by its history.

Prints one JSON line and keeps it in benchmarks/results/packing.json. Beside it goes
fleet_logits.safetensors, for studies of how targets improve as a fleet grows: of every split `logits_<split>`
(float16 [members, rows, classes], of the videos' centre) and `labels_<split>` (int64 [rows]); its metadata
name members, classes and the experiment. Everybody was trained on the rows of `train` and on no others.
`--small` takes 8 members for one epoch, to see that the script runs, and keeps nothing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from record import RESULTS, claim_of, commit, hardware, parser, save
from safetensors.torch import save_file

from ukd_dist import manifest, pipeline
from ukd_dist.attempts import newest_attempt, read_attempts
from ukd_dist.cluster import Job, RayCluster
from ukd_dist.data.knowledge import LOGITS, logits_name, open_finished
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment
from ukd_dist.heartbeat import read_beat
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, coordinating, read_history
from ukd_dist.stages.context import Context
from ukd_dist.stages.teach import teach

NODES = 4
SEEDS, EPOCHS = 16, 8
LOOK_SECONDS = 0.5
RESULT, LOGITS_KEPT = RESULTS / "packing.json", RESULTS / "fleet_logits.safetensors"
EXPERIMENT = """
name: packing
root: {root}
data:
  source: synthetic
  synthetic: {{train_clips: {train_clips}, test_clips: {test_clips}}}
  validation: {{share: 0.25}}
  modalities: [rgb, flow]
  encoding: {{short_side: 64, samples_per_shard: 50}}
  clip: {{frames: 8, stride: 4, size: 32, short_side: [32, 40]}}
teachers:
  keep: all
  defaults: {{lr: 0.05, batch_size: 8, dropout: 0.2, epochs: {epochs}, resources: {{frame_cache_gib: 0.5}}}}
  fleet: [{{grid: {{arch: [x3d_tiny, slowfast_tiny], modality: [rgb, flow], seed: {seeds}}}}}]
students:
  runs: [{{name: nobody, arch: slowfast_tiny, modality: rgb, targets: none}}]
cluster: {{local_nodes: {nodes}, cpus_per_node: 1, metrics_port: null}}
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--small", action="store_true", help="8 members, one epoch")
    small = arguments.parse_args().small
    with tempfile.TemporaryDirectory() as scratch:
        experiment = prepare(Path(scratch), small)
        starting_seconds, births, stage = run_stage(experiment)
        figures = measure(experiment, births, stage)
        if not small:
            keep_logits(experiment, LOGITS_KEPT)
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/packing.py",
        "commit": commit(),
        "hardware": hardware(),
        "members": len(experiment.teachers),
        "slots": NODES,
        "epochs": experiment.teachers[0].settings.epochs,
        "cluster_start_seconds": round(starting_seconds, 1),
        **figures,
    }
    print(json.dumps(record))
    if not small:
        save(RESULT, record)


def prepare(folder: Path, small: bool) -> Experiment:
    """The experiment, its videos drawn and sharded."""
    file = folder / "packing.yaml"
    sizes = {"train_clips": 4, "test_clips": 2} if small else {"train_clips": 12, "test_clips": 12}
    seeds, epochs = list(range(2 if small else SEEDS)), 1 if small else EPOCHS
    file.write_text(EXPERIMENT.format(root=folder / "run", seeds=seeds, epochs=epochs, nodes=NODES, **sizes))
    experiment = pipeline.load(file)
    pipeline.run(experiment, ["shard"], progress=Progress())
    return experiment


def run_stage(experiment: Experiment) -> tuple[float, dict[str, float], tuple[float, float]]:
    """Train the fleet; seconds of the cluster's start, births by member, and the stage's begin and end.

    Moments are those of the machine's clock, since files and processes tell theirs by it.
    """
    with coordinating(experiment) as run, RayCluster(experiment.cluster, run.logs) as cluster:
        began = time.perf_counter()
        list(cluster.run([Job("start", len, ("",))]))
        starting_seconds = time.perf_counter() - began
        with watching(run, experiment) as births:
            begin = time.time()
            teach(Context(run, experiment, cluster, Progress()))
            end = time.time()
    return starting_seconds, births, (begin, end)


@contextmanager
def watching(run: RunDirectory, experiment: Experiment) -> Iterator[dict[str, float]]:
    """When the process of each member's attempt was born, found as the attempt tells its process."""
    births: dict[str, float] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            for member in experiment.teachers:
                if member.id not in births and (birth := birth_of(run.teacher(member.id))) is not None:
                    births[member.id] = birth

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield births
    finally:
        ended.set()
        watcher.join()


def birth_of(member: Path) -> float | None:
    """When the process of a member's newest attempt was born; None where there is none now."""
    attempt = newest_attempt(member)
    beat = read_beat(attempt) if attempt else None
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(beat.pid).create_time() if beat else None
    return None


def measure(experiment: Experiment, births: dict[str, float], stage: tuple[float, float]) -> dict[str, Any]:
    """The stage's seconds, the members', and both ratios."""
    run, (begin, end) = RunDirectory(experiment.root), stage
    free: dict[str, float] = {}
    held, trained = [], []
    directories = {member.id: run.teacher(member.id) for member in experiment.teachers}
    for name, directory in sorted(directories.items(), key=lambda item: finish_of(item[1])):
        (attempt,) = read_attempts(directory)
        assert attempt.outcome == "done"
        held.append(finish_of(directory) - max(births[name], free.get(attempt.node, begin)))
        free[attempt.node] = finish_of(directory)
        trained.append(sum(line["seconds"] for line in read_history(directory)))
    assert len(free) == NODES
    return {
        "stage_seconds": round(end - begin, 1),
        "member_seconds": {
            "median": round(statistics.median(held), 1),
            "least": round(min(held), 1),
            "most": round(max(held), 1),
        },
        "ratio": round(sum(held) / NODES / (end - begin), 3),
        "training_ratio": round(sum(trained) / NODES / (end - begin), 3),
    }


def finish_of(member: Path) -> float:
    """When its attempt wrote the manifest; committing renames the file, which leaves its time."""
    return (member / manifest.FILENAME).stat().st_mtime


def keep_logits(experiment: Experiment, path: Path) -> None:
    """Write the fleet's logits and the labels as one small file."""
    run = RunDirectory(experiment.root)
    shards = ShardSet(run.shards)
    tensors = {}
    for split in shards.splits:
        rows = shards.rows[split]
        of_members = [
            open_finished(
                run.teacher(member.id), logits_name(split), LOGITS, rows, split, len(shards.classes)
            ).read()
            for member in experiment.teachers
        ]
        tensors[f"logits_{split}"] = torch.stack(of_members).half()
        tensors[f"labels_{split}"] = torch.from_numpy(rows.labels)
    described = {
        "members": [member.id for member in experiment.teachers],
        "classes": shards.classes,
        "experiment": {**experiment.document, "root": ""},
    }
    save_file(tensors, path, {"ukd_dist": json.dumps(described, sort_keys=True)})


if __name__ == "__main__":
    main()
