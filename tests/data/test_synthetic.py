"""The miniature ARID: its layout, lists and pixels, and what it does when cut off or asked for nonsense."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.data import figures, synthetic
from ukd_dist.data.synthetic import CLASSES, Video, plan, render, write_dataset, write_lists
from ukd_dist.errors import MismatchError, ResourceError, UsageError

ARID_CLASSES = ["Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave"]
STYLE = figures.Style(
    frames=61, start=0.1, end=0.9, tempo=1, amplitude=1, phase=0.3, heading=1.2, hand=1, x=0
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video a class and split."""
    dest = tmp_path_factory.mktemp("synthetic")
    assert write_dataset(dest, seed=0, train_clips=1, test_clips=1, workers=2) == (11, 11)
    return dest


@pytest.fixture(scope="module")
def luma(dataset: Path) -> dict[str, np.ndarray]:
    """Full-range grey of every video, (T, 240, 320), by file name."""
    return {path.name: _grey(path) for path in sorted(dataset.glob("videos/*/*.mp4"))}


def _grey(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray()[:240] for frame in container.decode(container.streams.video[0])]
    return (np.stack(frames).astype(np.float32) - 16) * 255 / 219


def _joints(action: str, style: figures.Style = STYLE) -> dict[str, np.ndarray]:
    actor = figures.Actor(0.52, 0.43, 0.45, 0.3, 0.29, 0.19, 0.1, 1, 150, 150, 150, 50)
    return figures.skeleton(actor, figures.pose(action, style), style)


def test_the_classes_are_arids_in_its_order() -> None:
    assert list(CLASSES) == ARID_CLASSES


@given(
    train_clips=st.integers(1, 30),
    test_clips=st.integers(1, 30),
    train_groups=st.integers(1, 7),
    test_groups=st.integers(1, 7),
)
def test_a_plan_has_every_class_in_every_group_and_no_group_in_both_splits(
    train_clips: int, test_clips: int, train_groups: int, test_groups: int
) -> None:
    train, test = plan(
        seed=1,
        train_clips=train_clips,
        test_clips=test_clips,
        train_groups=train_groups,
        test_groups=test_groups,
    )
    assert {v.group for v in train} == set(range(1, min(train_clips, train_groups) + 1))
    assert min(v.group for v in test) == train_groups + 1
    for videos, clips in ((train, train_clips), (test, test_clips)):
        by_class = [[(v.group, v.clip) for v in videos if v.label == label] for label in range(11)]
        assert all(deal == by_class[0] and len(set(deal)) == clips for deal in by_class)


def test_more_clips_add_to_the_same_training_videos() -> None:
    few, _ = plan(seed=3, train_clips=7, test_clips=1)
    many, _ = plan(seed=3, train_clips=20, test_clips=1)
    assert set(few) < set(many)


def test_files_are_laid_out_and_named_as_in_arid(dataset: Path) -> None:
    assert Video(label=9, group=3, clip=12, seed=0).path == "Walk/Walk_3_12.mp4"
    found = {path.relative_to(dataset / "videos").as_posix() for path in dataset.glob("videos/**/*.mp4")}
    assert found == {f"{name}/{name}_{group}_1.mp4" for name in ARID_CLASSES for group in (1, 7)}


def test_lists_are_in_arids_format(dataset: Path) -> None:
    train = (dataset / "lists/split0_train.txt").read_text()
    assert train.splitlines()[:2] == ["0\t0\tDrink/Drink_1_1.mp4", "1\t1\tJump/Jump_1_1.mp4"]
    assert (dataset / "lists/split0_test.txt").read_text().endswith("10\t10\tWave/Wave_7_1.mp4\n")
    table = (dataset / "lists/mapping_table.txt").read_text()
    assert table == "".join(f"{label}\t{name}\n" for label, name in enumerate(ARID_CLASSES))


def test_every_listed_video_is_there(dataset: Path) -> None:
    for split in ("train", "test"):
        for line in (dataset / f"lists/split0_{split}.txt").read_text().splitlines():
            _, label, path = line.split("\t")
            assert path.startswith(f"{CLASSES[int(label)]}/")
            assert (dataset / "videos" / path).is_file()


def test_videos_are_h264_of_arids_size_rate_and_length(dataset: Path) -> None:
    for path in dataset.glob("videos/*/*.mp4"):
        with av.open(str(path)) as container:
            (stream,) = container.streams
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (320, 240, 30)
            times = [frame.time for frame in container.decode(stream)]
            np.testing.assert_allclose(times, np.arange(len(times)) / 30, atol=1e-6)
            assert 30 <= len(times) <= 120


