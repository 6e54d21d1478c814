from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import nn

from tests.namespaces import wait_until
from ukd_dist.data.clips import Clips
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, MismatchError, NotFiniteError, PreemptedError
from ukd_dist.metrics import Recorder
from ukd_dist.rundir import read_history
from ukd_dist.training.checkpoints import Checkpoints, Position
from ukd_dist.training.engines import PlainEngine
from ukd_dist.training.history import Epoch, read_epochs, write_history
from ukd_dist.training.loop import Objective, train
from ukd_dist.training.schedules import learning_rate
from ukd_dist.training.setup import build_network, build_optimizer, supervised, training_clips
from ukd_dist.training.supervision import Supervision
from ukd_dist.training_config import Teacher, Training

CPU = torch.device("cpu")


class Group:
    """Who saves a checkpoint together."""

    def __init__(self, rank: int = 0, ranks: int = 1, barrier: Barrier | None = None) -> None:
        self.rank, self.ranks, self._barrier = rank, ranks, barrier or Barrier(1)

    def wait_for_ranks(self) -> None:
        self._barrier.wait(10)


SETTINGS = Teacher(
    arch="slowfast_tiny",
    modality="rgb",
    epochs=3,
    batch_size=4,
    lr=0.05,
    dropout=0.3,
    clip={"frames": 8, "stride": 2, "size": 32, "short_side": (32, 40)},
)


def run(
    shards: ShardSet,
    folder: Path,
    settings: Training = SETTINGS,
    objective: Objective | None = None,
    inputs: dict[str, str] | None = None,
    supervision: Supervision | None = None,
) -> tuple[nn.Module, list[Epoch]]:
    torch.set_num_threads(1)
    model = build_network(settings, len(shards.classes))
    with Recorder(folder / "metrics", run="test", stage="teach", member="m") as recorder:
        history = train(
            PlainEngine(model, build_optimizer(settings, model), CPU, settings),
            objective or supervised(settings),
            lambda epochs, step: training_clips(shards, settings, epochs, CPU, first_step=step),
            settings,
            rows=shards.rows["train"],
            directory=folder,
            inputs=inputs or {},
            recorder=recorder,
            supervision=supervision or Supervision(),
        )
    return model, history


def stopping_after(steps: int) -> Objective:
    """An objective that is killed in the middle of an epoch."""
    plain, left = supervised(SETTINGS), iter(range(steps))

    def objective(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return plain(logits_nc, batch)

    return objective


@pytest.fixture(scope="module")
def undisturbed(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, list[Epoch]]:
    return run(shards, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_training_that_was_cut_off_ends_bit_identical(
    steps: int, undisturbed: tuple[nn.Module, list[Epoch]], shards: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path, objective=stopping_after(steps))
    resumed, history = run(shards, tmp_path)

    expected = undisturbed[0].state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())
    assert [line.losses for line in history] == [line.losses for line in undisturbed[1]]


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_training_cut_off_within_an_epoch_goes_on_after_its_last_step(
    epochs: int, undisturbed: tuple[nn.Module, list[Epoch]], shards: ShardSet, tmp_path: Path
) -> None:
    every_step, trained = Supervision(checkpoint_seconds=0.0), list[Position]()
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path, objective=stopping_after(2 * epochs + 1), supervision=every_step)
    (newest, *_) = sorted((path.name for path in (tmp_path / "checkpoint").iterdir()), reverse=True)
    assert newest == f"epoch-{epochs:04d}-step-000001"

    resumed, history = run(
        shards, tmp_path, supervision=Supervision(on_step=lambda at, _: trained.append(at))
    )

    assert trained[0] == Position(epochs + 1)
    expected = undisturbed[0].state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())
    assert [measured(line) for line in history] == [measured(line) for line in undisturbed[1]]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"accumulate": 2},
        {"ema": 0.8},
        {"recompute": True},
        {"precision": "bf16"},
        {"clip_norm": 0.5},
        {"schedule": "step", "milestones": (1.0, 2.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_the_settings_a_training_cut_off_ends_bit_identical(
    change: dict[str, object], undisturbed: tuple[nn.Module, list[Epoch]], shards: ShardSet, tmp_path: Path
) -> None:
    settings = Teacher.model_validate({**SETTINGS.model_dump(), **change})
    every_step = Supervision(checkpoint_steps=1)
    expected, history = run(shards, tmp_path / "undisturbed", settings)
    passes = 3 * settings.accumulate
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path, settings, stopping_after(passes), supervision=every_step)
    resumed, lines = run(shards, tmp_path, settings)

    weights = expected.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in resumed.state_dict().items())
    assert [measured(line) for line in lines] == [measured(line) for line in history]
    same = [torch.equal(undisturbed[0].state_dict()[name], value) for name, value in weights.items()]
    assert all(same) == (change == {"recompute": True}), "the setting does something, but for recomputing"


