"""The splits side by side: each one's accuracy, their average, what was published, on the page and as CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest

from tests.stages import fake_run
from tests.stages.page import Page
from ukd_dist.experiment import Experiment
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.splits import parts
from ukd_dist.stages.joint import SPLITS_CSV, Line, joint_report, read_lines
from ukd_dist.stages.results import RESULT
from ukd_dist.stages.summary import read_summary

PUBLISHED = {
    "ukd": {"split0": 71.3, "average": 70.5},
    "two-stream": {"average": 70.9},
    "x3d_tiny-flow": {"split1": 52.5},
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two splits of which each is evaluated, with other figures in the second."""
    root = tmp_path_factory.mktemp("run")
    overrides = ["data.synthetic={splits: 2}", f"evaluate.published={json.dumps(PUBLISHED)}"]
    found = parse(fake_run.EXPERIMENT.format(root=root), "test", overrides)
    for name, part in parts(found).items():
        build(part)
        for path in part.root.glob(f"*/*/{RESULT}") if name == "split1" else ():
            result = json.loads(path.read_text())
            path.write_text(json.dumps({**result, "top1": result["top1"] / 2}))
    return found


def build(part: Experiment) -> None:
    fake_run.build(part.root, part.to_yaml().replace("{", "{{").replace("}", "}}"))


def line(experiment: Experiment, name: str, modality: str) -> Line:
    (found,) = [line for line in read_lines(experiment) if (line.name, line.modality) == (name, modality)]
    return found


def test_every_member_and_fusion_has_a_line(experiment: Experiment) -> None:
    part = parts(experiment)["split0"]
    summaries = read_summary(RunDirectory(part.root), part)
    assert [found.splits["split0"] for found in read_lines(experiment)] == summaries


@pytest.mark.parametrize(("name", "modality"), [("slowfast_tiny", "flow"), ("ukd", "rgb")])
def test_the_average_is_over_the_means_of_the_splits(
    experiment: Experiment, name: str, modality: str
) -> None:
    found = line(experiment, name, modality)
    first, second = (found.splits[split].mean_percent for split in ("split0", "split1"))
    assert first is not None
    assert second == pytest.approx(first / 2)
    assert found.average_percent == pytest.approx(0.75 * first)


def test_published_figures_stand_beside_what_they_are_of(experiment: Experiment) -> None:
    ukd = line(experiment, "ukd", "rgb")
    assert [s.published_percent for s in ukd.splits.values()] == [71.3, None]
    assert ukd.published_percent == 70.5
    teacher = line(experiment, "x3d_tiny", "flow")
    assert [s.published_percent for s in teacher.splits.values()] == [None, 52.5]
    assert teacher.published_percent is None
    assert line(experiment, "two-stream", "rgb+flow").published_percent == 70.9


def test_the_page_and_its_table_say_the_same(experiment: Experiment) -> None:
    path = joint_report(experiment)
    page = Page(path.read_text())
    assert page.open == []
    rows = [row for row in page.sections["splits"][1:] if len(row) > 1]
    with (path.parent / SPLITS_CSV).open() as file:
        lines = list(csv.DictReader(file))
    for row, told in zip(rows, lines, strict=True):
        assert row[0].startswith(told["name"] + told["modality"])
        each = [float(told[f"{name}_percent"]) for name in ("split0", "split1", "average")]
        assert [cell.split()[0].removesuffix("published") for cell in row[1:4]] == [f"{v:.1f}" for v in each]
        assert fmean(each[:2]) == pytest.approx(each[2])
        published = told["average_published_percent"]
        assert row[4] == (f"{float(published):.1f}" if published else "—")
    assert joint_report(experiment).read_text() == path.read_text()


def test_a_split_that_lacks_leaves_the_average_out(tmp_path: Path) -> None:
    wanted = parse(fake_run.EXPERIMENT.format(root=tmp_path), "test", ["data.synthetic={splits: 2}"])
    build(parts(wanted)["split0"])

    found = line(wanted, "ukd", "rgb")
    page = Page(joint_report(wanted).read_text())

    assert found.splits["split0"].mean_percent is not None
    assert (found.splits["split1"].mean_percent, found.average_percent) == (None, None)
    assert "not finished" in page.text
    assert "split1: not begun" in page.text
