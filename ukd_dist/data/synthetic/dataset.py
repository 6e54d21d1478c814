"""A folder in ARID's layout: videos, written by worker processes, and their lists.

The lists come last and every file appears whole: a run that was cut off is taken up where it ended.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2

from ukd_dist.data.synthetic.planning import CLASSES, Division, Video, divide, plan, require_at_least
from ukd_dist.data.synthetic.videos import encode, render
from ukd_dist.errors import MismatchError, ResourceError
from ukd_dist.manifest import write_atomically

_DRAWING = 1  # to be raised when the same `Video` comes to be drawn otherwise


def write_dataset(
    dest: Path,
    *,
    seed: int,
    train_clips: int,
    test_clips: int,
    splits: int = 1,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write `dest/videos`, then `dest/lists`; a video that is there already is not drawn again.

    Args:
        dest: Folder of the dataset.
        seed: Seed of the dataset.
        train_clips: Training videos a class.
        test_clips: Test videos a class.
        splits: Divisions of these videos into training and test that are listed.
        workers: Processes; None for as many as the machine has processors.
        on_progress: Called with the numbers of finished and of all videos.

    Returns:
        The numbers of training and test videos of split0.

    Raises:
        UsageError: An argument is impossible.
        MismatchError: The folder holds videos of another seed, or of another origin.
        ResourceError: A file cannot be written, or a worker process was killed.
    """
    train, test = plan(seed=seed, train_clips=train_clips, test_clips=test_clips)
    divisions = divide(train, test, splits)
    workers = (os.cpu_count() or 1) if workers is None else workers
    require_at_least("workers", workers, 1)
    _claim(dest, seed)
    _write_missing([*train, *test], dest / "videos", workers, on_progress or (lambda _finished, _total: None))
    write_lists(divisions, dest / "lists")
    return len(train), len(test)


def _claim(dest: Path, seed: int) -> None:
    """Note in the folder what its videos are made from, or refuse it where they are something else."""
    note, ours = dest / "synthetic.json", json.dumps({"drawing": _DRAWING, "seed": seed})
    theirs = ours
    if note.exists():
        theirs = note.read_text(encoding="utf-8", errors="replace").strip()
    elif any((dest / "videos").glob("*")):
        theirs = "files of another origin"
    if theirs != ours:
        raise MismatchError(
            f"{dest} holds videos made from {theirs}",
            expected=ours,
            action="choose another folder, or remove this one",
        )
    for cut_off in (dest / "videos").glob("*/.*.partial"):
        cut_off.unlink(missing_ok=True)
    _write(note, f"{ours}\n".encode())


def _write_missing(
    videos: Sequence[Video], videos_dir: Path, workers: int, on_progress: Callable[[int, int], None]
) -> None:
    missing = [video for video in videos if not (videos_dir / video.path).exists()]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(missing) or 1), context, initializer=_start_worker)
    try:
        futures = [pool.submit(write_video, video, videos_dir) for video in missing]
        for finished, future in enumerate(as_completed(futures), start=len(videos) - len(missing) + 1):
            future.result()
            on_progress(finished, len(videos))
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a process that wrote videos to {videos_dir} was killed",
            expected="memory for every worker",
            action="run again, with fewer workers if it recurs: finished videos are kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Keep to one core, leave Ctrl-C to the parent, and end with it: a killed one cannot end its pool."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def write_video(video: Video, videos_dir: Path) -> Path:
    """Draw and encode a video: H.264 in MP4, 320x240, 30 frames a second, the same bytes for the same video.

    Returns:
        The file, which exists only when it is complete.

    Raises:
        ResourceError: The file cannot be written.
    """
    path = videos_dir / video.path
    _write(path, encode(render(video)))
    return path


def write_lists(divisions: Sequence[Division], lists_dir: Path) -> None:
    """Write `split0_train.txt`, `split0_test.txt`, ... in ARID v1.0's format, and `mapping_table.txt`.

    Raises:
        ResourceError: A file cannot be written.
    """
    table = "".join(f"{label}\t{name}\n" for label, name in enumerate(CLASSES))
    _write(lists_dir / "mapping_table.txt", table.encode())
    for number, division in enumerate(divisions):
        for kind, videos in zip(("train", "test"), division, strict=True):
            lines = [f"{row}\t{video.label}\t{video.path}\n" for row, video in enumerate(videos)]
            _write(lists_dir / f"split{number}_{kind}.txt", "".join(lines).encode())


def _write(path: Path, payload: bytes) -> None:
    try:
        write_atomically(path, payload)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path} ({error.strerror or error})",
            expected="a writable folder on a disk with free space",
            action="make room or choose another folder, and run again: finished videos are kept",
        ) from error
