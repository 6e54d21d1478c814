"""A driver, `python -m tests.beating FOLDER JOBS`: jobs that run until FOLDER/end is there.

Each writes where it runs to FOLDER/<job>.beats, ten times a second. The driver writes to FOLDER/nodes
whenever the live nodes become others.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ukd_dist.cluster import Job, RayCluster
from ukd_dist.cluster_config import Cluster


def beat(folder: Path, job: str) -> str:
    host = socket.gethostname()
    with (folder / f"{job}.beats").open("a", buffering=1) as file:
        while not (folder / "end").exists():
            file.write(json.dumps({"time": time.time(), "host": host}) + "\n")
            time.sleep(0.1)
    return host


class Watch:
    def __init__(self, folder: Path) -> None:
        self._file = (folder / "nodes").open("a", buffering=1)
        self._last: list[str] = []

    def __call__(self) -> None:
        import ray

        alive = sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"])
        if alive != self._last:
            self._file.write(json.dumps({"time": time.time(), "alive": alive}) + "\n")
            self._last = alive


def main(folder: Path, jobs: int) -> int:
    with RayCluster(Cluster(), folder / "logs") as cluster:
        beating = [Job(f"job{n}", beat, (folder, f"job{n}")) for n in range(jobs)]
        outcomes = list(cluster.run(beating, Watch(folder)))
    return sum(outcome.error is not None for outcome in outcomes)


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that is being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