@pytest.mark.parametrize("action", ["Run", "Sit"])
def test_lengths_average_about_two_seconds_whatever_the_action(action: str) -> None:
    styles = [synthetic._draw_style(np.random.default_rng(n), action) for n in range(400)]
    assert 1.9 < np.mean([style.frames for style in styles]) / 30 < 2.2


def test_videos_are_as_dark_as_arid(luma: dict[str, np.ndarray]) -> None:
    assert all(12 < video.mean() < 30 for video in luma.values())


def test_noise_survives_encoding_and_changes_from_frame_to_frame(luma: dict[str, np.ndarray]) -> None:
    for video in luma.values():
        assert np.median(np.diff(video, axis=0).std(axis=0)) / np.sqrt(2) > 0.4


def test_files_are_small_but_keep_the_noise(dataset: Path) -> None:
    sizes = [path.stat().st_size / 1024 for path in dataset.glob("videos/*/*.mp4")]
    assert 100 < np.mean(sizes) < 500


def test_groups_look_different_and_clips_of_a_group_alike() -> None:
    def scene(group: int, clip: int) -> np.ndarray:
        pictures = list(render(Video(label=8, group=group, clip=clip, seed=0)))
        return np.asarray(np.mean(pictures, axis=0)[:240] - 16)

    # Clips of a group frame it a little differently: compare what is left at a coarse scale.
    coarse = {key: scene(*key).reshape(6, 40, 8, 40).mean(axis=(1, 3)) for key in [(1, 1), (1, 2), (7, 1)]}
    within = np.abs(coarse[1, 1] - coarse[1, 2]).mean()
    assert np.abs(coarse[1, 1] - coarse[7, 1]).mean() > 2 * within


ALONE = """
import sys
from pathlib import Path
from ukd_dist.data.synthetic import Video, write_video

write_video(Video(label=9, group=1, clip=1, seed=0), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("fill", ["0", "90"])
def test_the_same_video_has_the_same_bytes_whatever_the_memory_held(
    dataset: Path, tmp_path: Path, fill: str
) -> None:
    environment = {**os.environ, "MALLOC_PERTURB_": fill}
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], env=environment, check=True)
    path = "Walk/Walk_1_1.mp4"
    assert (tmp_path / path).read_bytes() == (dataset / "videos" / path).read_bytes()


@pytest.mark.parametrize(
    "other", [Video(9, 1, 2, 0), Video(9, 2, 1, 0), Video(8, 1, 1, 0), Video(9, 1, 1, 1)]
)
def test_any_other_video_has_other_pixels(other: Video) -> None:
    ours, theirs = next(render(Video(9, 1, 1, 0))), next(render(other))
    assert not np.array_equal(ours, theirs)


def test_pictures_are_planar_yuv() -> None:
    picture = next(render(Video(0, 1, 1, 0)))
    assert picture.shape == (360, 320)
    assert picture.dtype == np.uint8
    assert abs(picture[240:].mean() - 128) < 2


@pytest.mark.parametrize("joint", ["hips", "knees", "ankles", "head", "hands"])
def test_sitting_backwards_in_time_is_standing_up(joint: str) -> None:
    sit, stand = _joints("Sit")[joint], _joints("Stand")[joint]
    # What differs is only that nobody stands quite still.
    assert np.abs(sit[::-1] - stand).max() < 0.12
    if joint in ("hips", "head"):
        assert np.abs(sit - stand).max() > 0.3


@pytest.mark.parametrize("action", ARID_CLASSES)
def test_feet_stay_on_the_ground_but_in_jumps_and_strides(action: str) -> None:
    joints = _joints(action)
    sole = np.minimum(joints["ankles"], joints["toes"])[..., 1].min(axis=1)
    highest = {"Jump": 0.4, "Run": 0.13}.get(action, 0.06)
    assert sole.min() >= 0.049
    assert 0.8 * highest < sole.max() < highest


def test_each_action_moves_what_it_is_named_for() -> None:
    def extent(action: str, joint: str, axis: int) -> float:
        path = _joints(action)[joint].reshape(STYLE.frames, -1, 3)[:, 0, axis]
        return float(np.ptp(path))

    assert extent("Run", "head", 0) > 1.15 * extent("Walk", "head", 0) > 1.5
    assert extent("Pick", "head", 1) > 0.7
    assert extent("Sit", "hips", 1) > 0.3
    assert extent("Jump", "hips", 1) > 0.4
    assert extent("Drink", "hands", 1) > 0.5
    assert extent("Wave", "hands", 1) > 0.5
    assert extent("Turn", "head", 1) < 0.05
    drink = _joints("Drink")
    assert np.linalg.norm(drink["tip"] - drink["face"], axis=-1).min() < 0.15


def test_turning_swaps_the_shoulders() -> None:
    shoulders = _joints("Turn", figures.Style(61, 0.1, 0.9, 1, 1, 0.9, 0.1, 1, 0))["shoulders"]
    width = shoulders[:, 0, 0] - shoulders[:, 1, 0]
    assert width[0] > 0.3
    assert width[-1] < -0.3
    assert np.abs(width).min() < 0.05


def test_writing_again_only_adds_what_is_missing(dataset: Path, tmp_path: Path) -> None:
    videos = sorted((dataset / "videos").glob("*/*.mp4"))
    lost, kept = videos[0], videos[1:]
    payload, before = lost.read_bytes(), [path.stat().st_mtime_ns for path in kept]
    lost.unlink()
    cut_off = lost.with_name(f".{lost.name}.0.partial")
    cut_off.write_bytes(b"half")
    calls: list[tuple[int, int]] = []
    write_dataset(
        dataset,
        seed=0,
        train_clips=1,
        test_clips=1,
        workers=2,
        on_progress=lambda *done: calls.append(done),
    )
    assert calls == [(22, 22)]
    assert lost.read_bytes() == payload
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert not cut_off.exists()


KILLED = """
import sys
from pathlib import Path
from ukd_dist.data.synthetic import write_dataset

