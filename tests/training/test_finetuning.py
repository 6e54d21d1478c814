"""Parts that are frozen, that have rates of their own, and batch norm's statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.devices import CPU
from tests.training.ranks import on_ranks
from tests.training.test_engines import SETTINGS as ENGINES
from tests.training.test_loop import run
from tests.training.test_resume import trained as trained_by_rank
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import UsageError
from ukd_dist.training.checkpoints import Position
from ukd_dist.training.engines import DeepSpeedEngine, Engine, PlainEngine
from ukd_dist.training.loop import Objective
from ukd_dist.training.setup import build_network, build_optimizer, supervised, training_clips
from ukd_dist.training.supervision import UNWATCHED, Supervision
from ukd_dist.training_config import Student

SETTINGS = ENGINES.model_copy(
    update={"arch": "x3d_tiny", "epochs": 2, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
)
STEM, HEAD = "blocks.0", "blocks.5"


def changed(**change: object) -> Student:
    return Student.model_validate({**SETTINGS.model_dump(), **change})


def initial(settings: Student, num_classes: int = 3) -> dict[str, torch.Tensor]:
    return build_network(settings, num_classes).body.state_dict()


def trained(
    shards: ShardSet,
    folder: Path,
    settings: Student,
    objective: Objective | None = None,
    supervision: Supervision = UNWATCHED,
) -> nn.Module:
    model, _ = run(shards, folder, settings, objective, supervision=supervision)
    return model.body


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Weights and statistics that are no longer the same; counts of batches are left out."""
    return {
        name for name, value in after.items() if value.is_floating_point() and not value.equal(before[name])
    }


def test_a_frozen_part_keeps_weights_and_statistics_while_the_rest_is_trained(
    shards: ShardSet, tmp_path: Path
) -> None:
    settings = changed(freeze=(STEM, "blocks.1"), ema=0.9, optimizer="adamw", weight_decay=0.1, lr=0.001)
    before = initial(settings, len(shards.classes))

    after = trained(shards, tmp_path, settings).state_dict()

    frozen = {name for name in after if name.startswith((f"{STEM}.", "blocks.1."))}
    assert any("running_mean" in name for name in frozen)
    assert not moved(before, after) & frozen
    assert moved(before, after) >= {name for name in after if "blocks.3" in name and "running_mean" in name}


def test_frozen_batch_norms_stay_as_they_are_initially_and_normalise_with_it(
    shards: ShardSet, tmp_path: Path
) -> None:
    settings = changed(batch_norm="frozen")
    before = initial(settings, len(shards.classes))

    network = trained(shards, tmp_path, settings)

    norms = {name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm3d)}
    changes = {name.rpartition(".")[0] for name in moved(before, network.state_dict())}
    assert norms
    assert changes
    assert not changes & norms


SCALES = {"blocks.5.proj": 0.5, "blocks.5": 10.0, "blocks.0": 0.125}


def test_a_part_takes_steps_of_its_own_learning_rate(tmp_path: Path) -> None:
    (pairs,) = on_ranks(1, tmp_path, usual_and_own_steps)

    assert len(pairs) == 4
    for usual, own in pairs:
        for name, step in usual.items():
            scale = next((s for p, s in SCALES.items() if f"{name}.".startswith(f"body.{p}.")), 1.0)
            torch.testing.assert_close(own[name], step * scale, rtol=1e-3, atol=1e-6)
        assert all(any(step.abs().max() > 1e-4 for n, step in usual.items() if p in n) for p in SCALES)


def usual_and_own_steps() -> list[list[dict[str, torch.Tensor]]]:
    """The first step without and with rates of parts, by each engine, without and with recomputation."""
    return [
        [
            one_step(engine_of(changed(recompute=recompute, lr_scale=given), by_deepspeed))
            for given in ({}, SCALES)
        ]
        for by_deepspeed, recompute in product((False, True), (False, True))
    ]


def engine_of(settings: Student, by_deepspeed: bool) -> Engine:
    model = build_network(settings, 3)
    kind = DeepSpeedEngine if by_deepspeed else PlainEngine
    return kind(model, build_optimizer(settings, model), CPU, settings)


