"""The repository's shape: which module may know which, and where each heavy library is let in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "ukd_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))

VOCABULARY = {
    "agreement",
    "clip_config",
    "cluster_config",
    "cancellation",
    "attempts",
    "errors",
    "evaluation_names",
    "config",
    "data_config",
    "discovery",
    "document",
    "expansion",
    "exporter",
    "settings",
    "experiment",
    "heartbeat",
    "initial",
    "live",
    "manifest",
    "metrics",
    "progress",
    "resolution",
    "rundir",
    "scaling",
    "scaling_config",
    "selection",
    "splits",
    "status",
    "target_config",
    "training_config",
    "units",
}

# From the lowest to the highest. Neighbours on a line do not know each other, but those of the command line.
ORDER = [
    {"vocabulary"},
    {"method", "models"},
    {"data"},
    {"training"},
    {"cluster"},
    {"stages"},
    {"coordination"},
    {"pipeline"},
    {"whole"},
    {"kubernetes"},
    {"doctor", "printing", "cli"},
]

# What each layer knows of the lower ones. A further edge is a decision: it belongs into this table.
KNOWS = {
    "vocabulary": set[str](),
    "method": {"vocabulary"},
    "models": {"vocabulary"},
    "data": {"vocabulary"},
    "training": {"vocabulary", "models", "data"},
    "cluster": {"vocabulary"},
    "stages": {"vocabulary", "method", "models", "data", "training", "cluster"},
    "coordination": {"vocabulary", "cluster", "stages"},
    "pipeline": {"vocabulary", "models", "data", "cluster", "stages", "coordination"},
    "whole": {"vocabulary", "data", "stages", "coordination", "pipeline"},
    "kubernetes": {"vocabulary", "stages"},
    "doctor": {"vocabulary", "data"},
    "printing": {"vocabulary", "models", "stages", "kubernetes", "doctor"},
    "cli": {
        "vocabulary",
        "models",
        "data",
        "cluster",
        "stages",
        "pipeline",
        "whole",
        "kubernetes",
        "doctor",
        "printing",
    },
}

INSIDE_FUNCTIONS = {
    "ray": {
        "cluster/failures.py",
        "cluster/localnodes.py",
        "cluster/nodes.py",
        "cluster/ranks.py",
        "cluster/reservations.py",
        "cluster/scheduler.py",
        "cluster/submission.py",
        "cluster/tasks.py",
        "cluster/worker.py",
    },
    "deepspeed": {"training/engines.py", "training/deepspeed_op.py"},
    "nvidia.dali": {"data/frames.py"},
    "pyarrow": {"data/foreign.py", "data/places.py"},
    "matplotlib": {"stages/figures.py"},
    "tensorboardX": {"stages/events.py"},
    "onnxruntime": {"stages/export.py"},
    "pytorchvideo": {"models/builders.py"},
}
ANYWHERE_IN = {
    "prometheus_client": {"metrics.py", "exporter.py"},
    "av": {
        "data/video.py",
        "data/vp9.py",
        "data/jpeg_encoder.py",
        "data/streams.py",
        "data/synthetic/videos.py",
    },
    "cv2": {
        "data/writers.py",
        "data/synthetic/drawing.py",
        "data/synthetic/dataset.py",
        "stages/contact_sheet.py",
    },
    "webdataset": {"data/shards.py"},
    "wds2idx": {"data/shards.py"},
    "safetensors": {
        "data/captured.py",
        "data/foreign.py",
        "data/knowledge.py",
        "data/rowarray.py",
        "data/sums.py",
        "models/reading.py",
        "training/inference.py",
        "training/initial_weights.py",
    },
    "numba": {"method/kernels.py"},
    "xxhash": {"data/rowarray.py", "data/tarchecks.py"},
    "typer": {
        "cli/__init__.py",
        "cli/answering.py",
        "cli/arguments.py",
        "cli/costs.py",
        "cli/data.py",
        "cli/experiments.py",
        "cli/inspection.py",
        "cli/kubernetes.py",
        "cli/logits.py",
        "cli/metrics.py",
        "cli/networks.py",
        "cli/rank.py",
        "cli/runs.py",
    },
    "onnx": set[str](),  # torch writes it
}
HEAVY = {
    "av",
    "cv2",
    "deepspeed",
    "matplotlib",
    "numpy",
    "numba",
    "nvidia",
    "onnxruntime",
    "prometheus_client",
    "pyarrow",
    "pytorchvideo",
    "ray",
    "safetensors",
    "torch",
    "webdataset",
}


@dataclass(frozen=True)
class Import:
    """One imported name, as far as the source tells: `from a import b` gives `a.b`."""

    name: str
    in_function: bool


def test_every_module_belongs_to_a_layer() -> None:
    layers = set().union(*ORDER)
    assert {layer_of(module) for module in MODULES} <= layers
    assert set(KNOWS) == layers


def test_imports_point_one_way() -> None:
    assert [edge for edge in edges() if edge[1] != edge[3] and edge[3] not in KNOWS[edge[1]]] == []


def test_every_layer_is_above_what_it_knows() -> None:
    height = {layer: number for number, layers in enumerate(ORDER) for layer in layers}
    downward = {("cli", "doctor"), ("cli", "printing"), ("printing", "doctor")} | {
        (a, b) for a in height for b in height if height[b] < height[a]
    }
    assert {(layer, known) for layer, knows in KNOWS.items() for known in knows} <= downward


def test_the_table_of_layers_holds_no_edge_that_is_gone() -> None:
    found = {(importer, imported) for _, importer, _, imported in edges() if importer != imported}
    assert found == {(layer, known) for layer, knows in KNOWS.items() for known in knows}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for importer, _, imported, _ in edges():
        graph.setdefault(importer, set()).add(imported)
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("library", "places"), {**INSIDE_FUNCTIONS, **ANYWHERE_IN}.items())
def test_a_heavy_library_is_imported_where_the_table_says(library: str, places: set[str]) -> None:
    assert {path_of(module) for module in MODULES if uses(module, library)} == places


@pytest.mark.parametrize("library", INSIDE_FUNCTIONS)
def test_the_heaviest_libraries_are_imported_inside_functions(library: str) -> None:
    assert all(found.in_function for module in MODULES for found in uses(module, library))


@pytest.mark.parametrize("modules", ["ukd_dist", "ukd_dist.cli"])
def test_importing_the_package_or_its_command_line_loads_nothing_heavy(modules: str) -> None:
    assert loaded_by(modules) & HEAVY == set()


def test_the_vocabulary_loads_no_engine() -> None:
    modules = ", ".join(f"ukd_dist.{name}" for name in sorted(VOCABULARY | {"cluster", "models.catalogue"}))
    assert loaded_by(modules) & HEAVY == {"prometheus_client"}


def test_a_coordinator_holds_torch_and_nothing_that_decodes_compiles_or_draws() -> None:
    assert loaded_by("ukd_dist.whole") & {"av", "cv2", "numba", "nvidia", "deepspeed", "matplotlib"} == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(PACKAGE).as_posix())
def test_a_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert {module.stem for module in MODULES} & {
        "utils",
        "util",
        "common",
        "helpers",
        "misc",
        "base",
    } == set()


def test_the_architecture_page_mentions_every_module() -> None:
    """A package inside a layer counts as mentioned by its folder."""
    page = REPOSITORY / "docs" / "architecture.md"
    if not page.exists():
        return
    text = page.read_text()
    paths = [module.relative_to(PACKAGE) for module in MODULES if module.name != "__init__.py"]
    wanted = {f"{p.parent.as_posix()}/" if len(p.parts) > 2 else p.as_posix() for p in paths}
    assert {name for name in wanted if not re.search(rf"(?<![\w/]){re.escape(name)}", text)} == set()


def path_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def layer_of(module: Path) -> str:
    """The layer of a module: its folder, or at the top its own name."""
    first = module.relative_to(PACKAGE).with_suffix("").parts[0]
    return "vocabulary" if first in VOCABULARY | {"__init__"} else first


def edges() -> Iterator[tuple[str, str, str, str]]:
    """Every import of one of our modules by another: importer, its layer, imported, its layer.

    The package itself is a door for users, who find there what they need, when they ask for it.
    """
    for module in MODULES:
        if module == PACKAGE / "__init__.py":
            continue
        for found in imports(module):
            imported = module_named(found.name)
            if imported is not None and imported != module:
                yield path_of(module), layer_of(module), path_of(imported), layer_of(imported)


def module_named(name: str) -> Path | None:
    """The file of a module of ours, or of the one that holds the imported name."""
    parts = name.split(".")
    if parts[0] != "ukd_dist":
        return None
    for end in (len(parts), len(parts) - 1):
        path = REPOSITORY.joinpath(*parts[:end])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    raise AssertionError(f"{name} is no module of ours")


def uses(module: Path, library: str) -> list[Import]:
    return [found for found in imports(module) if f"{found.name}.".startswith(f"{library}.")]


def imports(module: Path) -> list[Import]:
    tree = ast.parse(module.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    return [Import(name, id(node) in inside) for node in ast.walk(tree) for name in names(node)]


def names(node: ast.AST) -> list[str]:
    """What a statement imports, `importlib.import_module("...")` included."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
        named = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        assert isinstance(named, ast.Constant), f"nobody can read what {ast.unparse(node)} imports"
        return [str(named.value)]
    return []


def loaded_by(modules: str) -> set[str]:
    """Top-level names of all modules that a fresh Python holds after importing some."""
    code = f"import {modules}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())
