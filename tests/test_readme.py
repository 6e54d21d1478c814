"""What the documents and examples say must be true of the program."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ukd_dist import pipeline
from ukd_dist.cli import app
from ukd_dist.clip_config import Views
from ukd_dist.cluster_config import Cluster
from ukd_dist.data_config import Data
from ukd_dist.metrics import CATALOGUE
from ukd_dist.splits import parts

HOME = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(HOME)) for p in HOME.glob("docs/*.md")),
    "docs/examples/README.md",
]
EXPERIMENTS = [
    *sorted(HOME.glob("launch/experiments/*.yaml")),
    HOME / "ukd_dist/experiments/demo.yaml",
]
PLACES = {
    "data.videos": "/datasets/arid",
    "data.splits.split0.train": "/lists/train.txt",
    "data.splits.split0.test": "/lists/test.txt",
}


def places_of(path: Path) -> list[str]:
    """What a user of an example says besides: where ARID's videos and lists are."""
    if yaml.safe_load(path.read_text())["data"]["source"] != "arid":
        return []
    videos, *lists = (f"{key}={value}" for key, value in PLACES.items())
    second = [place.replace("split0", "split1") for place in lists]
    return [videos, *lists, *(second if path.stem == "arid_table3" else [])]


def commands(document: str) -> list[str]:
    """The indented or inline `ukd ...` and `make ...` commands of a document, continued lines joined."""
    text = (HOME / document).read_text().replace("\\\n", " ")
    blocks = [line.strip().partition("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`((?:ukd|make) [^`]+)`", text)
    return [c for c in (*blocks, *inline) if re.match(r"(ukd|make) ", c)]


def test_the_views_of_the_documents_are_views() -> None:
    written = re.findall(r"^\| `(\{kind: .*?\})`", (HOME / "docs/running.md").read_text(), re.MULTILINE)
    views = [Views.model_validate(yaml.safe_load(text)) for text in written]
    assert [v.name for v in views] == ["centre", "mean-10x3", "random-4-s0"]


def test_the_sources_of_the_documents_are_sources() -> None:
    own = (HOME / "docs/running.md").read_text().partition("## Your own videos")[2].partition("\n## ")[0]
    written = re.findall(r"^    data:\n(?:      .*\n)+", own, re.MULTILINE)
    found = [Data.model_validate(yaml.safe_load(textwrap.dedent(text))["data"]) for text in written]
    assert [data.source for data in found] == ["arid", "folder", "csv", "csv", "csv"]


def test_the_shards_of_the_documents_are_taken() -> None:
    own = (
        (HOME / "docs/running.md").read_text().partition("## Shards from elsewhere")[2].partition("\n## ")[0]
    )
    (written,) = re.findall(r"^    data:\n(?:    .*\n)+", own, re.MULTILINE)
    settings = yaml.safe_load(textwrap.dedent(written))
    assert Data.model_validate(settings["data"]).shards == "s3://datasets/arid/v1"
    assert Cluster.model_validate(settings["cluster"]).shard_cache == Path("/scratch/ukd")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_the_documents_exists(document: str) -> None:
    known = set(CliRunner().invoke(app, ["--help"]).output.split())
    targets = set(re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), re.MULTILINE))
    for command in commands(document):
        program, name, *_ = shlex.split(command)
        for word in name.rstrip(",").split("|"):
            assert word in (known if program == "ukd" else targets), f"{document}: {command}"


def test_the_readme_states_commands_at_all() -> None:
    assert {"make demo", "make test"} <= {c.strip() for c in commands("README.md")}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.name)
def test_every_example_experiment_is_valid(path: Path) -> None:
    experiment = pipeline.load(path, places_of(path))

    assert experiment.teachers
    assert experiment.students


def test_the_subset_experiment_leaves_the_place_of_the_videos_to_the_user() -> None:
    with pytest.raises(Exception, match="videos is missing"):
        pipeline.load(HOME / "launch/experiments/arid_subset.yaml")


# Tables 1 and 2 of the paper, and its two-stream network of Table 3: tau and top-1 in percent.
PAPER = {
    "baseline-rgb": ("rgb", None, 67.4),
    "baseline-flow": ("flow", None, 57.8),
    "rgb-from-rgb": ("rgb", 5, 70.8),
    "rgb-from-flow": ("rgb", 30, 69.5),
    "flow-from-flow": ("flow", 20, 62.7),
    "flow-from-rgb": ("flow", 10, 62.1),
    "avg1": ("rgb", 10, 70.8),
    "avg2": ("rgb", 60, 70.1),
    "gtd": ("rgb", 20, 68.7),
    "ukd": ("rgb", 20, 71.3),
}


