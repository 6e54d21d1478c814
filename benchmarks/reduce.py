"""Claim: the PKD reduction's speed is a fair share of merely reading the logits, and its memory flat in K.

Writes random logits (float32) of 1,000 teachers x 5,361 rows x 11 classes (ARID) and of 16 x 240,000 x 400
(Kinetics), then measures in one run, interleaved and repeated:

- share: seconds of numpy's `fromfile` and `sum` of every file, whole, over seconds of the assembly of all
  blocks from the same files (read, check, weigh, sum exactly, finish), both on one core and in this process;
  with the blocks' checksums and without;
- two_workers: seconds of the stage's jobs on one Ray worker over seconds on two;
- memory: peak resident memory of a process that assembles 1,000 teachers over that of one with 10.

Prints one JSON line and keeps it in benchmarks/results/reduce.json. Needs 7 GB of disk and 10 GB of memory.
`--small` measures a hundredth of it, to see that the script runs; nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ukd_dist.cluster import Job, RayCluster
from ukd_dist.config import Cluster
from ukd_dist.data.knowledge import LOGITS, open_rows, write_logits
from ukd_dist.data.shards import Rows, Sample
from ukd_dist.method.weighting import Weighting
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble, assemble_block

CASES = {"arid": (1000, 5_361, 11), "kinetics": (16, 240_000, 400)}
ROWS_PER_BLOCK = Cluster().reduce_rows
REPEATS = 5
RESULT = Path(__file__).parent / "results" / "reduce.json"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--peak", metavar="FOLDER", help="(internal) print this process's peak memory")
    arguments.add_argument("--teachers", type=int)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(peak_of(Path(given.peak), given.teachers))
        return
    record = {
        "claim": (__doc__ or "").partition("\n")[0],
        "command": "python benchmarks/reduce.py",
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "commit": commit(),
        "repeats": REPEATS,
        "cases": {name: measure(*sizes, small=given.small) for name, sizes in CASES.items()},
    }
    print(json.dumps(record))
    if not given.small:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