def measured(line: Epoch) -> tuple[object, ...]:
    """What an epoch's line says but for costs."""
    return line.epoch, line.losses, line.accuracy, line.lr, line.clips


def test_a_training_that_is_asked_to_stop_writes_a_checkpoint_after_its_step(
    undisturbed: tuple[nn.Module, list[Epoch]], shards: ShardSet, tmp_path: Path
) -> None:
    asked = iter([False, False, True])

    with pytest.raises(PreemptedError, match="asked to stop after epoch 1, step 1"):
        run(shards, tmp_path, supervision=Supervision(stop_asked=lambda: next(asked)))

    assert (tmp_path / "checkpoint/epoch-0001-step-000001").is_dir()
    resumed, _ = run(shards, tmp_path)
    expected = undisturbed[0].state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())


def test_history_holds_one_line_an_epoch_with_losses_and_costs(
    undisturbed: tuple[nn.Module, list[Epoch]], shards: ShardSet, tmp_path: Path
) -> None:
    run(shards, tmp_path)
    lines = read_history(tmp_path)

    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(
        line["clips"] == 8 and line["seconds"] > 0 and line["peak_memory_bytes"] > 2**20 for line in lines
    )
    assert lines[0]["losses"] == undisturbed[1][0].losses


def test_the_epochs_are_read_as_they_were_written(
    undisturbed: tuple[nn.Module, list[Epoch]], tmp_path: Path
) -> None:
    assert read_epochs(tmp_path) == []
    write_history(tmp_path, undisturbed[1])
    assert read_epochs(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("change", [{"accuracy": ...}, {"lr": ...}, {"losses": ...}, {"extra": 3}])
def test_a_line_that_is_no_epochs_is_named(
    change: dict[str, object], undisturbed: tuple[nn.Module, list[Epoch]], tmp_path: Path
) -> None:
    changed = {**asdict(undisturbed[1][0]), **change}
    line = {name: value for name, value in changed.items() if value is not ...}
    (tmp_path / "history.jsonl").write_text(json.dumps(line))

    with pytest.raises(DataError, match=rf"^{tmp_path}/history.jsonl is damaged \(.*; remove {tmp_path}$"):
        read_epochs(tmp_path)


def test_a_finished_training_trains_no_more(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, tmp_path)

    model, history = run(shards, tmp_path, objective=stopping_after(0))

    assert len(history) == 3
    assert model is not None


def test_a_loss_that_is_not_finite_stops_and_names_step_and_samples(shards: ShardSet, tmp_path: Path) -> None:
    def exploding(logits_nc: torch.Tensor, batch: Clips) -> dict[str, torch.Tensor]:
        return {"total": logits_nc.sum() * float("nan")}

    with pytest.raises(NotFiniteError, match="the loss is nan at epoch 1, step 1") as caught:
        run(shards, tmp_path, objective=exploding)

    assert sum(key in str(caught.value) for key in shards.rows["train"].keys) == SETTINGS.batch_size
    assert not list((tmp_path / "checkpoint").glob("*"))


def test_the_last_two_checkpoints_are_kept(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, tmp_path)

    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["epoch-0002", "epoch-0003"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    undisturbed: tuple[nn.Module, list[Epoch]],
    shards: ShardSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(shards, tmp_path)
    damage(tmp_path / "checkpoint/epoch-0003/state.pt")

    with caplog.at_level(logging.WARNING):
        model, _ = run(shards, tmp_path)

    assert "epoch-0003/state.pt was altered" in caplog.text
    expected = undisturbed[0].state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())


def test_with_every_checkpoint_damaged_training_refuses_to_begin_again_in_silence(
    shards: ShardSet, tmp_path: Path
) -> None:
    run(shards, tmp_path)
    for state in (tmp_path / "checkpoint").glob("*/state.pt"):
        damage(state)

    with pytest.raises(DataError, match=r"state.pt was altered; expected sha256"):
        run(shards, tmp_path)


def test_resuming_with_other_settings_is_refused_with_the_field(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, tmp_path)

    with pytest.raises(MismatchError, match=r"settings.lr = 0.05; expected 0.1"):
        run(shards, tmp_path, SETTINGS.model_copy(update={"lr": 0.1}))


def test_resuming_on_other_shards_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, tmp_path, inputs={"shards": "these"})

    with pytest.raises(MismatchError, match=r"inputs.shards = these; expected others"):
        run(shards, tmp_path, inputs={"shards": "others"})


