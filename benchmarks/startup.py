"""Claim: from its imports to its first batch a process with shards of 5,500 clips takes less than 1.5 s.

Shards as many as ARID's are made of the real clips at hand, each many times, as VP9 at the sources' size. A
fresh process then opens them as a training does and asks for its first batch of 16 clips: imports, opening
(where all bytes of the tars are hashed; of a copy by cluster.shard_cache, those of the tables), and DALI's
start with the first batch. Prints one JSON line and keeps it in benchmarks/results/startup.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import RESULTS, claim_of, commit, hardware, real_clips, save
from trainings import repeated_shards

CLIPS, SOURCES = 5500, 48
REPEATS = 5
RESULT = RESULTS / "startup.json"

# What a training does first; prints the seconds of each step.
STARTED = """
import json, sys, time
began = time.perf_counter()
from pathlib import Path
import torch
from ukd_dist.training_config import Teacher
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.training.setup import training_clips
imported = time.perf_counter()
shards = open_to_decode(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
opened = time.perf_counter()
clip = dict(frames=32, stride=2, size=112, short_side=(112, 128))
settings = Teacher(arch="slowfast_tiny", modality="rgb", batch_size=16, clip=clip)
next(training_clips(shards, settings, range(1), torch.device("cpu")))
done = time.perf_counter()
print(json.dumps({"import": imported - began, "open": opened - imported, "first batch": done - opened}))
"""


def main() -> None:
    paths = real_clips(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        shards = Path(scratch) / "run" / "shards"
        repeated_shards(paths[:: len(paths) // SOURCES][:SOURCES], shards, rows=CLIPS)
        size = sum(path.stat().st_size for path in shards.glob("*.tar"))
        start(shards, str(Path(scratch) / "copies"))  # makes the copy
        ways = {"in place, every tar hashed": "", "a node's copy": str(Path(scratch) / "copies")}
        seconds = {way: [start(shards, cache) for _ in range(REPEATS)] for way, cache in ways.items()}
    record = {
        "claim": claim_of(__doc__),
        "command": "python benchmarks/startup.py --arid-data DIR",
        "commit": commit(),
        "hardware": hardware(),
        "clips": CLIPS,
        "gigabytes": round(size / 1e9, 2),
        "repeats": REPEATS,
        "seconds": {
            way: {step: round(statistics.median(run[step] for run in runs), 2) for step in runs[0]}
            for way, runs in seconds.items()
        },
        "seconds_beyond_import": {
            way: sorted(round(run["open"] + run["first batch"], 2) for run in runs)
            for way, runs in seconds.items()
        },
    }
    print(json.dumps(record))
    save(RESULT, record)


def start(shards: Path, cache: str) -> dict[str, float]:
    command = [sys.executable, "-c", STARTED, str(shards), cache]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
