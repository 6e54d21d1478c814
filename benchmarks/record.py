"""What the benchmarks share: their command line, and the record that each keeps in results/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line whose --help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)


def real_clips(doc: str | None) -> list[Path]:
    """The clips of `--arid-data` or UKD_ARID_DATA; where neither is given, says so and ends the script."""
    arguments = parser(doc)
    arguments.add_argument(
        "--arid-data", default=os.environ.get("UKD_ARID_DATA"), help="folder with arid_subset/"
    )
    folder = arguments.parse_args().arid_data
    if not folder:
        print("skipped: no real clips; give their folder with --arid-data or UKD_ARID_DATA")
        sys.exit()
    return sorted((Path(folder) / "arid_subset" / "videos").glob("*/*.mp4"))


def claim_of(doc: str | None) -> str:
    return (doc or "").partition("\n")[0].removeprefix("Claim: ")


def commit() -> str:
    """What is checked out; empty outside a checkout, which is no reason to lose the figures."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


def hardware(cores_used: int | None = None) -> str:
    """This machine in words, with the cores that were measured on: by default all."""
    cores = f"{os.cpu_count()} cores" if cores_used is None else f"{cores_used} of {os.cpu_count()} cores"
    return f"{cores}, {cpu_model()}, {gpu_name() or 'no GPU'}"


def gpu_name() -> str:
    """The first GPU as its driver calls it; empty where there is none."""
    try:
        listed = output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return listed.partition("\n")[0]


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def save(path: Path, record: dict[str, Any], *, indent: int | None = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=indent) + "\n")


def output(*command: str) -> str:
    """What a command printed; a command that fails is an error."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
