"""The reduction as a Ray job: what the targets hold, where they start from, and what a loss costs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.method import oracle
from tests.stages import fake_store
from tests.stages.fake_store import Store
from ukd_dist import manifest
from ukd_dist.cluster import RayCluster
from ukd_dist.cluster_config import Cluster
from ukd_dist.data.knowledge import CHECKS, logits_name, logits_path, write_logits
from ukd_dist.data.shards import Rows, Sample
from ukd_dist.data.sums import SUMS
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.context import Context
from ukd_dist.stages.reduce import OPINIONS, TARGET_FILE, reduce

TEACHERS, ROWS, CLASSES = 5, 50, 7
METHODS = {
    "pkd": "{method: pkd}",
    "gtd": "{method: gtd, floor: 0.001}",
    "avg1": "{method: avg1, space: probs, temperature: 10}",
    "avg2": "{method: avg, space: probs, temperature: 60}",
    "single": "{method: single, teachers: {seed: 3}}",
    "best": "{method: best}",
    "entropy": "{method: entropy}",
    "confidence": "{method: confidence, space: probs, temperature: 20}",
}
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    settings = Cluster(local_nodes=2, cpus_per_node=1)
    with RayCluster(settings, tmp_path_factory.mktemp("reduce") / "logs") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five teachers; tests work on copies."""
    return fake_store.build(tmp_path_factory.mktemp("store") / "run", TEACHERS, ROWS, CLASSES)


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    shutil.copytree(store.root, tmp_path / "run")
    return Store(tmp_path / "run", store.logits_knc, store.labels_n)


def run(cluster: RayCluster, experiment: Experiment) -> list[Path]:
    """Reduce; the targets' directories."""
    directory = RunDirectory(experiment.root)
    reduce(Context(directory, experiment, cluster, Progress(Console(quiet=True))))
    return [directory.target(target.id) for target in experiment.targets]


def test_a_target_is_made_of_the_teachers_that_are_there_where_they_are_enough(
    cluster: RayCluster, copy: Store
) -> None:
    study = copy.experiment("{avg: {method: avg}}")
    missing = study.teachers[2].id
    directory = RunDirectory(copy.root).teacher(missing)
    held = directory / manifest.FILENAME
    held.rename(directory / "held")
    with pytest.raises(DataError, match=f"^target 'avg' needs teacher {missing}, which is not finished"):
        run(cluster, study)

    (target,) = run(cluster, dataclasses.replace(study, quorum=TEACHERS - 1))

    found = manifest.read(target)
    assert found is not None
    assert found.summary["missing"] == [missing]
    assert found.summary["teachers"] == [t.id for t in study.teachers if t.id != missing]
    mean_nc = torch.cat([copy.logits_knc[:2], copy.logits_knc[3:]]).double().mean(dim=0)
    torch.testing.assert_close(load_file(target / TARGET_FILE)["target"].double(), mean_nc, atol=1e-5, rtol=0)
    (directory / "held").rename(held)
    with pytest.raises(
        MismatchError, match=f"was made with inputs.{missing} = nothing; expected .*--replace"
    ):
        run(cluster, dataclasses.replace(study, quorum=TEACHERS - 1))


def content(directory: Path) -> bytes:
    return (directory / TARGET_FILE).read_bytes()


def base_of(directory: Path) -> str | None:
    found = manifest.read(directory)
    assert found is not None
    base: str | None = found.summary["base"]
    return base


def targets(*names: str) -> str:
    return "{" + ", ".join(f"{name}: {METHODS[name]}" for name in names) + "}"


def test_every_methods_target_is_the_oracles(cluster: RayCluster, copy: Store) -> None:
    experiment = copy.experiment(targets(*METHODS))
    logits_knc, labels = copy.logits_knc.double().numpy(), copy.labels_n.numpy()

    for directory, member in zip(run(cluster, experiment), experiment.targets, strict=True):
        chosen = [3] if member.name == "single" else list(range(TEACHERS))
        settings = member.settings
        expected = oracle.target(
            logits_knc[chosen],
            labels,
            method=settings.method,
            h=settings.h,
            floor=settings.floor,
            temperature=settings.temperature,
        )
        found = load_file(directory / TARGET_FILE)["target"].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(logits_knc).max())


def test_the_division_into_blocks_changes_no_byte_of_a_target(cluster: RayCluster, copy: Store) -> None:
    names = ("pkd", "best", "avg1")
    before = [content(path) for path in run(cluster, copy.experiment(targets(*names)))]
    shutil.rmtree(copy.root / "targets")

    after = [content(path) for path in run(cluster, copy.experiment(targets(*names), reduce_rows=4096))]

    assert after == before


