"""Views: the same for any number of ranks and after any interruption, and fair to every row."""

from __future__ import annotations

import hashlib
import random as randoms
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ukd_dist.clip_config import Clip, Views
from ukd_dist.data.views import (
    FREE,
    Batch,
    evaluation_batches,
    frame_numbers,
    steps_per_epoch,
    stored_views,
    training_batches,
    windows,
)

WORLD_SIZES = (1, 2, 3, 6)
SMALL = Clip(frames=4, stride=2, size=16, short_side=(16, 20))
KINDS = (
    Views(),
    Views(kind="mean", clips=4, crops=3),
    Views(kind="random", clips=5, seed=7),
)


@dataclass(frozen=True)
class Training:
    """What determines a training's views."""

    frames: np.ndarray
    clip: Clip
    seed: int
    batch_size: int
    rows: np.ndarray | None = None

    def batches(
        self, epochs: range, rank: int = 0, world_size: int = 1, stored: Views | None = None
    ) -> Iterator[Batch]:
        return training_batches(
            self.frames,
            self.clip,
            seed=self.seed,
            epochs=epochs,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            stored=stored,
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


@st.composite
def subsets(draw: st.DrawFn) -> Training:
    """A training on some rows, among others."""
    training = draw(trainings(least_rows=2))
    rows = draw(st.sets(st.integers(0, len(training.frames) - 1), min_size=1))
    return replace(training, rows=np.array(sorted(rows), np.int64))


@dataclass(frozen=True)
class Shared:
    """A training whose steps some ranks share."""

    training: Training
    world_size: int
    stored: Views | None

    def ranks(self, epochs: range) -> list[list[Batch]]:
        """The batches of each rank."""
        return [
            list(self.training.batches(epochs, rank, self.world_size, self.stored))
            for rank in range(self.world_size)
        ]


@st.composite
def shared(draw: st.DrawFn) -> Shared:
    """Any training, on all rows or some, on fresh views or stored ones, by any number of ranks."""
    world_size, clips_a_rank = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    training = replace(draw(trainings() | subsets()), batch_size=world_size * clips_a_rank)
    return Shared(training, world_size, draw(st.sampled_from([None, KINDS[0], KINDS[2]])))


def joined(batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Every column of some batches, end to end."""
    every = list(batches)
    return {field.name: np.concatenate([getattr(b, field.name) for b in every]) for field in fields(Batch)}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    for name, column in left.items():
        np.testing.assert_array_equal(column, right[name], err_msg=name)


def assert_even(views: dict[str, np.ndarray]) -> None:
    """6,000 views of 10 frames each, by SMALL, cover their whole range evenly."""
    for name, values in {"start_frames": range(4), "short_sides": range(16, 21), "mirror": range(2)}.items():
        found, counts = np.unique(views[name], return_counts=True)
        assert found.tolist() == list(values)
        share = 6000 / len(found)
        assert np.abs(counts - share).max() < 4 * np.sqrt(share)
    for name in ("crop_x", "crop_y"):
        assert views[name].mean() == pytest.approx(0.5, abs=0.02)
        assert views[name].std() == pytest.approx(12**-0.5, abs=0.02)


@given(shared(), st.integers(0, 3))
@settings(deadline=None)
def test_ranks_share_each_step_of_one_process_equally_and_in_order(shared: Shared, epoch: int) -> None:
    """So each sample has the same view in the same step, whatever the world size."""
    epochs = range(epoch, epoch + 2)
    alone = list(shared.training.batches(epochs, stored=shared.stored))
    ranks = shared.ranks(epochs)
    assert all(len(steps) == len(alone) for steps in ranks)
    for step, whole in enumerate(alone):
        shares = [steps[step] for steps in ranks]
        assert {len(share.rows) for share in shares} == {shared.training.batch_size // shared.world_size}
        assert_equal(joined(shares), joined([whole]))


@given(shared(), st.integers(0, 3))
@settings(deadline=None)
def test_whatever_the_world_size_each_row_reaches_one_rank_an_epoch_but_for_the_remainder(
    shared: Shared, epoch: int
) -> None:
    training = shared.training
    trained_on = np.arange(len(training.frames)) if training.rows is None else training.rows
    ranks = shared.ranks(range(epoch, epoch + 1))
    rows = joined(batch for steps in ranks for batch in steps)["rows"].tolist()
    shown = steps_per_epoch(len(trained_on), training.batch_size) * training.batch_size
    assert len(rows) == shown
    assert len(set(rows)) == min(len(trained_on), shown)
    assert set(rows) <= set(trained_on.tolist())


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
    whole, subset = (
        joined(batch for rank in range(world_size) for batch in one.batches(range(2), rank, world_size))
        for one in (training, everything)
    )
    assert_equal(whole, subset)


def test_orders_and_views_are_those_of_before_there_were_subsets() -> None:
    training = Training(np.arange(20, 32), SMALL, 5, 4)
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


@given(trainings())
@settings(deadline=None)
def test_the_frames_shown_are_each_asked_for_once_and_the_last_one_fills_up(training: Training) -> None:
    for batch in training.batches(range(1)):
        lengths = training.frames[batch.rows]
        for numbers, start, length in zip(
            frame_numbers(batch, lengths, training.clip), batch.start_frames, lengths, strict=True
        ):
            assert numbers.dtype == np.int32
            assert (np.diff(numbers) > 0).all()
            filled = [*numbers, *[numbers[-1]] * (training.clip.frames - len(numbers))]
            wanted = start + training.clip.stride * np.arange(training.clip.frames)
            assert filled == np.minimum(wanted, length - 1).tolist()


@given(trainings(), st.data())
@settings(deadline=None)
def test_every_window_is_the_crop_of_the_resized_picture_in_the_pictures_own_pixels(
    training: Training, data: st.DataObject
) -> None:
    side = st.integers(16, 400)
    for batch in training.batches(range(1)):
        sizes = np.array([data.draw(st.tuples(side, side)) for _ in batch.rows])
        shown = windows(batch, sizes, training.clip.size)
        assert shown.begin.dtype == shown.end.dtype == np.float32
        begin, end = shown.begin * sizes, shown.end * sizes
        mirrored = end[:, 1] < begin[:, 1]
        assert (mirrored == (batch.mirror == 1)).all()
        extent = np.abs(end - begin) * (batch.short_sides / sizes.min(axis=1))[:, None]
        np.testing.assert_allclose(extent, training.clip.size, rtol=1e-4)
        # Rounding the long side moves a picture's edge by half a pixel of the resized one at most.
        slack = 0.51 * sizes.min(axis=1) / batch.short_sides
        assert (np.minimum(begin, end) >= -slack[:, None]).all()
        assert (np.maximum(begin, end) <= sizes + slack[:, None]).all()


def test_windows_lie_where_their_views_say() -> None:
    (batch,) = evaluation_batches(np.array([4, 4, 4]), SMALL, 3)
    places = replace(batch, crop_x=np.float32([0, 0.5, 1]), mirror=np.int32([0, 0, 1]))
    shown = windows(places, np.array([[32, 64], [64, 32], [32, 64]]), 16)
    np.testing.assert_array_equal(shown.begin, [[0, 0], [0.25, 0], [0, 1]])
    np.testing.assert_array_equal(shown.end, [[1, 0.5], [0.75, 1], [1, 0.5]])


def test_starts_short_sides_crops_and_mirrors_cover_their_whole_range_evenly() -> None:
    assert_even(joined(Training(np.full(600, 10), SMALL, 0, 6).batches(range(10))))


def test_the_parts_of_a_view_are_drawn_independently() -> None:
    clip = Clip(frames=4, stride=2, size=16, short_side=(16, 80))
    views = joined(Training(np.full(600, 200), clip, 0, 6).batches(range(10)))
    assert set(views.pop("views").tolist()) == {FREE}
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
    types = ["int64", "int64", "int32", "float32", "float32", "float32", "int32"]
    portrait = training.frames % 2 == 0
    evaluations = [evaluation_batches(training.frames, training.clip, 4, v, portrait) for v in KINDS]
    for batches in (training.batches(range(1)), training.batches(range(1), stored=KINDS[2]), *evaluations):
        for batch in batches:
            assert [getattr(batch, field.name).dtype.name for field in fields(Batch)] == types
            assert {getattr(batch, field.name).shape for field in fields(Batch)} == {batch.rows.shape}


# Stored views.


def stored_of(
    training: Training, views: Views, batch_size: int = 4
) -> dict[tuple[int, int], tuple[float, ...]]:
    """Every stored view of a training's videos, by row and number."""
    portrait = training.frames % 2 == 0
    columns = joined(evaluation_batches(training.frames, training.clip, batch_size, views, portrait))
    rows, numbers, *places = (columns[field.name].tolist() for field in fields(Batch))
    return dict(zip(zip(rows, numbers, strict=True), zip(*places, strict=True), strict=True))


@given(trainings(), st.sampled_from(KINDS))
@settings(deadline=None)
def test_every_stored_view_of_every_row_comes_once_in_order(training: Training, views: Views) -> None:
    pairs = [(row, number) for row in range(len(training.frames)) for number in range(views.count)]
    assert list(stored_of(training, views)) == pairs


@given(trainings(), st.sampled_from(KINDS), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_a_stored_view_depends_on_its_row_and_number_alone(
    training: Training, views: Views, batch_size: int, random: randoms.Random
) -> None:
    found = stored_of(training, views)
    assert stored_of(training, views, batch_size) == found
    pairs = list(found)
    random.shuffle(pairs)
    rows, numbers = np.array(pairs, np.int64).T
    frames = training.frames[rows]
    shuffled = stored_views(rows, numbers, frames, training.clip, views, frames % 2 == 0)
    places = zip(*(getattr(shuffled, field.name).tolist() for field in fields(Batch)[2:]), strict=True)
    assert dict(zip(pairs, places, strict=True)) == found


@given(trainings(), st.sampled_from(KINDS))
@settings(deadline=None)
def test_every_stored_view_lies_within_its_video(training: Training, views: Views) -> None:
    clip, (low, high) = training.clip, training.clip.short_side
    for (row, _), (start, short_side, x, y, mirror) in stored_of(training, views).items():
        last = start + (clip.frames - 1) * clip.stride
        assert start == 0 or 0 < start <= last < training.frames[row]
        assert low <= short_side <= high
        assert 0 <= x <= 1
        assert 0 <= y <= 1
        assert mirror in ({0, 1} if clip.flip else {0})


@given(trainings(least_rows=6), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_random_views_differ_by_row_number_and_seed_and_from_every_trainings_views(
    training: Training, seed: int
) -> None:
    def crops(seed: int) -> list[tuple[float, ...]]:
        views = Views(kind="random", clips=3, seed=seed)
        return [place[2:4] for place in stored_of(training, views).values()]

    of_trainings = [
        joined(Training(training.frames, training.clip, s, 6).batches(range(3))) for s in (seed, seed + 1)
    ]
    fresh = [
        pair for c in of_trainings for pair in zip(c["crop_x"].tolist(), c["crop_y"].tolist(), strict=True)
    ]
    every = [*crops(seed), *crops(seed + 1)]
    assert len(set(every)) == len(every)
    assert set(every).isdisjoint(fresh)


def test_random_views_cover_their_whole_range_evenly() -> None:
    four = Views(kind="random", clips=4)
    assert_even(joined(evaluation_batches(np.full(1500, 10), SMALL, 500, four)))


def test_clips_of_a_mean_are_spread_over_the_video_and_crops_along_its_long_side() -> None:
    frames, portrait = np.array([47, 47, 5]), np.array([False, True, False])
    views = joined(evaluation_batches(frames, SMALL, 9, Views(kind="mean", clips=4, crops=3), portrait))
    starts = [5] * 3 + [15] * 3 + [25] * 3 + [35] * 3
    assert views["start_frames"].tolist() == starts + starts + [0] * 12
    along, across = [0.0, 0.5, 1.0] * 4, [0.5] * 12
    assert views["crop_x"].tolist() == along + across + along
    assert views["crop_y"].tolist() == across + along + across
    assert set(views["short_sides"].tolist()) == {16}


@given(trainings(), st.integers(0, 5), st.sampled_from([KINDS[0], KINDS[2]]), st.sampled_from(WORLD_SIZES))
@settings(deadline=None)
def test_a_training_on_stored_views_shows_them_as_they_are_stored(
    training: Training, epoch: int, views: Views, world_size: int
) -> None:
    stored = stored_of(training, views)
    for rank in range(world_size):
        for batch in training.batches(range(epoch, epoch + 2), rank, world_size, views):
            columns = [getattr(batch, field.name).tolist() for field in fields(Batch)]
            for row, number, *place in zip(*columns, strict=True):
                assert stored[row, number] == tuple(place)


@given(trainings(), st.integers(0, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_over_as_many_epochs_as_views_a_row_is_shown_in_each_once(
    training: Training, epoch: int, num_views: int
) -> None:
    alone = Training(training.frames, training.clip, training.seed, 1)
    views = Views(kind="random", clips=num_views)
    shown = joined(alone.batches(range(epoch, epoch + num_views), stored=views))
    pairs = set(zip(shown["rows"].tolist(), shown["views"].tolist(), strict=True))
    assert len(pairs) == len(shown["rows"]) == len(training.frames) * num_views
    assert {number for _, number in pairs} == set(range(num_views))


@given(trainings(least_rows=30))
@settings(deadline=None, max_examples=10)
def test_each_row_and_each_seed_of_a_training_has_a_turn_of_its_own(training: Training) -> None:
    views = Views(kind="random", clips=50)
    first, other = (
        joined(Training(training.frames, training.clip, seed, 1).batches(range(1), stored=views))
        for seed in (training.seed, training.seed + 1)
    )
    turns = [dict(zip(c["rows"].tolist(), c["views"].tolist(), strict=True)) for c in (first, other)]
    assert turns[0] != turns[1]
    assert len(set(turns[0].values())) > 5


@given(trainings(), st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_stored_views_change_nothing_of_the_order_of_rows(training: Training, epoch: int) -> None:
    free = joined(training.batches(range(epoch + 1)))
    stored = joined(training.batches(range(epoch + 1), stored=KINDS[2]))
    assert free["rows"].tolist() == stored["rows"].tolist()


def test_the_views_of_earlier_versions_are_the_same_to_the_last_bit() -> None:
    """Trainings and logits that were begun by an earlier version go on: digests of its columns."""
    clip = Clip(frames=8, stride=2, size=32, short_side=(32, 40))
    frames = np.arange(2, 60, dtype=np.int64)
    centres = evaluation_batches(frames, clip, 7)
    free = training_batches(frames, clip, seed=5, epochs=range(3), batch_size=6, rank=1, world_size=2)
    assert [digest(centres), digest(free)] == ["c68413cb646e526a", "b53c9aa9df93c903"]


def digest(batches: Iterable[Batch]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for name in ("rows", "start_frames", "short_sides", "crop_x", "crop_y", "mirror"):
            found.update(getattr(batch, name).tobytes())
    return found.hexdigest()[:16]