@pytest.mark.parametrize(("name", "seeds"), [("arid_tables", 5), ("tiny_tables", 2)])
def test_the_papers_tables_are_one_experiment_with_a_tiny_sibling(name: str, seeds: int) -> None:
    path = HOME / f"launch/experiments/{name}.yaml"
    experiment = pipeline.load(path, places_of(path))

    modality_of = {teacher.id: teacher.settings.modality for teacher in experiment.teachers}
    published = experiment.evaluate.published
    for student in experiment.students:
        settings = student.settings
        found = settings.modality, settings.temperature, published[settings.name]
        assert found == PAPER[settings.name]
        learns_from, _, source = settings.name.partition("-from-")
        taught_by = [modality_of[teacher] for teacher in student.target.teachers] if student.target else []
        assert taught_by == ([source] if source else [] if "baseline" in learns_from else ["rgb", "flow"])
    assert sorted(s.settings.name for s in experiment.students) == sorted([*PAPER] * seeds)
    assert experiment.evaluate.fusion == {"two-stream": ("baseline-rgb", "baseline-flow")}
    assert published.keys() - PAPER.keys() == {"two-stream"}
    assert published["two-stream"] == 70.9
    methods = {target.name: target.settings.method for target in experiment.targets}
    assert methods == {
        "rgb": "single",
        "flow": "single",
        "avg1": "avg1",
        "avg2": "avg",
        "gtd": "gtd",
        "ukd": "pkd",
    }


# Table 3 of the paper: of each network top-1 of RGB and of flow in percent, averages over both splits.
PAPER_3 = {
    "slowfast_r50_4x16": (68.6, 60.0),
    "i3d_nl_r50": (51.9, 52.5),
    "i3d_nl_r101": (55.9, 53.4),
    "ircsn_r152": (64.3, 60.8),
    "tpn_r50": (60.2, 57.7),
}
MODALITIES = ("rgb", "flow")


def test_the_papers_table_3_is_one_experiment_with_a_tiny_sibling() -> None:
    folder = HOME / "launch/experiments"
    table, tiny = (pipeline.load(path, places_of(path)) for path in sorted(folder.glob("*_table3.yaml")))

    networks = {teacher.settings.arch: teacher.settings.clip for teacher in table.teachers}
    assert {arch: clip.frames for arch, clip in networks.items()} == dict(
        zip(PAPER_3, (64, 32, 32, 32, 32), strict=True)
    )
    assert [t.settings.name for t in table.teachers] == [f"{a}-{m}" for a in PAPER_3 for m in MODALITIES]
    (ukd,) = table.students
    assert (ukd.settings.arch, ukd.settings.modality, ukd.settings.temperature) == (
        "slowfast_r50_4x16",
        "rgb",
        20,
    )
    assert ukd.target is not None
    assert ukd.target.teachers == tuple(teacher.id for teacher in table.teachers[:2])
    rgb, flow = ({f"{arch}-{m}": pair[i] for arch, pair in PAPER_3.items()} for i, m in enumerate(MODALITIES))
    assert table.evaluate.figures("average") == {**rgb, **flow, "slowfast-twostream": 70.9, "ukd": 71.3}
    assert table.evaluate.figures("split0") == {
        "slowfast_r50_4x16-rgb": PAPER["baseline-rgb"][2],
        "slowfast_r50_4x16-flow": PAPER["baseline-flow"][2],
        "ukd": PAPER["ukd"][2],
    }
    for experiment, first in ((table, "slowfast_r50_4x16"), (tiny, "slowfast_tiny")):
        assert list(parts(experiment)) == ["split0", "split1"]
        assert experiment.evaluate.fusion == {"slowfast-twostream": (f"{first}-rgb", f"{first}-flow")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", (HOME / document).read_text()):
        assert ((HOME / document).parent / link).exists(), f"{document}: {link}"


def test_the_operating_page_lists_every_metric() -> None:
    text = (HOME / "docs/operating.md").read_text()

    assert [name for name in CATALOGUE if f"`{name}`" not in text] == []
