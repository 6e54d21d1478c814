"""What tests share: where the real clips lie, and small real shards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import links, tiny_run
from tests.finished_shards import finish
from tests.namespaces import Nodes
from tests.store import Store, serving
from ukd_dist.data import synthetic
from ukd_dist.data.components import encode_sample
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.data.video import probe
from ukd_dist.data.videofacts import stored_size
from ukd_dist.data_config import Encoding

ENCODING = Encoding(short_side=64, samples_per_shard=4)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--arid-data",
        default=os.environ.get("UKD_ARID_DATA"),
        help="folder with arid_subset/ and arid_lists/ (or set UKD_ARID_DATA)",
    )
    beside = Path(__file__).parents[2] / "shared/kuberay_crds"
    parser.addoption(
        "--kuberay-crds",
        default=os.environ.get("UKD_KUBERAY_CRDS", str(beside)),
        help="folder with the definitions of KubeRay's custom resources (or set UKD_KUBERAY_CRDS)",
    )


@pytest.fixture(scope="session")
def arid_data(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--arid-data")
    if not folder:
        pytest.skip("no real ARID clips: give their folder with --arid-data or UKD_ARID_DATA")
    path = Path(folder)
    assert (path / "arid_subset" / "lists").is_dir(), f"{path} holds no arid_subset/lists"
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that anybody may read; tests use buckets of their own."""
    with serving(tmp_path_factory.mktemp("store") / "server.log") as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, as the environment of the test and of its processes names it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(scope="module")
def start_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Nodes]]:
    """Starts clusters of network namespaces for a module; takes what `Nodes` does, but the folder."""
    if reason := links.missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda *arguments, **named: stack.enter_context(
            Nodes(tmp_path_factory.mktemp("nodes"), *arguments, **named)
        )


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The module's own `cluster`; all nodes that it began with live, whatever the test before did."""
    cluster.revive()
    return cluster


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny experiment; its answer is in stdout.json there."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    whole = [*tiny_run.command(root), "--json"]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    (root / "stdout.json").write_text(done.stdout)
    return root


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set: DEST with videos/ and lists/, 2 training videos and 1 test video a class."""
    dest = tmp_path_factory.mktemp("drawn")
    synthetic.write_dataset(dest, seed=3, train_clips=2, test_clips=1)
    return dest


@pytest.fixture(scope="session")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Real shards of some of the drawn videos: rgb and flow, short side 64, 8 training and 4 test samples."""
    directory = tmp_path_factory.mktemp("shards")
    content = []
    paths = sorted((videos / "videos").glob("*/*.mp4"))
    chosen_of: dict[SplitName, list[Path]] = {"train": paths[:16:2], "test": paths[1:9:2]}
    for split, chosen in chosen_of.items():
        for row, path in enumerate(chosen):
            info, name = probe(path), path.parent.name
            width, height = stored_size(info.width, info.height, ENCODING.short_side)
            label, group = synthetic.CLASSES.index(name), path.stem.split("_")[1]
            sample = Sample(split, row, path.stem, label, name, group, info.frames, info.fps, width, height)
            content.append((sample, encode_sample(sample, path, ("rgb", "flow"), ENCODING)))
    size = ENCODING.samples_per_shard
    return finish(directory, content, synthetic.CLASSES, encoding=ENCODING, samples_per_shard=size)
