"""Initial weights: made once, bound to their checkpoint, and where a training really begins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.finished_shards import finish
from tests.stages import attempted
from ukd_dist import manifest
from ukd_dist.clip_config import Clip
from ukd_dist.cluster import RayCluster
from ukd_dist.data.shards import Sample, ShardSet, SplitName
from ukd_dist.errors import DataError, IncompleteError, MismatchError, UsageError
from ukd_dist.experiment import Experiment, TeacherMember
from ukd_dist.models.networks import build
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, read_history
from ukd_dist.stages.context import Context
from ukd_dist.stages.garbage import collect
from ukd_dist.stages.initial import check_checkpoints, directory_of, initial_inputs, load_initial, prepare
from ukd_dist.stages.keeping import keep_of
from ukd_dist.stages.teach import teach
from ukd_dist.stages.verify import verify
from ukd_dist.training.inference import WEIGHTS, load_weights
from ukd_dist.training.initial_weights import REPORT
from ukd_dist.training.setup import build_network

EXPERIMENT = """
name: study
root: {root}
data: {{source: synthetic, modalities: [rgb, flow], clip: {{frames: 8, size: 32, short_side: [32, 40]}}}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb, epochs: 1, batch_size: 4, lr: 1.0e-6, init: {path}}}
  fleet:
    - {{seed: 0}}
    - {{seed: 1}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none, init: {path}}}]}}
cluster: {{metrics_port: null}}
"""
CLIP = Clip(frames=8, size=32, short_side=(32, 40))


def study(root: Path, path: Path | str, *overrides: str) -> Experiment:
    return parse(EXPERIMENT.format(root=root, path=path), "study", list(overrides))


def context(experiment: Experiment, *, replace: bool = False) -> Context:
    run = RunDirectory(experiment.root)
    manifest.write_atomically(run.experiment, experiment.to_yaml().encode())
    return Context(run, experiment, RayCluster(experiment.cluster, run.logs), Progress(), replace)


def checkpoint(path: Path, seed: int = 7) -> Path:
    """A torch file of slowfast_tiny with 400 classes, as another system would have saved it."""
    network = build("slowfast_tiny", num_classes=400, channels=3, clip=CLIP, dropout=0.0, seed=seed)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.body.state_dict().items()}}, path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "theirs.pth")


def shard(shards: ShardSet, run: RunDirectory, classes: tuple[str, ...] = ("Run", "Sit")) -> RunDirectory:
    """Eight training and four test videos, of other shards; by default of two classes."""
    content = []
    splits: tuple[SplitName, ...] = ("train", "test")
    for split in splits:
        for row, frames in enumerate(shards.rows[split].frames.tolist()):
            name = f"{split}{row}"
            label = row % len(classes)
            sample = Sample(split, row, name, label, classes[label], "", frames, 30.0, 84, 64)
            content.append((sample, {"rgb.mp4": shards.read(split, row, "rgb.mp4").tobytes()}))
    finish(run.shards, content, classes, encoding=shards.encoding)
    return run


@pytest.fixture
def run(shards: ShardSet, tmp_path: Path) -> RunDirectory:
    return shard(shards, RunDirectory(tmp_path / "run"))


def made(experiment: Experiment, number: int = 0) -> Path:
    return directory_of(RunDirectory(experiment.root), experiment.teachers[number].settings)


def first_loss(experiment: Experiment, member: TeacherMember) -> float:
    attempted.train(experiment, member)
    (line,) = read_history(RunDirectory(experiment.root).teacher(member.id))
    return float(line["losses"]["total"])


def test_alike_trainings_share_weights_that_are_made_once(
    run: RunDirectory, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = study(run.root, path)
    trainings = [m.settings for m in (*wanted.teachers, *wanted.students)]
    for _ in range(2):
        prepare(context(wanted), trainings)
    directory = made(wanted)
    assert [place.name for place in run.initial("").iterdir()] == [directory.name]
    assert sorted(place.name for place in directory.iterdir()) == [manifest.FILENAME, WEIGHTS, REPORT]
    report = json.loads((directory / REPORT).read_text())
    assert report["sha256"] == manifest.sha256_of(path)
    assert report["head"] == ["body.blocks.6.proj.weight", "body.blocks.6.proj.bias"]
    assert report["missing"] == report["unknown"] == report["averaged"] == []
    told = capsys.readouterr().err
    assert (
        told.count(f"slowfast_tiny rgb: {path}: {report['loaded']} tensors loaded (our names), 2 of the head")
        == 1
    )


def test_a_network_starts_with_them_and_the_classifier_of_its_seed(run: RunDirectory, path: Path) -> None:
    wanted = study(run.root, path)
    settings = wanted.teachers[1].settings
    prepare(context(wanted), [settings])
    network, drawn = build_network(settings, 2), build_network(settings, 2).state_dict()
    load_initial(network, run, settings)
    theirs = torch.load(path, weights_only=True)["state_dict"]
    for name, value in network.state_dict().items():
        other = name.replace("body.", "module.")
        assert torch.equal(value, drawn[name] if "proj" in name else theirs[other]), name


def test_flow_has_weights_of_its_own_with_averaged_first_convolutions(run: RunDirectory, path: Path) -> None:
    wanted = study(run.root, path, "teachers.fleet.1.modality=flow")
    prepare(context(wanted), [m.settings for m in wanted.teachers])
    assert made(wanted, 0) != made(wanted, 1)
    report = json.loads((made(wanted, 1) / REPORT).read_text())
    assert report["averaged"] == [f"body.blocks.0.multipathway_blocks.{p}.conv.weight" for p in (0, 1)]
    assert load_file(made(wanted, 1) / WEIGHTS)[report["averaged"][0]].shape[1] == 2


def test_a_teachers_training_really_begins_there(run: RunDirectory, path: Path) -> None:
    """A checkpoint that answers nothing but its classifier's bias gives the loss of equal logits: ln 2."""
    content = {name: torch.zeros_like(value) for name, value in torch.load(path)["state_dict"].items()}
    torch.save(content, path)
    wanted = study(run.root, path, "teachers.fleet.1.init=none")
    started, drawn = wanted.teachers
    prepare(context(wanted), [m.settings for m in wanted.teachers])
    bias = build_network(started.settings, 2).state_dict()["body.blocks.6.proj.bias"]
    equal = torch.nn.functional.cross_entropy(bias.expand(2, 2), torch.tensor([0, 1]))
    assert first_loss(wanted, started) == pytest.approx(float(equal), abs=1e-5)
    assert first_loss(wanted, drawn) != pytest.approx(float(equal), abs=1e-3)
    found = manifest.read(run.teacher(started.id))
    assert found is not None
    assert found.inputs["init"] == manifest.sha256_of(made(wanted) / WEIGHTS)
    assert [verdict.problem for verdict in verify(run)] == [""] * 4