def test_a_target_of_a_teacher_more_reads_that_teacher_alone_and_has_the_same_bytes(
    cluster: RayCluster, copy: Store
) -> None:
    (four,) = run(cluster, copy.experiment(targets("pkd"), teachers=4))
    (five,) = run(cluster, copy.experiment(targets("pkd"), teachers=5))
    assert base_of(five) == four.name
    grown = content(five)
    shutil.rmtree(copy.root / "targets")

    (five,) = run(cluster, copy.experiment(targets("pkd"), teachers=5))

    assert base_of(five) is None
    assert content(five) == grown


def test_a_target_of_a_teacher_less_takes_it_out_and_has_the_same_bytes(
    cluster: RayCluster, copy: Store
) -> None:
    (five,) = run(cluster, copy.experiment(targets("avg1"), teachers=5))
    (four,) = run(cluster, copy.experiment(targets("avg1"), teachers=4))
    assert base_of(four) == five.name
    shrunk = content(four)
    shutil.rmtree(copy.root / "targets")

    (four,) = run(cluster, copy.experiment(targets("avg1"), teachers=4))

    assert content(four) == shrunk


def test_a_target_with_a_teacher_whose_logits_are_gone_is_no_start_for_one_without(
    cluster: RayCluster, copy: Store
) -> None:
    run(cluster, copy.experiment(targets("pkd"), teachers=5))
    (*_, last) = copy.experiment(targets("pkd"), teachers=5).teachers
    logits_path(RunDirectory(copy.root).teacher(last.id), "train").unlink()
    (four,) = run(cluster, copy.experiment(targets("pkd"), teachers=4))
    assert base_of(four) is None


@pytest.mark.parametrize("method", ["best", "confidence"])
def test_a_weighting_that_compares_teachers_starts_from_none_and_keeps_none(
    cluster: RayCluster, copy: Store, method: str
) -> None:
    (four,) = run(cluster, copy.experiment(targets(method), teachers=4))
    (five,) = run(cluster, copy.experiment(targets(method), teachers=5))
    assert base_of(five) is None
    assert not (four / SUMS).exists()


def test_a_damaged_target_is_no_start_for_another(cluster: RayCluster, copy: Store) -> None:
    (four,) = run(cluster, copy.experiment(targets("pkd"), teachers=4))
    flip(-3)(four / manifest.FILENAME)
    (five,) = run(cluster, copy.experiment(targets("pkd"), teachers=5))
    assert base_of(five) is None


def test_a_target_whose_sums_are_gone_is_no_start_for_another(cluster: RayCluster, copy: Store) -> None:
    (four,) = run(cluster, copy.experiment(targets("pkd"), teachers=4))
    shutil.rmtree(four / SUMS)
    (five,) = run(cluster, copy.experiment(targets("pkd"), teachers=5))
    assert base_of(five) is None


def test_sums_are_not_kept_where_that_is_asked_for(cluster: RayCluster, copy: Store) -> None:
    experiment = copy.experiment(targets("pkd"))
    lean = experiment.cluster.model_copy(update={"keep_sums": False})

    run(cluster, dataclasses.replace(experiment, cluster=lean))

    (target,) = (copy.root / "targets").iterdir()
    assert not (target / SUMS).exists()
    found = manifest.read(target)
    assert found is not None
    assert set(found.files) == {TARGET_FILE, OPINIONS}


def test_blocks_that_are_there_are_not_assembled_again(cluster: RayCluster, copy: Store) -> None:
    (target,) = run(cluster, copy.experiment(targets("pkd")))
    before = content(target)
    (target / manifest.FILENAME).unlink()
    (target / TARGET_FILE).unlink()
    blocks = sorted((target / SUMS).iterdir())
    kept = {path: path.stat().st_mtime_ns for path in blocks[1:]}
    damaged = bytearray(blocks[0].read_bytes())
    damaged[-1] ^= 1
    blocks[0].write_bytes(damaged)

    run(cluster, copy.experiment(targets("pkd")))

    assert content(target) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(blocks) == 4


def test_blocks_of_another_size_are_not_taken_for_those_of_this_one(cluster: RayCluster, copy: Store) -> None:
    (target,) = run(cluster, copy.experiment(targets("pkd")))
    before = content(target)
    (target / manifest.FILENAME).unlink()

    run(cluster, copy.experiment(targets("pkd"), reduce_rows=32))

    assert content(target) == before
    assert len(list((target / SUMS).iterdir())) == 2


