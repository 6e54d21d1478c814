"""Finished shards from elsewhere: a run takes them by name, and works as on shards of its own."""

from __future__ import annotations

import json
import shutil
import uuid
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.stages import attempted, test_teach
from tests.store import Store
from ukd_dist import manifest, pipeline
from ukd_dist.cli import app
from ukd_dist.cluster import RayCluster
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import SPLITS, ShardSet
from ukd_dist.errors import DataError, MismatchError, ResourceError, UsageError
from ukd_dist.experiment import Experiment
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.adopt import provide_shards
from ukd_dist.stages.context import Context
from ukd_dist.stages.show import measure, open_shards
from ukd_dist.stages.verify import refuse_damage, verify
from ukd_dist.status import read_status

STUDY = """
name: study
root: {root}
data:
  shards: {place}
  clip: {{frames: 8, stride: 2, size: 32, short_side: [32, 40]}}
teachers: {{fleet: [{{arch: slowfast_tiny, modality: rgb, epochs: 1, batch_size: 2}}]}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none, epochs: 1}}]}}
cluster: {{metrics_port: null, shard_cache: {cache}}}
"""
TAR = "train-000000.tar"


@pytest.fixture(scope="module")
def elsewhere(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished shards in a folder: eight training, two validation and two test samples."""
    directory = tmp_path_factory.mktemp("elsewhere") / "shards"
    test_teach.shard(shards, directory)
    return directory


@pytest.fixture
def url(elsewhere: Path, store: Store) -> str:
    return store.upload(elsewhere, f"bucket-{uuid.uuid4()}/arid")


def study(root: Path, place: object, *overrides: str, cache: object = "null") -> Experiment:
    return parse(STUDY.format(root=root, place=place, cache=cache), "study.yaml", list(overrides))


def adopt(experiment: Experiment, *, replace: bool = False) -> str:
    """Do the stage; returns what it says."""
    told = StringIO()
    progress = Progress(Console(file=told, soft_wrap=True))
    cluster = RayCluster(experiment.cluster, experiment.root)
    run = RunDirectory(experiment.root)
    run.root.mkdir(parents=True, exist_ok=True)
    provide_shards(Context(run, experiment, cluster, progress, replace))
    return told.getvalue()


def times(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_run_takes_the_tables_and_leaves_the_tars(elsewhere: Path, url: str, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    run = RunDirectory(experiment.root)

    said = adopt(experiment)

    assert said == f"shards: those of {url}, nothing is sharded\n"
    names = {path.name for path in elsewhere.iterdir()}
    assert {path.name for path in run.shards.iterdir()} == {
        *(name for name in names if not name.endswith(".tar")),
        "place.json",
    }
    assert ShardSet(run.shards, check=False).digest == ShardSet(elsewhere).digest
    assert read_status(run, experiment)[0].state == "done"


def test_taking_them_again_changes_nothing(url: str, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    adopt(experiment)
    before = times(experiment.root)
    assert adopt(experiment) == f"shards: those of {url}, nothing is sharded\n"
    assert times(experiment.root) == before


def test_the_same_shards_may_move(elsewhere: Path, url: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    adopt(study(run.root, url, cache=tmp_path / "cache"))
    adopt(study(run.root, elsewhere))
    assert open_to_decode(run.shards, None).directory == elsewhere


def test_the_command_shards_nothing_and_says_so(elsewhere: Path, tmp_path: Path) -> None:
    path, made = tmp_path / "study.yaml", recorded_as_by_sharding(elsewhere, tmp_path / "made")
    path.write_text(STUDY.format(root=tmp_path / "run", place=f"file://{made}", cache="null"))
    result = CliRunner().invoke(app, ["shard", str(path)])
    assert result.exit_code == 0, result.stderr
    assert f"shards: those of {made}, nothing is sharded" in result.stderr


def test_what_a_killed_run_began_to_take_is_taken_whole(elsewhere: Path, url: str, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    adopt(experiment)
    shards = RunDirectory(experiment.root).shards
    (shards / manifest.FILENAME).unlink()
    (shards / "samples.csv").unlink()
    (shards / "plan.json").write_text(json.dumps({"inputs": {}, "settings": {"shards": url}}))
    adopt(experiment)
    assert ShardSet(shards, check=False).digest == ShardSet(elsewhere).digest
    assert not (shards / "plan.json").exists()


def test_shards_that_are_not_there_leave_the_root_as_it_was(store: Store, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", "s3://nothing/here", cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="s3://nothing/here holds no finished shards; expected a manifest"):
        pipeline.run(experiment, ["shard"], progress=Progress(Console(file=StringIO())))
    assert not RunDirectory(experiment.root).shards.exists()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["data.codec=jpeg"],
            "the shards of {place} were made with codec = vp9; expected jpeg, as the experiment says; "
            "correct data.codec, or take other shards",
        ),
        (
            ["data.modalities=[rgb, flow]"],
            "{place} holds modalities ['rgb']; expected flow among them, as data.modalities says; shard "
            "again with flow, or remove it from data.modalities",
        ),
        (
            ["data.source=synthetic", "data.encoding.short_side=128"],
            "the shards of {place} were made with encoding.short_side = 64; expected 128, as the experiment "
            "says; correct data.encoding.short_side, or take other shards",
        ),
        (
            ["data.source=synthetic", "data.encoding={short_side: 64}", "data.seed=3"],
            "the shards of {place} were made with seed = 0; expected 3, as the experiment says; correct "
            "data.seed, or take other shards",
        ),
        (
            ["data.source=synthetic", "data.encoding={short_side: 64}", "data.validation={share: 0.5}"],
            "the shards of {place} were made with validation = nothing; expected {{'share': 0.5, 'by': "
            "'group', 'seed': 0}}, as the experiment says; correct data.validation, or take other shards",
        ),
    ],
    ids=["codec", "modality", "encoding", "seed", "validation"],
)
def test_shards_that_do_not_fit_the_experiment_are_refused(
    overrides: list[str], problem: str, elsewhere: Path, tmp_path: Path
) -> None:
    made = recorded_as_by_sharding(elsewhere, tmp_path / "made")
    with pytest.raises(MismatchError) as caught:
        adopt(study(tmp_path / "run", made, *overrides))
    assert str(caught.value) == problem.format(place=made)


def test_shards_that_fit_an_experiment_with_its_source_are_taken(elsewhere: Path, tmp_path: Path) -> None:
    made = recorded_as_by_sharding(elsewhere, tmp_path / "made")
    experiment = study(
        tmp_path / "run",
        made,
        "data.source=synthetic",
        "data.encoding={short_side: 64}",
        "data.max_rejected=0.5",
    )
    assert adopt(experiment) == f"shards: those of {made}, nothing is sharded\n"


def test_too_few_classes_for_a_target_are_refused(elsewhere: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^h is 0.4; expected 1/C <= h < 1, where 1/C is 0.5; choose"):
        adopt(study(tmp_path / "run", elsewhere, "targets={ukd: {method: pkd, h: 0.4}}"))


def test_a_root_that_holds_other_shards_keeps_them_unless_asked(
    shards: ShardSet, elsewhere: Path, tmp_path: Path
) -> None:
    experiment = study(tmp_path / "run", elsewhere)
    own = Path(shutil.copytree(shards.directory, RunDirectory(experiment.root).shards))
    with pytest.raises(MismatchError) as caught:
        adopt(experiment)
    assert str(caught.value) == (
        f"{own} holds other shards; expected those of {elsewhere}, as the experiment says now; use another "
        "root, or remove them (`--replace` does)"
    )
    assert ShardSet(own).digest == shards.digest
    adopt(experiment, replace=True)
    assert open_to_decode(own, None).digest == ShardSet(elsewhere).digest


def test_a_root_that_made_the_same_shards_keeps_its_own(elsewhere: Path, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", elsewhere)
    own = Path(shutil.copytree(elsewhere, RunDirectory(experiment.root).shards))
    said = adopt(experiment)
    assert said == f"shards: the root has those of {elsewhere} itself, nothing is sharded\n"
    assert open_to_decode(own, None).directory == own


def test_an_experiment_that_shards_does_not_pass_taken_shards_for_its_own(
    elsewhere: Path, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    adopt(study(run.root, elsewhere))
    with pytest.raises(MismatchError) as caught:
        adopt(study(run.root, "null", "data.source=synthetic"))
    assert str(caught.value) == (
        f"{run.shards} are those of {elsewhere}; expected shards made here, as the experiment says now; use "
        "another root, or remove them (`--replace` does)"
    )


def test_a_teacher_taught_from_a_store_is_the_one_taught_from_a_folder(
    elsewhere: Path, url: str, tmp_path: Path
) -> None:
    cache, made = tmp_path / "cache", {}
    for place, node in ((url, cache), (elsewhere, None)):
        experiment = study(tmp_path / f"run-{node is None}", place, cache=node or "null")
        (member,) = experiment.teachers
        adopt(experiment)
        attempted.train(experiment, member, node)
        directory = RunDirectory(experiment.root).teacher(member.id)
        found = manifest.read(directory)
        assert found is not None
        manifest.verify(directory, found)
        del found.files["history.jsonl"]  # it holds seconds
        made[place] = member.id, found.settings, found.inputs, found.files
    assert made[url] == made[elsewhere]
    assert len(made[url][3]) == 1 + len(SPLITS)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [ShardSet(elsewhere).digest]


def test_verification_reads_the_tars_where_they_are(url: str, store: Store, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    adopt(experiment)
    run = RunDirectory(experiment.root)
    (verdict,) = verify(run)
    assert verdict.problem == ""
    key = f"{url.removeprefix('s3://')}/{TAR}"
    content = bytearray(store.get(key))
    content[len(content) // 2] ^= 1
    store.put(key, bytes(content))
    verdicts = list(verify(run))
    assert verdicts[0].problem == f"{url}/{TAR} was altered"
    with pytest.raises(DataError, match="1 of 1 directories are damaged: shards"):
        refuse_damage(verdicts)


def test_a_tar_altered_in_the_store_stops_the_teacher(url: str, store: Store, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    adopt(experiment)
    key = f"{url.removeprefix('s3://')}/{TAR}"
    store.put(key, store.get(key)[:-1] + b"\1")
    with pytest.raises(DataError, match=f"{url}/{TAR} was altered; expected sha256"):
        attempted.train(experiment, experiment.teachers[0], tmp_path / "cache")


def test_a_store_that_is_gone_stops_a_node_without_a_copy_and_no_other(
    url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt(study(tmp_path / "run", url, cache=tmp_path / "cache"))
    shards = RunDirectory(tmp_path / "run").shards
    before = open_to_decode(shards, tmp_path / "cache").digest
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert open_to_decode(shards, tmp_path / "cache").digest == before
    with pytest.raises(ResourceError, match="expected a store that answers"):
        open_to_decode(shards, tmp_path / "another")
    with pytest.raises(ResourceError, match="expected a store that answers"):
        list(verify(RunDirectory(tmp_path / "run")))


def test_taken_shards_can_be_looked_at(elsewhere: Path, url: str, tmp_path: Path) -> None:
    experiment = study(tmp_path / "run", url, cache=tmp_path / "cache")
    adopt(experiment)
    RunDirectory(experiment.root).experiment.write_text(experiment.to_yaml())
    figures, wanted = measure(open_shards(experiment.root)), measure(ShardSet(elsewhere))
    assert figures.bytes == wanted.bytes
    assert figures.mean_luma == pytest.approx(wanted.mean_luma)


def recorded_as_by_sharding(shards: Path, directory: Path) -> Path:
    """The shards, whose manifest says what the shard stage's does."""
    shutil.copytree(shards, directory)
    found = manifest.read(directory)
    assert found is not None
    encoding = {**found.settings["encoding"]}
    del encoding["jpeg_qscale"], encoding["flow"]
    made = {
        "modalities": ["rgb"],
        "codec": "vp9",
        "encoding": {**encoding, "samples_per_shard": 64},
        "seed": 0,
    }
    counts = {"samples": {"train": 8, "validation": 2, "test": 2}, "rejected": {}}
    manifest.commit(directory, "shards", {**made, "classes": ["Run", "Sit"]}, {}, found.files, counts)
    return directory
