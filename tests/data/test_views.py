"""Views: the same for any number of ranks and after any interruption, and fair to every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ukd_dist.config import Clip
from ukd_dist.data.views import Batch, evaluation_batches, steps_per_epoch, training_batches

WORLD_SIZES = (1, 2, 3, 6)


@dataclass(frozen=True)
class Training:
    """What determines a training's views."""

    frames: np.ndarray
    clip: Clip
    seed: int
    batch_size: int
    rows: np.ndarray | None = None

    def batches(self, epochs: range, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return training_batches(
            self.frames,
            self.clip,
            seed=self.seed,
            epochs=epochs,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            rows=self.rows,
        )


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    size = draw(st.integers(16, 40))
    low = draw(st.integers(size, 60))
    return Clip(
        frames=draw(st.integers(1, 20)),
        stride=draw(st.integers(1, 4)),
        size=size,
        short_side=(low, draw(st.integers(low, 70))),
        flip=draw(st.booleans()),
    )


@st.composite
def trainings(draw: st.DrawFn, *, least_rows: int = 1) -> Training:
    frames = draw(st.lists(st.integers(2, 90), min_size=least_rows, max_size=60))
    batch_size = 6 * draw(st.integers(1, 3))
    return Training(np.array(frames, np.int64), draw(clips()), draw(st.integers(0, 2**32)), batch_size)


def joined(batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Every column of some batches, end to end."""
    every = list(batches)
    return {field.name: np.concatenate([getattr(b, field.name) for b in every]) for field in fields(Batch)}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    for name, column in left.items():
        np.testing.assert_array_equal(column, right[name], err_msg=name)


@given(trainings(), st.sampled_from(WORLD_SIZES))
@settings(deadline=None)
def test_ranks_share_each_step_of_one_process_equally_and_in_order(
    training: Training, world_size: int
) -> None:
    epochs = range(2)
    alone = list(training.batches(epochs))
    ranks = [list(training.batches(epochs, rank, world_size)) for rank in range(world_size)]
    assert all(len(steps) == len(alone) for steps in ranks)
    for step, whole in enumerate(alone):
        shares = [steps[step] for steps in ranks]
        assert {len(share.rows) for share in shares} == {training.batch_size // world_size}
        assert_equal(joined(shares), joined([whole]))


@given(trainings(least_rows=18), st.integers(0, 5))
@settings(deadline=None)
def test_no_row_comes_twice_in_an_epoch_and_only_the_remainder_is_left_out(
    training: Training, epoch: int
) -> None:
    rows = joined(training.batches(range(epoch, epoch + 1)))["rows"]
    assert len(set(rows.tolist())) == len(rows)
    assert len(rows) == len(training.frames) // training.batch_size * training.batch_size
    assert set(rows.tolist()) <= set(range(len(training.frames)))


@given(trainings(), st.sampled_from(WORLD_SIZES))
@settings(deadline=None)
def test_fewer_rows_than_a_batch_are_repeated_and_ranks_still_get_equal_shares(
    training: Training, world_size: int
) -> None:
    assume(len(training.frames) < training.batch_size)
    shares = [list(training.batches(range(1), rank, world_size)) for rank in range(world_size)]
    assert [[len(batch.rows) for batch in share] for share in shares] == [
        [training.batch_size // world_size]
    ] * world_size
    counts = np.bincount(joined(b for share in shares for b in share)["rows"], minlength=len(training.frames))
    assert counts.max() - counts.min() <= 1
    assert counts.min() >= 1


@st.composite
def subsets(draw: st.DrawFn) -> Training:
    """A training on some rows, among others."""
    training = draw(trainings(least_rows=2))
    rows = draw(st.sets(st.integers(0, len(training.frames) - 1), min_size=1))
    return replace(training, rows=np.array(sorted(rows), np.int64))


@given(subsets(), st.integers(0, 5))
@settings(deadline=None)
def test_a_subset_is_trained_on_like_a_whole_and_no_other_row_is_seen(training: Training, epoch: int) -> None:
    rows = joined(training.batches(range(epoch, epoch + 1)))["rows"]
    assert training.rows is not None
    steps = steps_per_epoch(len(training.rows), training.batch_size)
    assert len(rows) == steps * training.batch_size
    assert set(rows.tolist()) <= set(training.rows.tolist())
    most = np.bincount(rows).max()
    assert most == (1 if len(training.rows) >= training.batch_size else -(-len(rows) // len(training.rows)))


@given(subsets())
@settings(deadline=None)
def test_a_rows_view_is_the_same_in_every_subset(training: Training) -> None:
    def views(training: Training) -> dict[int, list[float]]:
        one_by_one = joined(replace(training, batch_size=1).batches(range(1)))
        rows = one_by_one.pop("rows").tolist()
        return {row: [float(column[i]) for column in one_by_one.values()] for i, row in enumerate(rows)}

    of_subset, of_all = views(training), views(replace(training, rows=None))
    assert of_subset == {row: of_all[row] for row in of_subset}


@given(trainings(), st.sampled_from(WORLD_SIZES))
@settings(deadline=None)
def test_the_subset_of_all_rows_is_no_subset(training: Training, world_size: int) -> None:
    everything = replace(training, rows=np.arange(len(training.frames)))
    ranks = [range(world_size)] * 2
    whole, subset = (
        joined(batch for rank in ranks_ for batch in one.batches(range(2), rank, world_size))
        for one, ranks_ in zip((training, everything), ranks, strict=True)
    )
    assert_equal(whole, subset)


def test_orders_and_views_are_those_of_before_there_were_subsets() -> None:
    training = Training(np.arange(20, 32), Clip(frames=4, stride=2, size=16, short_side=(16, 20)), 5, 4)
    views = joined(training.batches(range(1, 2)))
    assert views["rows"].tolist() == [6, 9, 5, 8, 2, 4, 7, 0, 11, 10, 3, 1]
    assert views["start_frames"].tolist() == [19, 13, 13, 7, 12, 5, 20, 12, 12, 10, 12, 9]


@given(trainings(), st.integers(0, 3), st.integers(1, 3))
@settings(deadline=None)
def test_a_resumed_run_sees_the_rest_of_an_uninterrupted_one(
    training: Training, done: int, left: int
) -> None:
    whole = list(training.batches(range(done + left)))
    resumed = list(training.batches(range(done, done + left)))
    assert_equal(joined(resumed), joined(whole[-len(resumed) :]))
    assert len(resumed) == left * steps_per_epoch(len(training.frames), training.batch_size)


@given(trainings(least_rows=18))
@settings(deadline=None)
def test_a_rows_view_does_not_depend_on_the_batch_size(training: Training) -> None:
    """A teacher and a student of other batch sizes see the same view of a sample."""
    one = joined(training.batches(range(1)))
    other = joined(Training(training.frames, training.clip, training.seed, 1).batches(range(1)))
    assert_equal(one, {name: column[: len(one["rows"])] for name, column in other.items()})


@given(trainings(least_rows=30))
@settings(deadline=None)
def test_each_epoch_and_each_seed_has_an_order_and_views_of_its_own(training: Training) -> None:
    other_seed = Training(training.frames, training.clip, training.seed + 1, training.batch_size)
    first, second = (joined(training.batches(range(epoch, epoch + 1))) for epoch in (0, 1))
    other = joined(other_seed.batches(range(1)))
    for one, another in ((first, second), (first, other)):
        for name in ("rows", "crop_x", "crop_y"):
            assert not np.array_equal(one[name], another[name]), name


@given(trainings())
@settings(deadline=None)
def test_every_training_clip_lies_within_its_video_or_starts_at_its_first_frame(training: Training) -> None:
    views, clip = joined(training.batches(range(2))), training.clip
    frames = training.frames[views["rows"]]
    last = views["start_frames"] + (clip.frames - 1) * clip.stride
    assert (views["start_frames"] >= 0).all()
    assert ((last < frames) | (views["start_frames"] == 0)).all()


@given(trainings())
@settings(deadline=None)
def test_every_crop_lies_within_the_picture_and_every_short_side_within_its_range(training: Training) -> None:
    views, (low, high) = joined(training.batches(range(2))), training.clip.short_side
    for name in ("crop_x", "crop_y"):
        assert views[name].min() >= 0
        assert views[name].max() <= 1
    assert set(views["short_sides"].tolist()) <= set(range(low, high + 1))
    assert set(views["mirror"].tolist()) <= ({0, 1} if training.clip.flip else {0})


def test_starts_short_sides_crops_and_mirrors_cover_their_whole_range_evenly() -> None:
    clip = Clip(frames=4, stride=2, size=16, short_side=(16, 20))
    views = joined(Training(np.full(600, 10), clip, 0, 6).batches(range(10)))
    for name, values in {"start_frames": range(4), "short_sides": range(16, 21), "mirror": range(2)}.items():
        found, counts = np.unique(views[name], return_counts=True)
        assert found.tolist() == list(values)
        share = 6000 / len(found)
        assert np.abs(counts - share).max() < 4 * np.sqrt(share)
    for name in ("crop_x", "crop_y"):
        assert views[name].mean() == pytest.approx(0.5, abs=0.02)
        assert views[name].std() == pytest.approx(12**-0.5, abs=0.02)


def test_the_parts_of_a_view_are_drawn_independently() -> None:
    clip = Clip(frames=4, stride=2, size=16, short_side=(16, 80))
    views = joined(Training(np.full(600, 200), clip, 0, 6).batches(range(10)))
    correlation = np.corrcoef([column for name, column in sorted(views.items())])
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.06


@given(st.lists(st.integers(2, 90), min_size=1, max_size=40), clips(), st.integers(1, 50))
@settings(deadline=None)
def test_evaluation_sees_every_row_once_in_order_at_its_centre(
    frames: list[int], clip: Clip, batch_size: int
) -> None:
    batches = list(evaluation_batches(np.array(frames), clip, batch_size))
    views = joined(batches)
    assert views["rows"].tolist() == list(range(len(frames)))
    assert all(len(batch.rows) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1].rows) <= batch_size
    assert set(views["crop_x"].tolist()) == set(views["crop_y"].tolist()) == {0.5}
    assert set(views["short_sides"].tolist()) == {clip.short_side[0]}
    assert set(views["mirror"].tolist()) == {0}
    before = views["start_frames"]
    after = np.array(frames) - 1 - (before + (clip.frames - 1) * clip.stride)
    fits = np.array(frames) > (clip.frames - 1) * clip.stride
    assert (before[~fits] == 0).all()
    assert np.isin(after[fits] - before[fits], [0, 1]).all()


@given(trainings())
@settings(deadline=None, max_examples=20)
def test_columns_have_the_types_that_the_pipeline_takes(training: Training) -> None:
    types = ["int64", "int32", "float32", "float32", "float32", "int32"]
    for batches in (training.batches(range(1)), evaluation_batches(training.frames, training.clip, 4)):
        for batch in batches:
            assert [getattr(batch, field.name).dtype.name for field in fields(Batch)] == types
            assert {getattr(batch, field.name).shape for field in fields(Batch)} == {batch.rows.shape}
