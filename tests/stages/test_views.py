"""From logits of several views to a target of each, and to the student that sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stages import fake_run
from ukd_dist import manifest
from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import Clips
from ukd_dist.data.knowledge import LOGITS, open_rows, write_logits, write_target
from ukd_dist.data.shards import Rows, ShardSet
from ukd_dist.data.views import training_batches
from ukd_dist.experiment import StudentMember
from ukd_dist.method.losses import distillation_loss
from ukd_dist.method.weighting import Weighting
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble
from ukd_dist.stages.objectives import objective_of
from ukd_dist.stages.reduce import TARGET_FILE

VIEWS = 3
STUDY = """
name: study
root: {root}
data: {{source: synthetic, views: {{kind: random, clips: 3}}}}
teachers: {{fleet: [{{arch: x3d_tiny, modality: rgb, epochs: 1}}]}}
targets: {{ukd: {{method: pkd}}}}
students:
  defaults: {{arch: x3d_tiny, modality: rgb, epochs: 1, temperature: 20, targets: ukd, alpha: 0.25}}
  runs: [{{name: ukd, view: stored}}]
"""
TO_CENTRE = ("data: {{source: synthetic, views: {{kind: random, clips: 3}}}}", "data: {{source: synthetic}}")


def random_logits(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(
    "weighting", [Weighting(method="pkd"), Weighting(method="avg", space="probs", temperature=5)]
)
def test_the_target_of_several_views_is_that_of_each_by_itself(
    weighting: Weighting, shards: ShardSet, tmp_path: Path
) -> None:
    rows, num_classes = shards.rows["train"], len(shards.classes)
    teachers = [random_logits((len(rows), VIEWS, num_classes), seed) for seed in range(4)]
    labels_n = torch.from_numpy(rows.labels)

    def assembled(view: int | None, begin: int, end: int) -> torch.Tensor:
        opinions = []
        for number, logits_nvc in enumerate(teachers):
            logits, name = (logits_nvc, "random-3-s0") if view is None else (logits_nvc[:, view], "centre")
            path = tmp_path / f"{number}-{view}"
            none = torch.zeros(len(rows), dtype=torch.bool)
            write_logits(path, logits, rows, "train", view=name, trained_on=none)
            opinions.append(Opinion(open_rows(path, LOGITS, rows, "train", num_classes)))
        num_views = opinions[0].num_views
        work = Work(weighting, num_classes, num_views, tuple(opinions), (), tmp_path, "", keep=False)
        assembly, read_bytes = assemble(work, Block(begin, labels_n[begin:end]))
        target_nc = assembly.finish()
        assert read_bytes == len(teachers) * target_nc.numel() * 4
        return target_nc if view is not None else target_nc.reshape(end - begin, num_views, num_classes)

    together = torch.cat([assembled(None, 0, 5), assembled(None, 5, len(rows))])
    apart = [assembled(view, 0, len(rows)) for view in range(VIEWS)]
    assert torch.equal(together, torch.stack(apart, dim=1))


def taught(
    root: Path, study: str, rows: Rows, target: torch.Tensor, view: str
) -> tuple[RunDirectory, StudentMember]:
    """A student and its target in a run directory."""
    (member,) = fake_run.experiment(root, study).students
    assert member.target is not None
    run = RunDirectory(root)
    directory = run.target(member.target.id)
    write_target(directory / TARGET_FILE, target, rows, {}, view=view)
    manifest.commit(directory, "target", {}, {}, [TARGET_FILE])
    return run, member


def test_a_student_learns_from_the_target_of_the_view_that_it_sees(shards: ShardSet, tmp_path: Path) -> None:
    rows, num_classes = shards.rows["train"], len(shards.classes)
    target_nvc = random_logits((len(rows), VIEWS, num_classes), 0)
    run, member = taught(tmp_path, STUDY, rows, target_nvc, "random-3-s0")
    objective = objective_of(run, member, shards, torch.device("cpu"))
    batches = training_batches(
        rows.frames, Clip(), seed=1, epochs=range(4), batch_size=4, stored=member.stored_views
    )
    for number, views in enumerate(batches):
        batch = clips_of(views.rows.tolist(), views.views.tolist(), rows)
        logits_bc = random_logits((4, num_classes), number)
        target_bc = torch.stack([target_nvc[r, v] for r, v in zip(views.rows, views.views, strict=True)])
        expected = distillation_loss(
            logits_bc, batch.labels_b, target_bc, alpha=0.25, temperature=20, space="logits"
        )
        assert torch.equal(objective(logits_bc, batch)["total"], expected.total)


def test_a_student_of_free_crops_learns_from_the_target_of_the_video(
    shards: ShardSet, tmp_path: Path
) -> None:
    rows, num_classes = shards.rows["train"], len(shards.classes)
    target_nc = random_logits((len(rows), num_classes), 0)
    free = STUDY.replace(*TO_CENTRE).replace(", view: stored", "")
    run, member = taught(tmp_path, free, rows, target_nc, "centre")
    chosen = [6, 1, 4]
    (views,) = training_batches(rows.frames[:3], Clip(), seed=0, epochs=range(1), batch_size=3)
    batch = clips_of(chosen, views.views.tolist(), rows)
    logits_bc = random_logits((3, num_classes), 1)
    expected = distillation_loss(
        logits_bc, batch.labels_b, target_nc[chosen], alpha=0.25, temperature=20, space="logits"
    )
    objective = objective_of(run, member, shards, torch.device("cpu"))
    assert torch.equal(objective(logits_bc, batch)["total"], expected.total)


def clips_of(row_numbers: list[int], view_numbers: list[int], rows: Rows) -> Clips:
    """A batch of which the objective reads all but the pixels."""
    return Clips(
        torch.empty(0),
        torch.tensor(row_numbers),
        torch.tensor(view_numbers),
        torch.from_numpy(rows.labels[row_numbers]),
    )