@pytest.mark.parametrize("method", ["pkd", "confidence"])
def test_no_row_is_taught_by_a_teacher_that_was_trained_on_it(
    cluster: RayCluster, tmp_path: Path, method: str
) -> None:
    trained_on = torch.arange(ROWS)[None] % TEACHERS != torch.arange(TEACHERS)[:, None]
    trained_on[0, 1] = False  # row 1 has two teachers
    store = fake_store.build(tmp_path / "run", TEACHERS, ROWS, CLASSES, trained_on)

    text = METHODS[method].replace("}", ", rows: out_of_fold}")
    (directory,) = run(cluster, store.experiment(f"{{oof: {text}}}"))

    found = load_file(directory / TARGET_FILE)["target"].numpy()
    for row in range(ROWS):
        heard = (~trained_on[:, row]).numpy()
        alone = oracle.target(
            store.logits_knc[heard, row : row + 1].double().numpy(),
            store.labels_n[row : row + 1].numpy(),
            method=method,
            temperature=20.0 if method == "confidence" else None,
        )
        np.testing.assert_allclose(found[row : row + 1], alone, rtol=0, atol=2e-5)


def test_rows_that_every_teacher_was_trained_on_are_counted_and_numbered(
    cluster: RayCluster, tmp_path: Path
) -> None:
    trained_on = torch.zeros(2, ROWS, dtype=torch.bool)
    trained_on[:, 20:23] = True
    store = fake_store.build(tmp_path / "run", 2, ROWS, CLASSES, trained_on)

    message = (
        "target 'oof' has no teacher for 3 of 50 videos: train-000020, train-000021, train-000022; "
        "expected for each video a teacher that speaks of it and was not trained on it; add"
    )
    with pytest.raises(DataError, match=message):
        run(cluster, store.experiment("{oof: {method: pkd, rows: out_of_fold}}"))

    assert not (store.root / "targets").exists()


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def flip(place: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        place_in_file = place % path.stat().st_size
        overwrite(path, place_in_file, bytes([path.read_bytes()[place_in_file] ^ 1]))

    return damage


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def write_other(rows: int = ROWS, classes: int = CLASSES, prefix: str = "train") -> Callable[[Path], None]:
    """Logits that are whole, with their checks in the manifest, but not of these rows and classes."""

    def replace(path: Path) -> None:
        directory, name = path.parents[1], logits_name("train")
        samples = [
            Sample("train", n, f"{prefix}-{n:06d}", 0, "a", "1", 30, 30.0, 64, 48) for n in range(rows)
        ]
        none = torch.zeros(rows, dtype=torch.bool)
        logits = torch.zeros(rows, classes)
        checks = write_logits(path, logits, Rows(samples), "train", view="centre", trained_on=none)
        found = manifest.read(directory)
        assert found is not None
        manifest.commit(directory, found.kind, found.settings, found.inputs, [name], {CHECKS: {name: checks}})

    return replace


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip(3), "was altered in its header"),
        (flip(60), "was altered in its header"),
        (flip(-1), "was altered in rows"),
        (flip(-ROWS - 5), "was altered in rows"),
        (flip(700), "was altered in rows"),
        (cut_off, "is damaged|was altered in rows"),
        (Path.unlink, "is missing"),
        (
            write_other(rows=ROWS - 1),
            r"speaks of other videos \(split train, shape \[49, 7\]\); expected",
        ),
        (
            write_other(prefix="film"),
            r"speaks of other videos \(split train, shape \[50, 7\]\); expected",
        ),
        (write_other(classes=8), r"has shape \[50, 8\]; expected \[50, 7\]: rows, classes"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_by_its_file_and_nothing_is_written(
    cluster: RayCluster, copy: Store, damage: Callable[[Path], None], message: str
) -> None:
    experiment = copy.experiment(targets("pkd"))
    path = logits_path(RunDirectory(copy.root).teacher(experiment.teachers[2].id), "train")
    damage(path)
    with pytest.raises((DataError, MismatchError), match=f"^{path} ({message})"):
        run(cluster, experiment)
    assert not [p for p in (copy.root / "targets").rglob("*") if p.name in (TARGET_FILE, manifest.FILENAME)]


@pytest.mark.parametrize("method", ["pkd", "best", "entropy", "confidence"])
def test_the_table_of_opinions_holds_each_teachers_share(
    cluster: RayCluster, copy: Store, method: str
) -> None:
    (directory,) = run(cluster, copy.experiment(targets(method)))

    table = json.loads((directory / OPINIONS).read_text())

    logits_knc, labels = copy.logits_knc.double().numpy(), copy.labels_n.numpy()
    weights_nk = np.array([oracle.weights(method, logits_knc[:, n], labels[n]) for n in range(ROWS)])
    found = [teacher["share"] for teacher in table["teachers"]]
    np.testing.assert_allclose(found, weights_nk.mean(axis=0), atol=1e-9)
    assert table["rows"] == ROWS
    assert table["weight_entropy"] == pytest.approx(
        np.mean([oracle.entropy(w) for w in weights_nk]), abs=1e-9
    )
    for k, teacher in enumerate(table["teachers"]):
        correct = logits_knc[k].argmax(axis=1) == labels
        assert teacher["top1"] == pytest.approx(correct.mean())
        for c in range(CLASSES):
            assert teacher["share_per_class"][c] == pytest.approx(weights_nk[labels == c, k].mean())