def test_another_checkpoint_under_the_same_name_is_refused_or_replaces(run: RunDirectory, path: Path) -> None:
    wanted = study(run.root, path)
    settings = wanted.teachers[0].settings
    prepare(context(wanted), [settings])
    before = initial_inputs(run, settings, run.teacher("none"))
    checkpoint(path, seed=8)
    with pytest.raises(
        MismatchError, match=rf"^{made(wanted)} was made with inputs.checkpoint = [0-9a-f]+; expected"
    ):
        prepare(context(wanted), [settings])
    assert initial_inputs(run, settings, run.teacher("none")) == before
    prepare(context(wanted, replace=True), [settings])
    assert initial_inputs(run, settings, run.teacher("none")) != before


def test_once_made_the_checkpoint_is_needed_no_more(run: RunDirectory, path: Path) -> None:
    wanted = study(run.root, path)
    prepare(context(wanted), [wanted.teachers[0].settings])
    path.unlink()
    check_checkpoints(run, wanted)
    prepare(context(wanted), [wanted.teachers[0].settings])


def test_a_checkpoint_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    wanted = study(tmp_path / "run", tmp_path / "gone.pth")
    with pytest.raises(UsageError) as refused:
        check_checkpoints(RunDirectory(tmp_path / "run"), wanted)
    assert str(refused.value) == (
        f"{wanted.teachers[0].id} starts from {tmp_path / 'gone.pth'}, which is not there; "
        "expected a checkpoint's file; correct its init"
    )