def test_the_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 10, "warmup_epochs": 2.0, "lr": 1.0})
    rates = [learning_rate(settings, epoch) for epoch in (0, 1, 2, 6, 9.999)]

    assert rates[0] < 0.01
    assert rates[1] == pytest.approx(0.5, abs=0.01)
    assert rates[2] == 1.0
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0.0, abs=1e-3)


def test_the_learning_rate_falls_to_a_tenth_at_each_milestone() -> None:
    settings = SETTINGS.model_copy(
        update={"epochs": 10, "lr": 1.0, "schedule": "step", "milestones": (4.0, 8.0)}
    )

    assert [learning_rate(settings, epoch) for epoch in (0, 3.9, 4, 7.9, 8, 9.9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_a_step_has_the_learning_rate_of_its_middle(undisturbed: tuple[nn.Module, list[Epoch]]) -> None:
    """So that no step is wasted at a rate of 0, neither the first of a warm-up nor the last of a cosine."""
    assert [line.lr for line in undisturbed[1]] == [
        learning_rate(SETTINGS, epoch) for epoch in (0.75, 1.75, 2.75)
    ]


def test_a_checkpoint_that_rank_0_sees_alone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Checkpoints(tmp_path, {}, {}).load(Position(3))
    assert str(caught.value) == (
        f"checkpoint {tmp_path}/epoch-0003/state.pt is not there, though rank 0 sees it; "
        "expected a root that every node sees alike; mount the same shared file system on every node"
    )


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"lr": 0.1}, {"shards": "aa"})
    assert checkpoints.latest() == Position()
    for epoch in (1, 2):
        state = {"weights": torch.full((2,), float(epoch)), "history": [{"epoch": epoch}]}
        checkpoints.save(Position(epoch), state, {"rank": 0}, Group())
    assert checkpoints.latest() == Position(2)
    state, parts = checkpoints.load(Position(1))
    assert state["weights"].tolist() == [1.0, 1.0]
    assert state["history"] == [{"epoch": 1}]
    assert parts == [{"rank": 0}]


def test_a_checkpoint_of_several_ranks_is_there_when_all_of_them_wrote(tmp_path: Path) -> None:
    checkpoints, arrived = Checkpoints(tmp_path, {}, {}), Barrier(3)

    def save(rank: int) -> None:
        checkpoints.save(Position(1), {"of": rank}, {"rank": rank}, Group(rank, 3, arrived))

    with ThreadPoolExecutor() as ranks:
        first = [ranks.submit(save, rank) for rank in (0, 1)]
        wait_until(lambda: arrived.n_waiting == 2, 10)
        assert checkpoints.latest() == Position()
        for saved in (ranks.submit(save, 2), *first):
            saved.result()

    assert checkpoints.latest() == Position(1)
    state, parts = checkpoints.load(Position(1))
    assert state["of"] == 0
    assert parts == [{"rank": 0}, {"rank": 1}, {"rank": 2}]


def test_as_many_checkpoints_are_kept_as_are_asked_for(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, tmp_path, supervision=Supervision(checkpoint_steps=1, checkpoints_kept=3))

    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == [
        "epoch-0002",
        "epoch-0002-step-000001",
        "epoch-0003",
    ]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def write_checkpoints(folder: Path, word: str, *positions: Position) -> Path:
    for position in positions:
        Checkpoints(folder, {}, {}).save(position, {"word": word}, {}, Group())
    return folder


def test_the_newest_checkpoints_of_others_are_taken_over_and_the_others_keep_theirs(tmp_path: Path) -> None:
    first = write_checkpoints(tmp_path / "1", "first", Position(1), Position(2, 7))
    second = write_checkpoints(tmp_path / "2", "second", Position(1), Position(2))
    own = Checkpoints(tmp_path / "3", {}, {})

    own.take([tmp_path / "nobody", first, second])

    assert own.latest() == Position(2, 7)
    assert own.load(Position(2, 7))[0]["word"] == "first"
    assert own.load(Position(2))[0]["word"] == "second"
    own.save(Position(2), {"word": "own"}, {}, Group())
    assert Checkpoints(second, {}, {}).load(Position(2))[0]["word"] == "second"


def test_of_equal_checkpoints_the_last_ones_is_taken(tmp_path: Path) -> None:
    others = [write_checkpoints(tmp_path / word, word, Position(3)) for word in ("first", "second")]
    own = Checkpoints(tmp_path / "own", {}, {})
    own.take(others)
    assert own.load(own.latest())[0]["word"] == "second"


def test_a_checkpoint_that_is_being_written_or_dropped_is_passed_over(tmp_path: Path) -> None:
    other = write_checkpoints(tmp_path / "other", "sound", Position(1), Position(2))
    (other / "epoch-0002/manifest.json").unlink()
    own = Checkpoints(tmp_path / "own", {}, {})
    own.take([other])
    assert own.latest() == Position(1)
