"""Claim: what the demo's distilled student gains over the undistilled one, over seeds fixed beforehand.

Runs `ukd demo` with seeds 0-4, each with other videos, teachers and students, and pairs the two students of a
seed. Prints one JSON line and keeps it in benchmarks/results/demo_seeds.json, each run as soon as it ends;
a run that is there is not repeated: remove the file to measure again.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any

from record import RESULTS, commit, hardware, output, parser, save

SEEDS = (0, 1, 2, 3, 4)
T_975 = {4: 2.776}  # Student's t, two-sided 95%, by degrees of freedom
RESULT = RESULTS / "demo_seeds.json"


def main() -> None:
    parser(__doc__).parse_args()
    for seed in SEEDS:
        if seed not in {run["seed"] for run in kept()}:
            save(RESULT, record([*kept(), run_demo(seed)]))
    print(json.dumps(record(kept())))


def kept() -> list[dict[str, Any]]:
    return json.loads(RESULT.read_text())["runs"] if RESULT.is_file() else []


def record(runs: list[dict[str, Any]]) -> dict[str, Any]:
    differences = [100 * (run["students"]["ukd"] - run["students"]["baseline"]) for run in runs]
    whole = len(runs) == len(SEEDS)
    mean, margin = interval(differences) if whole else (None, None)
    return {
        "claim": "paired top-1 difference of the UKD student to the undistilled one, demo, seeds 0-4",
        "command": "python benchmarks/demo_seeds.py",
        "hardware": hardware(),
        "difference_points": {"mean": mean, "margin_95": margin},
        "differences_points": differences,
        "runs": runs,
    }


def run_demo(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "ukd_dist.cli",
            "demo",
            "--root",
            f"{folder}/demo",
            "--seed",
            str(seed),
        ]
        began = time.monotonic()
        printed = json.loads(output(*command, "--json"))
        seconds = round(time.monotonic() - began, 1)
    results = printed["results"]
    clips = results[0]["clips"]
    return {
        "seed": seed,
        "commit": commit(),
        "seconds": seconds,
        "test_clips": clips,
        "teachers": {
            f"{r['name']}-{r['modality']}": round(r["top1"], 4) for r in results if r["kind"] == "teacher"
        },
        "students": {r["name"]: r["top1"] for r in results if r["kind"] == "student"},
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95% t-interval."""
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), T_975[len(values) - 1] * spread


if __name__ == "__main__":
    main()
