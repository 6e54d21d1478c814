"""Teachers in memory: what they make of the student's clips, and that they change nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.method import oracle
from tests.stages import online_run
from ukd_dist import manifest
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError
from ukd_dist.experiment import StudentMember
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.distill import student_inputs
from ukd_dist.stages.objectives import objective_of
from ukd_dist.stages.online import online_targets, require_weights
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.inference import WEIGHTS, load_weights
from ukd_dist.training.loop import train
from ukd_dist.training.setup import build_network, build_optimizer, training_clips

CPU = torch.device("cpu")
AVG1 = "students.runs.2.weighting={method: avg1, space: probs, temperature: 20}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(shards: ShardSet, tmp_path: Path) -> RunDirectory:
    return online_run.build(tmp_path / "run", shards)


def clips(shards: ShardSet, member: StudentMember) -> Clips:
    """The first training batch that the student sees, in memory of its own."""
    batch = next(training_clips(shards, member.settings, range(1), CPU))
    return Clips(batch.clips_bcthw.clone(), batch.rows_b, batch.views_b, batch.labels_b)


def teachers_say(run: RunDirectory, shards: ShardSet, member: StudentMember, batch: Clips) -> np.ndarray:
    """float64 [K, batch, C]: of networks that are built and loaded here."""
    settings = {teacher.id: teacher.settings for teacher in online_run.experiment(run.root).teachers}
    said = []
    for teacher in member.teachers:
        network = build_network(settings[teacher], len(shards.classes))
        load_weights(network, run.teacher(teacher) / WEIGHTS)
        with torch.no_grad():
            said.append(network.eval()(batch.clips_bcthw).double().numpy())
    return np.stack(said)


@pytest.mark.parametrize(
    ("weighting", "method", "temperature"),
    [
        ("null", "pkd", None),
        ("{method: gtd}", "gtd", None),
        ("{method: avg, space: probs, temperature: 20}", "avg", 20.0),
        ("{method: best}", "best", None),
        ("{method: confidence}", "confidence", None),
    ],
)
def test_the_loss_is_the_oracles_with_what_the_teachers_say_of_the_students_clips(
    weighting: str, method: str, temperature: float | None, run: RunDirectory, shards: ShardSet
) -> None:
    member = online_run.student(run.root, f"students.runs.2.weighting={weighting}")
    batch = clips(shards, member)
    logits_knc, labels_n = teachers_say(run, shards, member, batch), batch.labels_b.numpy()
    logits_nc = torch.randn((4, len(shards.classes)), generator=torch.Generator().manual_seed(1))
    target_nc = oracle.target(logits_knc, labels_n, method=method, temperature=temperature)
    q_nc = oracle.softmax(target_nc, 20) if temperature is None else target_nc
    expected = oracle.distillation_loss(logits_nc.double().numpy(), labels_n, q_nc, 0.25, 20)

    losses = objective_of(run, member, shards, CPU)(logits_nc, batch)

    assert float(losses["total"]) == pytest.approx(expected, rel=1e-4)
    others = np.abs(target_nc - logits_knc[0]).max() if temperature is None else 1
    assert others > 1e-3, "one teacher alone would do"


def test_the_loss_of_avg1_is_the_mean_of_the_teachers_losses(run: RunDirectory, shards: ShardSet) -> None:
    member = online_run.student(run.root, AVG1)
    batch = clips(shards, member)
    logits_knc, labels_n = teachers_say(run, shards, member, batch), batch.labels_b.numpy()
    logits_nc = torch.randn((4, len(shards.classes)), generator=torch.Generator().manual_seed(1))
    of_each = [
        oracle.distillation_loss(logits_nc.double().numpy(), labels_n, oracle.softmax(z_nc, 20), 0.25, 20)
        for z_nc in logits_knc
    ]
    losses = objective_of(run, member, shards, CPU)(logits_nc, batch)
    assert float(losses["total"]) == pytest.approx(np.mean(of_each), rel=1e-4)


def test_what_teachers_say_of_a_clip_does_not_depend_on_the_batch(
    run: RunDirectory, shards: ShardSet
) -> None:
    member = online_run.student(run.root)
    targets_of = online_targets(run, member, len(shards.classes), CPU)
    batch = clips(shards, member)
    (whole, _), (again, _) = targets_of(batch), targets_of(batch)
    (half, _) = targets_of(
        Clips(batch.clips_bcthw[:2], batch.rows_b[:2], batch.views_b[:2], batch.labels_b[:2])
    )
    assert torch.equal(whole, again)
    torch.testing.assert_close(half, whole[:2], rtol=1e-4, atol=1e-4)


def trained(run: RunDirectory, shards: ShardSet, member: StudentMember, folder: Path) -> nn.Module:
    settings = member.settings
    model = build_network(settings, len(shards.classes))
    with Recorder(folder / "metrics", run="test", stage="distill", member=member.id) as recorder:
        train(
            PlainEngine(model, build_optimizer(settings, model), CPU, settings),
            objective_of(run, member, shards, CPU),
            lambda epochs, step: training_clips(shards, settings, epochs, CPU, first_step=step),
            settings,
            rows=shards.rows["train"],
            directory=folder,
            inputs={},
            recorder=recorder,
        )
    return model


def test_teachers_that_do_not_count_change_no_bit_of_a_student(
    run: RunDirectory, shards: ShardSet, tmp_path: Path
) -> None:
    """With alpha 1 the target has no part in the loss: order, views, dropout and statistics are the same."""
    study = online_run.experiment(run.root, "students.defaults.alpha=1")
    baseline, _, online = (
        trained(run, shards, member, tmp_path / member.id).state_dict() for member in study.students
    )
    assert all(torch.equal(baseline[name], online[name]) for name in baseline)
    counted = trained(run, shards, online_run.student(run.root), tmp_path / "counted").state_dict()
    assert not all(torch.equal(baseline[name], counted[name]) for name in baseline)


def test_a_teacher_that_says_nothing_finite_is_named(run: RunDirectory, shards: ShardSet) -> None:
    member = online_run.student(run.root)
    broken = run.teacher(member.teachers[1])
    weights = load_file(broken / WEIGHTS)
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, broken / WEIGHTS)
    found = manifest.read(broken)
    assert found is not None
    manifest.commit(broken, found.kind, found.settings, found.inputs, [WEIGHTS])
    targets_of = online_targets(run, member, len(shards.classes), CPU)
    with pytest.raises(DataError, match=f"teacher {broken.name}, kept in memory: 44 logits are NaN or inf"):
        targets_of(clips(shards, member))


def test_a_students_inputs_are_its_teachers_weights_and_stay_so_when_these_are_dropped(
    run: RunDirectory, shards: ShardSet
) -> None:
    study, member = online_run.experiment(run.root), online_run.student(run.root)
    inputs = student_inputs(run, member)
    directory = run.teacher(member.teachers[0])
    assert inputs[directory.name] == manifest.sha256_of(directory / WEIGHTS)
    assert inputs.keys() == {"shards", *member.teachers}
    assert student_inputs(run, study.students[0]).keys() == {"shards"}
    found = manifest.read(directory)
    assert found is not None

    manifest.drop_files(directory, found, [WEIGHTS])
    assert student_inputs(run, member) == inputs

    online_run.finish_teacher(run, study.teachers[0], shards, factor=2.0)
    assert student_inputs(run, member)[directory.name] != inputs[directory.name]


def test_teachers_whose_weights_were_dropped_are_named(run: RunDirectory) -> None:
    member = online_run.student(run.root)
    require_weights(run, member)
    directory = run.teacher(member.teachers[2])
    found = manifest.read(directory)
    assert found is not None
    manifest.drop_files(directory, found, [WEIGHTS])
    with pytest.raises(DataError) as caught:
        require_weights(run, member)
    assert str(caught.value) == (
        f"student {member.id} keeps teacher {directory.name} in memory, whose weights were dropped; expected "
        "its model.safetensors: `teachers.keep: logits` drops those that no student waits for; "
        f"remove {directory} and train it again, or keep others in memory"
    )


def test_a_teacher_that_is_not_finished_is_named(run: RunDirectory) -> None:
    member = online_run.student(run.root)
    (run.teacher(member.teachers[1]) / manifest.FILENAME).unlink()
    with pytest.raises(DataError, match=f"needs teacher {member.teachers[1]}, which is not finished"):
        student_inputs(run, member)
