"""The folder: ARID's layout and lists, and what it does when cut off or asked for nonsense."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import psutil
import pytest

from ukd_dist.data.synthetic import CLASSES, Video, write_dataset, write_lists
from ukd_dist.errors import MismatchError, ResourceError, UsageError


def test_files_are_laid_out_as_in_arid(dataset: Path) -> None:
    found = {path.relative_to(dataset / "videos").as_posix() for path in dataset.glob("videos/**/*.mp4")}
    assert found == {f"{name}/{name}_{group}_1.mp4" for name in CLASSES for group in (1, 7)}


def test_lists_are_in_arids_format(dataset: Path) -> None:
    train = (dataset / "lists/split0_train.txt").read_text()
    assert train.splitlines()[:2] == ["0\t0\tDrink/Drink_1_1.mp4", "1\t1\tJump/Jump_1_1.mp4"]
    assert (dataset / "lists/split0_test.txt").read_text().endswith("10\t10\tWave/Wave_7_1.mp4\n")
    table = (dataset / "lists/mapping_table.txt").read_text()
    assert table == "".join(f"{label}\t{name}\n" for label, name in enumerate(CLASSES))


def test_every_listed_video_is_there(dataset: Path) -> None:
    for split in ("train", "test"):
        for line in (dataset / f"lists/split0_{split}.txt").read_text().splitlines():
            _, label, path = line.split("\t")
            assert path.startswith(f"{CLASSES[int(label)]}/")
            assert (dataset / "videos" / path).is_file()


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
    assert all(_num_frames(path) >= 30 for path in dest.glob("videos/*/*.mp4"))


def _num_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


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


def test_no_workers_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"workers .* is 0; expected at least 1; raise workers"):
        write_dataset(tmp_path / "dest", seed=0, train_clips=1, test_clips=1, workers=0)
    assert not (tmp_path / "dest").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ResourceError, match=r"cannot write .*file/lists.*; expected a writable folder .*; make room"
    ):
        write_lists([([Video(0, 1, 1, 0)], [])], tmp_path / "file" / "lists")


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, ukd_dist.data.synthetic as s; print(*{'torch', 'ray', 'nvidia'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"