def one_step(engine: Engine) -> dict[str, torch.Tensor]:
    """By how much each weight changes in the first step."""
    before = {name: weight.detach().clone() for name, weight in engine.network.named_parameters()}
    clips = torch.rand(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    engine.step(cross_entropy(engine.forward(clips), torch.tensor([0, 1, 2, 0])), 0.05)
    return {name: weight.detach() - before[name] for name, weight in engine.network.named_parameters()}


def test_precise_statistics_are_those_of_a_whole_epoch_under_the_final_weights(
    shards: ShardSet, tmp_path: Path
) -> None:
    settings = changed(batch_norm="precise")
    network = trained(shards, tmp_path, settings)
    running = trained(shards, tmp_path / "running", SETTINGS)
    stem, norm = network.blocks[0], first_norm(network)

    responses = torch.cat([stem.conv(clips[:, :, ::2]) for clips in epoch_of(shards, settings, 2)]).detach()
    values_cn = responses.transpose(0, 1).flatten(1).double()

    torch.testing.assert_close(norm.running_mean.double(), values_cn.mean(dim=1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        norm.running_var.double(), values_cn.var(dim=1, correction=0), rtol=1e-3, atol=1e-7
    )
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), running.parameters(), strict=True))
    assert not torch.allclose(first_norm(running).running_var, norm.running_var, rtol=1e-2)


def first_norm(network: nn.Module) -> nn.BatchNorm3d:
    return next(part for part in network.modules() if isinstance(part, nn.BatchNorm3d))


def epoch_of(shards: ShardSet, settings: Student, epoch: int) -> Iterator[torch.Tensor]:
    for batch in training_clips(shards, settings, range(epoch, epoch + 1), CPU):
        yield batch.clips_bcthw.clone()


def test_every_batch_that_is_measured_is_a_sign_of_life(shards: ShardSet, tmp_path: Path) -> None:
    seen: list[Position] = []
    watching = Supervision(on_step=lambda at, _: seen.append(at))

    trained(shards, tmp_path, changed(batch_norm="precise"), supervision=watching)

    steps = len(shards.rows["train"]) // SETTINGS.batch_size
    assert seen[-steps:] == [Position(SETTINGS.epochs, number) for number in range(steps)]


def test_precise_statistics_leave_those_of_frozen_parts_alone(shards: ShardSet, tmp_path: Path) -> None:
    settings = changed(batch_norm="precise", freeze=(STEM,))
    before = initial(settings, len(shards.classes))

    after = trained(shards, tmp_path, settings).state_dict()

    assert not {name for name in moved(before, after) if name.startswith(f"{STEM}.")}


def test_a_training_with_all_of_it_that_is_cut_off_ends_with_the_same_bits(
    shards: ShardSet, tmp_path: Path
) -> None:
    settings = changed(batch_norm="precise", freeze=(STEM,), lr_scale={HEAD: 5.0}, momentum=0.9)
    whole = trained(shards, tmp_path / "whole", settings).state_dict()
    left = iter(range(len(shards.rows["train"]) // settings.batch_size + 1))

    def cut_off(logits_nc: torch.Tensor, batch: object) -> dict[str, torch.Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return supervised(settings)(logits_nc, batch)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        trained(shards, tmp_path / "cut", settings, cut_off)
    resumed = trained(shards, tmp_path / "cut", settings).state_dict()

    assert not moved(whole, resumed)


def test_two_ranks_share_precise_statistics_and_zero_keeps_rates_of_parts(
    shards: ShardSet, tmp_path: Path
) -> None:
    settings = changed(batch_norm="precise", lr_scale={HEAD: 5.0}, freeze=(STEM,), workers=2)
    by_zero = [settings.model_copy(update={"zero": zero}) for zero in (0, 1)]

    plain, parted = (
        on_ranks(
            2, tmp_path / str(one.zero), trained_by_rank, shards.directory, tmp_path / str(one.zero), one
        )
        for one in by_zero
    )

    assert plain[0]
    for name, value in plain[0].items():
        assert torch.equal(value, plain[1][name])
        torch.testing.assert_close(parted[0][name], value, rtol=1e-4, atol=1e-5)


def test_a_part_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no part .* 'blocks.0.con'; expected a name as 'blocks.0.conv'"):
        build_network(changed(freeze=("blocks.0.con",)), 3)
    settings = changed(lr_scale={"head": 2.0})
    with pytest.raises(UsageError, match="no part of the network is called 'head'"):
        build_optimizer(settings, build_network(settings, 3))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(UsageError, match=r"freeze: blocks leaves nothing of x3d_tiny to train"):
        build_network(changed(freeze=("blocks",)), 3)


def test_a_rate_for_what_is_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr_scale of blocks.0.conv, which freeze: blocks.0 keeps"):
        changed(freeze=("blocks.0",), lr_scale={"blocks.0.conv": 2.0})
