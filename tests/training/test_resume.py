"""Trainings of two ranks that are cut off within an epoch, and what they end with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from tests.training.ranks import on_ranks
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import MismatchError, PreemptedError
from ukd_dist.metrics import Recorder
from ukd_dist.training.engines import DeepSpeedEngine
from ukd_dist.training.history import read_epochs
from ukd_dist.training.loop import Objective, train
from ukd_dist.training.setup import build_network, build_optimizer, supervised, training_clips
from ukd_dist.training.supervision import Supervision
from ukd_dist.training_config import Student

CPU = torch.device("cpu")
SETTINGS = Student(
    name="student",
    targets="none",
    arch="slowfast_tiny",
    modality="rgb",
    epochs=3,
    batch_size=2,
    lr=0.02,
    dropout=0.3,
    workers=2,
    clip={"frames": 8, "stride": 2, "size": 32, "short_side": (32, 40)},
)
STEPS = 4  # an epoch
EVERY_SECOND_STEP = Supervision(checkpoint_steps=2)


def cut_off_after(steps: int, settings: Student) -> Objective:
    plain, left = supervised(settings), iter(range(steps))

    def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return plain(logits_nc, batch)

    return objective


def trained(
    shards: Path,
    folder: Path,
    settings: Student,
    steps: int | None = None,
    supervision: Supervision = EVERY_SECOND_STEP,
) -> dict[str, Any]:
    """A rank's weights and statistics at the end, or nothing where it was cut off after some steps."""
    opened = ShardSet(shards)
    model = build_network(settings, len(opened.classes))
    engine = DeepSpeedEngine(model, build_optimizer(settings, model), CPU, settings)
    objective = supervised(settings) if steps is None else cut_off_after(steps, settings)
    with Recorder(folder / "metrics", run="test", stage="distill", member="m", rank=engine.rank) as recorder:
        try:
            train(
                engine,
                objective,
                lambda epochs, step: training_clips(
                    opened, settings, epochs, CPU, engine.rank, engine.ranks, first_step=step
                ),
                settings,
                rows=opened.rows["train"],
                directory=folder,
                inputs={},
                recorder=recorder,
                supervision=supervision,
            )
        except KeyboardInterrupt:
            return {}
    return model.state_dict()


def cut_off_and_again(shards: Path, folder: Path, zeros: tuple[int, ...]) -> dict[str, Any]:
    """By ZeRO stage what a rank ends with, undisturbed or cut off and again; `left` is not taken up."""
    found: dict[str, Any] = {}
    for zero in zeros:
        settings = SETTINGS.model_copy(update={"zero": zero})
        found[f"undisturbed {zero}"] = trained(shards, folder / f"undisturbed {zero}", settings)
        for name in ("again", "left"):
            trained(shards, folder / f"{name} {zero}", settings, steps=STEPS + 3)
        found[f"again {zero}"] = trained(shards, folder / f"again {zero}", settings)
    return found


@pytest.fixture(scope="module")
def ranks(shards: ShardSet, folder: Path) -> list[dict[str, Any]]:
    return on_ranks(2, folder / "ranks", cut_off_and_again, shards.directory, folder, (0, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.mark.parametrize("zero", [0, 2])
def test_two_ranks_cut_off_within_an_epoch_end_bit_identical(
    ranks: list[dict[str, Any]], folder: Path, zero: int
) -> None:
    assert (folder / f"left {zero}/checkpoint/epoch-0001-step-000002/rank-0001.pt").is_file()
    for rank in ranks:
        expected = rank[f"undisturbed {zero}"]
        assert all(torch.equal(expected[name], value) for name, value in rank[f"again {zero}"].items())
    losses = [
        [line.losses for line in read_epochs(folder / f"{name} {zero}")] for name in ("undisturbed", "again")
    ]
    assert losses[0] == losses[1]


def stopped_and_again(shards: Path, folder: Path, after: int) -> dict[str, Any]:
    """What a rank ends with whose training is stopped after some steps, as rank 0 alone is asked to."""
    supervision, asked = Supervision(), iter(range(after))
    if distributed.get_rank() == 0:
        supervision = Supervision(checkpoint_seconds=0.0, stop_asked=lambda: next(asked, None) is None)
    begun = folder / f"stopped {after}"
    try:
        trained(shards, begun, SETTINGS, supervision=supervision)
    except PreemptedError as error:
        return {"said": error.problem, **trained(shards, begun, SETTINGS)}
    return {}


@pytest.mark.parametrize(
    ("after", "where"),
    [(STEPS + 1, "epoch 1, step 2"), (STEPS - 1, "epoch 1, step 0")],
    ids=["within-an-epoch", "at-its-end"],
)
def test_all_ranks_save_and_stop_where_rank_0_is_asked_to_and_go_on_to_the_same_weights(
    ranks: list[dict[str, Any]], shards: ShardSet, folder: Path, after: int, where: str
) -> None:
    stopped = on_ranks(2, folder / f"asked {after}", stopped_and_again, shards.directory, folder, after)

    for rank, undisturbed in zip(stopped, ranks, strict=True):
        assert rank.pop("said") == f"asked to stop after {where}"
        assert all(torch.equal(rank[name], value) for name, value in undisturbed["undisturbed 0"].items())


def distance(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return float(
        sum((value.double() - others[name].double()).square().sum() for name, value in weights.items())
    )


def on_another_number(shards: Path, folder: Path, zeros: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"ranks": distributed.get_world_size()}
    for zero in zeros:
        settings, begun = SETTINGS.model_copy(update={"zero": zero}), folder / f"left {zero}"
        try:
            trained(shards, begun, settings)
        except MismatchError as error:
            found[f"refused {zero}"] = str(error)
        others = replace(EVERY_SECOND_STEP, other_ranks=True)
        found[f"weights {zero}"] = trained(shards, begun, settings, supervision=others)
    return found


def test_another_number_of_ranks_goes_on_only_when_it_is_asked_to(
    ranks: list[dict[str, Any]], shards: ShardSet, folder: Path
) -> None:
    (alone,) = on_ranks(1, folder / "alone", on_another_number, shards.directory, folder, (0, 2))

    for zero in (0, 2):
        begun = folder / f"left {zero}"
        assert alone[f"refused {zero}"] == (
            f"checkpoint {begun}/checkpoint/epoch-0001-step-000002 was written by 2 ranks, and there are 1; "
            "expected as many: with others the same order of clips gives other weights; "
            "go on with 2, or ask for 1 with --workers 1"
        )
        lines, undisturbed = read_epochs(begun), read_epochs(folder / f"undisturbed {zero}")
        assert [line.ranks for line in lines] == [2, 1, 1]
        assert lines[0].losses == undisturbed[0].losses
        assert [line.clips for line in lines] == [line.clips for line in undisturbed]
        for line, other in zip(lines[1:], undisturbed[1:], strict=True):
            assert line.losses != other.losses
            assert line.losses["ce"] == pytest.approx(other.losses["ce"], abs=0.5)
    # Both stages took the optimizer's state up: they are nearer to each other than to two ranks' result.
    assert distance(alone["weights 0"], alone["weights 2"]) < 0.01 * distance(
        alone["weights 0"], ranks[0]["undisturbed 0"]
    )
