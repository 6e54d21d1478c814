"""The sharder killed at any moment, or given other nodes and threads, ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from ukd_dist.manifest import sha256_of

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"
pytestmark = pytest.mark.cluster


def command(root: Path, videos: Path, *overrides: str) -> list[str]:
    """`ukd shard` of drawn videos that are there already, in tars of four samples."""
    lists = videos / "lists"
    data = [
        "data.source=arid",
        "data.synthetic=null",
        f"data.videos={videos / 'videos'}",
        f"data.splits={{split0: {{train: {lists}/split0_train.txt, test: {lists}/split0_test.txt}}}}",
        "data.encoding.samples_per_shard=4",
    ]
    return [sys.executable, "-m", "ukd_dist.cli", "shard", str(TINY), f"root={root}", *data, *overrides]


def shard(root: Path, videos: Path, *overrides: str) -> None:
    done = subprocess.run(command(root, videos, *overrides), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def contents(root: Path) -> dict[str, str]:
    """Digest of every file of the shards, and that there is no other."""
    return {path.name: sha256_of(path) for path in sorted((root / "shards").iterdir())}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training and two test videos of each class."""
    folder = tmp_path_factory.mktemp("drawn") / "arid"
    sizes = ["--train-clips", "2", "--test-clips", "2"]
    subprocess.run([sys.executable, "-m", "ukd_dist.cli", "synth", str(folder), *sizes], check=True)
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Shards of a sharder that nobody disturbed, and the seconds it took."""
    root, began = tmp_path_factory.mktemp("undisturbed") / "run", time.monotonic()
    shard(root, videos)
    return root, time.monotonic() - began


def kill_once(root: Path, videos: Path, seconds: float) -> bool:
    """Start the sharder and kill it after some seconds; whether it was killed before its end."""
    process = subprocess.Popen(
        command(root, videos), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    if process.returncode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def test_a_sharder_killed_at_a_random_moment_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: tuple[Path, float], videos: Path, tmp_path: Path
) -> None:
    reference, seconds = undisturbed
    root = tmp_path / "run"
    assert kill_once(root, videos, random.uniform(0.5, 0.9) * seconds)
    made = {
        tar: tar.stat().st_mtime_ns
        for tar in (root / "shards").glob("*.tar")
        if tar.with_suffix(".idx").is_file()
    }

    shard(root, videos)

    assert contents(root) == contents(reference)
    assert {tar: tar.stat().st_mtime_ns for tar in made} == made


@pytest.mark.slow
def test_a_sharder_killed_at_ten_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: tuple[Path, float], videos: Path, tmp_path: Path
) -> None:
    """Where one comes to its end before it is killed, its bytes are compared and another is begun."""
    reference, seconds = undisturbed
    moments, kills = random.Random(0), 0
    roots = (tmp_path / f"run-{number}" for number in count())
    root = next(roots)
    while kills < 10:
        if kill_once(root, videos, moments.uniform(0.3, 0.7) * seconds):
            kills += 1
        else:
            assert contents(root) == contents(reference)
            root = next(roots)

    shard(root, videos)

    assert contents(root) == contents(reference)


def test_other_nodes_give_the_same_bytes(
    undisturbed: tuple[Path, float], videos: Path, tmp_path: Path
) -> None:
    shard(tmp_path / "run", videos, "cluster={local_nodes: 1, cpus_per_node: 3}")
    assert contents(tmp_path / "run") == contents(undisturbed[0])
