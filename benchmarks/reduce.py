"""Claim: the PKD reduction's speed is a fair share of merely reading the logits, and its memory flat in K.

Writes random logits (float32) of 1,000 teachers x 5,361 rows x 11 classes (ARID) and of 16 x 240,000 x 400
(Kinetics), then measures in one run, interleaved and repeated:

- share: seconds of numpy's `fromfile` and `sum` of every file, whole, over seconds of the assembly of every
  block from the same files (read, weigh, sum exactly, finish), both on one core in this process; with the
  blocks' checksums and without;
- two_workers: seconds of the stage's jobs, files of targets and sums included, on one Ray worker over
  seconds on two;
- memory: peak resident memory of a process that assembles all teachers over that of one with 10.

Prints one JSON line and keeps it in benchmarks/results/reduce.json. Needs 9 GB of disk, and as much memory
for the files to stay cached. `--small` measures a hundredth, to see that the script runs, and keeps nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, claim_of, commit, hardware, output, parser, save

from ukd_dist.cluster import Job, RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.knowledge import LOGITS, open_rows, write_logits
from ukd_dist.data.rowarray import Checks
from ukd_dist.data.shards import Rows, Sample
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble, assemble_block
from ukd_dist.stages.reduce import rows_of_a_block

CASES = {"arid": (1000, 5_361, 11), "kinetics": (16, 240_000, 400)}
FEW = 10
REPEATS = 5
RESULT = RESULTS / "reduce.json"
Case = tuple[int, int, int]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--small", action="store_true", help="a hundredth of the rows")
    arguments.add_argument("--peak", type=json.loads, help="(internal) folder, sizes and teachers")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(peak_bytes(*given.peak))
        return
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/reduce.py",
        "commit": commit(),
        "hardware": hardware(),
        "repeats": REPEATS,
        "cases": {name: measure(smaller(case) if given.small else case) for name, case in CASES.items()},
    }
    print(json.dumps(record))
    if not given.small:
        save(RESULT, record)


def smaller(case: Case) -> Case:
    teachers, rows, classes = case
    return max(teachers // 10, FEW), rows // 10, classes


def measure(case: Case) -> dict[str, Any]:
    """All figures of one case; ratios are medians over the repeats, with their least and largest."""
    with tempfile.TemporaryDirectory() as folder:
        checks = write(Path(folder), case)
        works = {name: work(Path(folder), case, checks if name == "checked" else None) for name in WAYS}
        seconds = timed(
            {
                "numpy": lambda: read_and_sum(Path(folder), case),
                **{name: lambda name=name: assemble_all(works[name], case) for name in WAYS},  # type: ignore[misc]
            }
        )
        workers = [on_workers(works["checked"], case, Path(folder), count) for count in (1, 2)]
        peaks = [
            int(output(sys.executable, __file__, "--peak", json.dumps([folder, case, teachers])))
            for teachers in (FEW, case[0])
        ]
    return {
        "teachers": case[0],
        "rows": case[1],
        "classes": case[2],
        "rows_per_block": rows_of_a_block(None, case[2]),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        **{f"share_{name}": spread(ratios(seconds["numpy"], seconds[name])) for name in WAYS},
        "two_workers": spread(ratios(*workers)),
        "peak_mib": {str(k): peak / 2**20 for k, peak in zip((FEW, case[0]), peaks, strict=True)},
        "memory": peaks[1] / peaks[0],
    }


WAYS = ("unchecked", "checked")


def timed(ways: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each way, one after another, over and over; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def write(folder: Path, case: Case) -> list[Checks]:
    """Logits of every teacher: distinct noise around the label's class, at the size of real ones."""
    teachers, num_rows, classes = case
    seen = torch.zeros(num_rows, dtype=torch.bool)
    samples, labels_n = rows(num_rows), labels(case)
    checks = []
    for k in range(teachers):
        logits_nc = torch.randn(num_rows, classes, generator=torch.Generator().manual_seed(k)) * 2
        logits_nc[torch.arange(num_rows), labels_n] += 3
        checks.append(
            write_logits(path(folder, k), logits_nc, samples, "train", view="centre", trained_on=seen)
        )
    return checks


def path(folder: Path, teacher: int) -> Path:
    return folder / f"{teacher:04d}.safetensors"


def rows(num_rows: int) -> Rows:
    return Rows([Sample("train", n, f"v{n:06d}", 0, "a", "", 90, 30.0, 320, 240) for n in range(num_rows)])


def labels(case: Case) -> torch.Tensor:
    return torch.randint(case[2], (case[1],), generator=torch.Generator().manual_seed(0))


def work(folder: Path, case: Case, checks: list[Checks] | None, teachers: int | None = None) -> Work:
    samples, classes = rows(case[1]), case[2]
    opinions = tuple(
        Opinion(open_rows(path(folder, k), LOGITS, samples, "train", classes, checks[k] if checks else None))
        for k in range(teachers or case[0])
    )
    return Work(Weighting(method="pkd"), classes, 1, opinions, (), folder / "sums", "benchmark", keep=True)


def blocks(case: Case) -> list[Block]:
    labels_n, size = labels(case), rows_of_a_block(None, case[2])
    return [Block(n, labels_n[n : n + size]) for n in range(0, case[1], size)]


def read_and_sum(folder: Path, case: Case) -> None:
    for k in range(case[0]):
        np.fromfile(path(folder, k), np.float32, case[1] * case[2], offset=1024).sum()


def assemble_all(job: Work, case: Case) -> None:
    for block in blocks(case):
        assemble(job, block)[0].finish()


def on_workers(job: Work, case: Case, folder: Path, count: int) -> list[float]:
    """Seconds of the stage's jobs on so many Ray workers of one CPU."""
    settings = Cluster(local_nodes=1, cpus_per_node=count)
    seconds = []
    with RayCluster(settings, folder / "logs") as cluster:
        for repeat in range(REPEATS + 1):
            target = replace(job, sums=folder / f"sums-{count}-{repeat}")
            jobs = [Job(f"block-{b.begin}", assemble_block, (target, b)) for b in smaller_blocks(case)]
            began = time.perf_counter()
            for outcome in cluster.run(jobs):
                assert outcome.error is None, outcome.error
            if repeat:
                seconds.append(time.perf_counter() - began)
    return seconds


def smaller_blocks(case: Case) -> list[Block]:
    """At least eight, so that two workers can share them: ARID's rows are less than one block."""
    labels_n, size = labels(case), min(rows_of_a_block(None, case[2]), -(-case[1] // 8))
    return [Block(n, labels_n[n : n + size]) for n in range(0, case[1], size)]


def peak_bytes(folder: str, case: Case, teachers: int) -> int:
    """Peak resident memory of this process after it has assembled every block over so many teachers."""
    assemble_all(work(Path(folder), case, None, teachers), case)
    # Not getrusage: its peak outlives exec, and would be that of the process that measures.
    (line,) = (li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