if __name__ == "__main__":
    write_dataset(Path(sys.argv[1]), seed=0, train_clips=9, test_clips=1, workers=1)
"""


def test_a_killed_run_leaves_whole_videos_no_lists_and_no_workers(tmp_path: Path) -> None:
    script, dest = tmp_path / "write.py", tmp_path / "dest"
    script.write_text(KILLED)
    process = psutil.Popen([sys.executable, str(script), str(dest)])
    _wait_for(lambda: any(dest.glob("videos/*/*.mp4")))
    workers = process.children(recursive=True)
    process.kill()
    process.wait()
    _wait_for(lambda: all(not w.is_running() or w.status() == psutil.STATUS_ZOMBIE for w in workers))
    assert workers
    assert not (dest / "lists").exists()
    assert all(len(_grey(path)) >= 30 for path in dest.glob("videos/*/*.mp4"))


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    def kill_workers(finished: int, total: int) -> None:
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    with pytest.raises(ResourceError, match=r"was killed; expected memory .*; run again, with fewer workers"):
        write_dataset(tmp_path, seed=0, train_clips=1, test_clips=1, workers=1, on_progress=kill_workers)
    assert not (tmp_path / "lists").exists()


def test_a_folder_of_another_seed_is_refused(dataset: Path) -> None:
    with pytest.raises(
        MismatchError, match=r'from \{.*"seed": 0\}; expected \{.*"seed": 1\}; choose another'
    ):
        write_dataset(dataset, seed=1, train_clips=1, test_clips=1)


def test_a_folder_of_other_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos/Walk").mkdir(parents=True)
    with pytest.raises(MismatchError, match="files of another origin"):
        write_dataset(tmp_path, seed=0, train_clips=1, test_clips=1)
    assert not (tmp_path / "synthetic.json").exists()


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("train_clips", 0, 1),
        ("test_clips", -1, 1),
        ("train_groups", 0, 1),
        ("test_groups", 0, 1),
        ("seed", -1, 0),
    ],
)
def test_an_impossible_plan_says_what_it_needs(name: str, value: int, least: int) -> None:
    arguments = {"seed": 0, "train_clips": 1, "test_clips": 1, name: value}
    with pytest.raises(UsageError) as raised:
        plan(**arguments)
    assert (
        str(raised.value)
        == f"{name} of a synthetic dataset is {value}; expected at least {least}; raise {name}"
    )


def test_no_workers_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"workers .* is 0; expected at least 1; raise workers"):
        write_dataset(tmp_path / "dest", seed=0, train_clips=1, test_clips=1, workers=0)
    assert not (tmp_path / "dest").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ResourceError, match=r"cannot write .*file/lists.*; expected a writable folder .*; make room"
    ):
        write_lists([Video(0, 1, 1, 0)], [], tmp_path / "file" / "lists")


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, ukd_dist.data.synthetic as s; print(*{'torch', 'ray', 'nvidia'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"