def test_a_checkpoint_of_another_network_leaves_nothing(run: RunDirectory, tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    wanted = study(run.root, tmp_path / "other.safetensors")
    with pytest.raises(
        DataError, match=r"other.safetensors fits 0 of \d+ tensors \(our names\): \d+ missing"
    ):
        prepare(context(wanted), [wanted.teachers[0].settings])
    assert manifest.read(made(wanted)) is None


def test_a_checkpoint_that_is_no_good_stops_those_alone_that_start_from_it(
    run: RunDirectory, path: Path, tmp_path: Path
) -> None:
    """Their children are not trained without it; the last teacher, which is finished, is enough."""
    (tmp_path / "bad.pth").write_bytes(b"cut off")
    fleet = f"{{seed: 0, init: {tmp_path / 'bad.pth'}}}, {{seed: 1, init: {tmp_path / 'bad.pth'}}}"
    bad = study(run.root, path, f"teachers.fleet=[{fleet}]").teachers[0]
    fleet += f", {{seed: 2, init: 'member:{bad.id}'}}, {{seed: 3}}"
    wanted = study(run.root, path, f"teachers.fleet=[{fleet}]", "teachers.quorum=1")
    first, second, child, good = wanted.teachers
    prepare(context(wanted), [good.settings])
    attempted.train(wanted, good)
    with pytest.raises(IncompleteError) as failed:
        teach(context(wanted))
    told = str(failed.value)
    assert told.startswith(f"3 of 3 teachers failed, first {first.id}: {tmp_path / 'bad.pth'} ")
    assert f"; missing: {first.id}, {second.id}, {child.id}; expected all 4, though 1 are enough" in told
    assert told.count("and run again") == 1


def test_weights_that_are_damaged_are_named_and_missing_ones_too(run: RunDirectory, path: Path) -> None:
    wanted = study(run.root, path)
    settings = wanted.teachers[0].settings
    network = build_network(settings, 2)
    with pytest.raises(
        DataError, match=r"holds no initial weights; expected what the coordinator made there"
    ):
        load_initial(network, run, settings)
    prepare(context(wanted), [settings])
    content = bytearray((made(wanted) / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (made(wanted) / WEIGHTS).write_bytes(content)
    with pytest.raises(DataError, match=r"model.safetensors was altered"):
        load_initial(network, run, settings)


def test_weights_of_a_network_that_is_another_by_now_are_refused(run: RunDirectory, path: Path) -> None:
    experiment = study(run.root, path)
    settings = experiment.teachers[0].settings
    prepare(context(experiment), [settings])
    other = build_network(settings.model_copy(update={"arch": "x3d_tiny"}), 2)

    with pytest.raises(DataError, match=r"holds body.*, which the network does not have"):
        load_initial(other, run, settings)


def test_a_teacher_starts_from_another_ones_weights_and_classifier(run: RunDirectory) -> None:
    first = study(run.root, "none").teachers[0]
    wanted = study(run.root, "none", f"teachers.fleet.1.init=member:{first.id}", "teachers.keep=logits")
    parent, child = wanted.teachers
    with pytest.raises(
        DataError, match=f"member {first.id}, from which others start, has no weights; expected"
    ):
        prepare(context(wanted), [child.settings])
    attempted.train(wanted, parent)
    assert keep_of(run, wanted, parent.id, wanted.students) == "weights"
    prepare(context(wanted), [child.settings])
    assert keep_of(run, wanted, parent.id, wanted.students) == "logits"
    network, trained = build_network(child.settings, 2), build_network(parent.settings, 2)
    load_initial(network, run, child.settings)
    load_weights(trained, run.teacher(parent.id) / WEIGHTS)
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name
    assert math.isfinite(first_loss(wanted, child))


def test_of_a_parent_that_is_damaged_the_whole_directory_is_to_be_removed(run: RunDirectory) -> None:
    first = study(run.root, "none").teachers[0]
    wanted = study(run.root, "none", f"teachers.fleet.1.init=member:{first.id}")
    place = run.teacher(first.id)
    manifest.write_atomically(place / WEIGHTS, b"weights")
    manifest.commit(place, "teacher", {}, {}, [WEIGHTS])
    (place / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(
        DataError, match=rf"by its manifest; remove {place} to train it again, and run again$"
    ):
        prepare(context(wanted), [wanted.teachers[1].settings])


def test_weights_go_when_nobody_is_to_start_from_them_and_finished_members_stay_finished(
    run: RunDirectory, path: Path
) -> None:
    others = ("students.runs.0.init=none", "teachers.fleet.1.init=none", "teachers.keep=all")
    wanted = study(run.root, path, *others)
    member = wanted.teachers[0]
    prepare(context(wanted), [member.settings])
    assert [item.what for item in collect(wanted).excess] == []
    attempted.train(wanted, member)
    inputs = initial_inputs(run, member.settings, run.teacher(member.id))
    assert [(item.what, item.path) for item in collect(wanted).excess] == [("initial weights", made(wanted))]
    assert not made(wanted).exists()
    assert initial_inputs(run, member.settings, run.teacher(member.id)) == inputs
