"""The tiny sibling of the paper's Table 3, the whole way: two splits, their average, and a second run."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner

from ukd_dist import pipeline, whole
from ukd_dist.cli import app
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import IncompleteError, MismatchError, UkdError
from ukd_dist.progress import Progress
from ukd_dist.rundir import open_run
from ukd_dist.splits import parts

pytestmark = pytest.mark.cluster

TINY = Path(__file__).parents[1] / "launch/experiments/tiny_table3.yaml"
SPLITS = ["split0", "split1"]


def run(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ukd_dist.cli", "run", str(TINY), f"root={root}", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def modified(root: Path) -> dict[Path, int]:
    """When each file was written that is not written again by every run."""
    kept = [path for kind in ("shards", "teachers", "targets", "students") for path in root.glob(f"*/{kind}")]
    return {path: path.stat().st_mtime_ns for folder in kept for path in folder.rglob("*") if path.is_file()}


def test_table_3_is_one_run_over_both_splits_that_ends_with_their_average(tmp_path: Path) -> None:
    root = tmp_path / "run"
    done = run(root, "--json")
    assert done.returncode == 0, done.stderr
    answered, experiment = json.loads(done.stdout), pipeline.load(TINY, [f"root={root}"])
    ids = [member.id for member in (*experiment.teachers, *experiment.students)]

    # Each split is a run of its own with the same members, on other rows of videos that were drawn once.
    assert done.stderr.count("Ray: ") == 1
    assert len(list((root / "videos/videos").glob("*/*.mp4"))) == 33
    assert not list(root.glob("split*/videos"))
    test_groups = []
    for name, part in parts(experiment).items():
        results = answered["splits"][name]["results"]
        assert [result["id"] for result in results] == [*ids, "slowfast-twostream-s0"]
        shards = ShardSet(part.root / "shards")
        assert (len(shards.rows["train"]), len(shards.rows["test"])) == (22, 11)
        test_groups.append({sample.group for sample in shards.samples if sample.split == "test"})
        stated = "".join(path.read_text() for path in (part.root / "metrics").glob("*.prom"))
        assert f'run="tiny-table3-{name}"' in stated
        assert all(f'run="tiny-table3-{other}"' not in stated for other in SPLITS if other != name)
    assert test_groups[0].isdisjoint(test_groups[1])

    # Their average stands beside the published one.
    with (root / "report/splits.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["average_published_percent"] for line in lines] == [
        *("68.6", "60.0", "51.9", "52.5"),
        *("71.3", "70.9"),
    ]
    for line, *of_each in zip(lines, *(answered["splits"][name]["summary"] for name in SPLITS), strict=True):
        means = [summary["mean_percent"] for summary in of_each]
        assert [float(line[f"{name}_percent"]) for name in SPLITS] == pytest.approx(means)
        assert float(line["average_percent"]) == pytest.approx(fmean(means))
    assert answered["report"] == str(root / "report/index.html")
    assert (root / "report/index.html").is_file()

    # Run again, it does nothing.
    before = modified(root)
    again = run(root)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("nothing to do") == 2
    assert "Ray: " not in again.stderr
    assert modified(root) == before
    verified = CliRunner().invoke(app, ["verify", str(root), "--json"])
    assert [verdict["problem"] for verdict in json.loads(verified.stdout)] == [""] * 2 * 8
    listed = json.loads(CliRunner().invoke(app, ["status", str(root), "--json"]).stdout)
    assert [{member["state"] for member in listed[name]} for name in SPLITS] == [{"done"}] * 2


@pytest.mark.slow
def test_a_failure_stops_the_splits_after_it_and_missing_teachers_do_not(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fleet = "teachers.fleet=[{arch: slowfast_tiny, modality: rgb, grid: {lr: [0.05, 1.0e+30]}}]"
    one_stream = ["evaluate.fusion={}", "evaluate.published={}"]
    failing = pipeline.load(TINY, [f"root={root}", fleet, *one_stream])
    with pytest.raises(UkdError, match=r"^split0: 1 of 2 teachers failed"):
        whole.run(failing, ["shard", "teach"], progress=Progress())
    assert not (root / "split1").exists()
    assert "split1: not begun" in (root / "report/index.html").read_text()

    enough = pipeline.load(TINY, [f"root={root}", fleet, *one_stream, "teachers.quorum=1"])
    with pytest.raises(IncompleteError, match=r"^split0: .* missing: .*; split1: .* missing: "):
        whole.run(enough, ["shard", "teach", "reduce"], progress=Progress())
    assert len(list(root.glob("split*/targets/*/manifest.json"))) == 2

    # What a later split refuses leaves those before it in what the outer root says.
    shutil.rmtree(root / "split0")
    other = pipeline.load(TINY, [f"root={root}", fleet, *one_stream, "data.encoding.samples_per_shard=7"])
    with pytest.raises(MismatchError, match=r"^split1: .*samples_per_shard"):
        whole.run(other, ["shard"], progress=Progress())
    assert open_run(root)[1].data.encoding.samples_per_shard == 7
    assert "split0" in (root / "report/splits.csv").read_text()
