"""A miniature ARID: `ukd synth` plans its videos, draws them and writes them in ARID's own layout.

It stands before the way of the data: what it writes is read as any dataset is. Appearance and motion each
tell a part of the answer: things that belong to an action also stand about in others, every recording group
shows every action, and lengths, light, places and bodies are drawn without regard to the action. The drawing
itself is in `figures`.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from ukd_dist.data import figures
from ukd_dist.errors import MismatchError, ResourceError, UsageError
from ukd_dist.manifest import write_atomically

CLASSES = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")

_DRAWING = 1  # to be raised when the same `Video` comes to be drawn otherwise
# crf 18 keeps four fifths of the sensor's noise or more. The bytes depend on the pictures alone with one
# thread, with no code for one kind of processor, and without the macroblock tree, whose AVX-512 code (x264
# core 165) reads memory that nobody wrote: under another MALLOC_PERTURB_ it gives other bytes.
_ENCODER = {
    "preset": "superfast",
    "crf": "18",
    "threads": "1",
    "x264-params": "cpu-independent=1:mbtree=0",
}
# Degrees away from the camera, to either side: an arm waved sideways cannot be seen in profile.
_HEADINGS = {
    "Pick": (25, 100),
    "Push": (55, 115),
    "Run": (55, 115),
    "Turn": (0, 180),
    "Walk": (55, 115),
    "Wave": (0, 55),
}
_LENGTHS = {
    "torso": 0.52,
    "thigh": 0.43,
    "shank": 0.45,
    "upper": 0.30,
    "fore": 0.29,
    "shoulder": 0.19,
    "hip": 0.10,
}


@dataclass(frozen=True)
class Video:
    """Everything that determines a video's pixels.

    Attributes:
        label: Index of the class in `CLASSES`.
        group: Recording group (actor and place), from 1.
        clip: Number within the class and group, from 1.
        seed: Seed of the dataset.
    """

    label: int
    group: int
    clip: int
    seed: int

    @property
    def class_name(self) -> str:
        """The class."""
        return CLASSES[self.label]

    @property
    def path(self) -> str:
        """The path within the videos' folder, as in ARID: `Walk/Walk_3_12.mp4`."""
        return f"{self.class_name}/{self.class_name}_{self.group}_{self.clip}.mp4"


def plan(
    *, seed: int, train_clips: int, test_clips: int, train_groups: int = 6, test_groups: int = 4
) -> tuple[list[Video], list[Video]]:
    """Plan a dataset.

    Args:
        seed: Decides every group and clip: more clips of the same seed add to the same videos.
        train_clips: Training videos a class.
        test_clips: Test videos a class.
        train_groups: Groups over which the training videos are spread, numbered from 1.
        test_groups: Groups of the test videos, numbered after those.

    Returns:
        Training and test videos, by class, group and clip.

    Raises:
        UsageError: A count is below 1, or the seed below 0.
    """
    _require("seed", seed, 0)
    counts = {"train_clips": train_clips, "test_clips": test_clips}
    groups = {"train_groups": train_groups, "test_groups": test_groups}
    for name, value in (counts | groups).items():
        _require(name, value, 1)
    test = _spread(seed, test_clips, train_groups + 1, test_groups)
    return _spread(seed, train_clips, 1, train_groups), test


def _require(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(
            f"{name} of a synthetic dataset is {value}", expected=f"at least {least}", action=f"raise {name}"
        )


def _spread(seed: int, clips: int, first_group: int, groups: int) -> list[Video]:
    """Deal a class's clips out to the groups in turn, to the same ones for every class."""
    dealt = sorted((first_group + n % groups, 1 + n // groups) for n in range(clips))
    return [Video(label, group, clip, seed) for label in range(len(CLASSES)) for group, clip in dealt]


def render(video: Video) -> Iterator[figures.Frame]:
    """Draw a video.

    Yields:
        Planar YUV 4:2:0 pictures of limited range, uint8 (360, 320): 240 rows of luma, 60 of Cb, 60 of Cr.
    """
    scene = _draw_scene(np.random.default_rng([video.seed, video.group]))
    rng = np.random.default_rng([video.seed, video.group, video.label, video.clip])
    style = _draw_style(rng, video.class_name)
    at = figures.skeleton(scene.actor, figures.pose(video.class_name, style), style)
    solids = [*figures.person(scene.actor, at), *_draw_things(rng, video.class_name, style, at)]
    yield from figures.frames(scene, solids, style.frames, rng)


def _draw_style(rng: np.random.Generator, action: str) -> figures.Style:
    """Draw how a clip performs its action; how long it lasts does not depend on which."""
    frames = int(np.clip(rng.lognormal(np.log(1.95), 0.32), 1, 4) * figures.FPS)
    share = min(rng.uniform(0.65, 0.95), 2.4 * figures.FPS / frames)
    start = rng.uniform(0, 1 - share)
    heading = np.radians(rng.uniform(*_HEADINGS.get(action, (15, 90)))) * rng.choice([-1, 1])
    return figures.Style(
        frames=frames,
        start=start,
        end=start + share,
        tempo=rng.uniform(0.8, 1.25),
        amplitude=rng.uniform(0.8, 1.15),
        phase=rng.uniform(0, 1),
        heading=float(heading),
        hand=int(rng.choice([-1, 1])),
        x=rng.uniform(-0.45, 0.45),
    )


def _draw_scene(rng: np.random.Generator) -> figures.Scene:
    """Draw what a recording group shares."""
    actor = figures.Actor(
        **{name: mean * rng.uniform(0.93, 1.07) for name, mean in _LENGTHS.items()},
        girth=rng.uniform(0.85, 1.3),
        shirt=_shade(rng),
        trousers=_shade(rng),
        skin=rng.uniform(140, 205),
        hair=rng.uniform(25, 60),
    )
    pixels_per_metre = rng.uniform(140, 190) / 1.75
    camera = figures.Camera(
        pixels_per_metre, rng.uniform(210, 238), height=rng.uniform(0.7, 1.9), distance=rng.uniform(4.5, 8)
    )
    return figures.Scene(
        actor,
        camera,
        figures.paint_backdrop(rng, camera.row_at(-rng.uniform(1, 4))),
        light=rng.uniform(15, 25),
        noise=rng.uniform(0.7, 1.5),
        falloff=rng.uniform(0.2, 0.6),
        tint=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
    )


def _shade(rng: np.random.Generator) -> float:
    """Draw an albedo well apart from a backdrop's mean of 110."""
    return float(rng.uniform(30, 68) if rng.random() < 0.5 else rng.uniform(155, 225))


def _draw_things(
    rng: np.random.Generator, action: str, style: figures.Style, at: dict[str, figures.Floats]
) -> list[figures.Solid]:
    """Draw the things an action needs, and others that only stand about or are carried along."""
    shade, usual = _shade(rng), bool(rng.random() < 0.75)
    facing = np.array([np.sin(style.heading), 0, np.cos(style.heading)])
    feet, hips = (at[joint].mean(axis=1) * [1, 0, 1] for joint in ("ankles", "hips"))
    solids = _bystanders(rng, style.x)
    if action in ("Sit", "Stand"):
        solids += figures.furniture(
            "chair" if usual else "crate", feet[:1] - 0.4 * facing, style.heading, shade
        )
    elif action == "Push":
        reach = 0.3 + float((at["hands"][-1].mean(axis=0) - hips[-1]) @ facing)
        solids += figures.furniture("box" if usual else "chair", hips + reach * facing, style.heading, shade)
    elif action == "Pour" and rng.random() < 0.6:
        solids += figures.furniture("table", feet[:1] + 0.75 * facing, style.heading, _shade(rng))
    needed = action in ("Drink", "Pour", "Pick")
    if needed or (action != "Push" and rng.random() < 0.35):
        solids.append(_vessel(at, shade, large=usual == (action != "Drink"), lying=action == "Pick"))
    return solids


def _bystanders(rng: np.random.Generator, x: float) -> list[figures.Solid]:
    """Draw up to two things that stand behind and beside the person."""
    solids: list[figures.Solid] = []
    for _ in range(rng.integers(3)):
        place = np.array([[x + rng.choice([-1, 1]) * rng.uniform(0.5, 1.5), 0, -rng.uniform(0.3, 1.2)]])
        kind = str(rng.choice(list(figures.FURNITURE)))
        solids += figures.furniture(kind, place, rng.uniform(-3, 3), _shade(rng))
    return solids


def _vessel(at: dict[str, figures.Floats], shade: float, *, large: bool, lying: bool) -> figures.Solid:
    """Return a jug or a cup in the working hand; a lying one is there when the hand first reaches lowest."""
    ends = {end: at[end].copy() for end in ("base", "tip")}
    if lying:
        touch = int(np.argmin(ends["base"][:, 1]))
        for points in ends.values():
            points[:touch] = points[touch]
    return figures.held(ends, 0.085 if large else 0.05, shade)


def write_video(video: Video, videos_dir: Path) -> Path:
    """Draw and encode a video: H.264 in MP4, 320x240, 30 frames a second, the same bytes for the same video.

    Returns:
        The file, which exists only when it is complete.

    Raises:
        ResourceError: The file cannot be written.
    """
    path = videos_dir / video.path
    _write(path, _encode(render(video)))
    return path


def _encode(frames: Iterator[figures.Frame]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=figures.FPS, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = figures.WIDTH, figures.HEIGHT, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write(path: Path, payload: bytes) -> None:
    try:
        write_atomically(path, payload)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path} ({error.strerror or error})",
            expected="a writable folder on a disk with free space",
            action="make room or choose another folder, and run again: finished videos are kept",
        ) from error


def write_lists(train: Sequence[Video], test: Sequence[Video], lists_dir: Path) -> None:
    """Write `split0_train.txt` and `split0_test.txt` in ARID v1.0's format, and `mapping_table.txt`.

    Raises:
        ResourceError: A file cannot be written.
    """
    table = "".join(f"{label}\t{name}\n" for label, name in enumerate(CLASSES))
    _write(lists_dir / "mapping_table.txt", table.encode())
    for split, videos in {"train": train, "test": test}.items():
        lines = [f"{row}\t{video.label}\t{video.path}\n" for row, video in enumerate(videos)]
        _write(lists_dir / f"split0_{split}.txt", "".join(lines).encode())


def write_dataset(
    dest: Path,
    *,
    seed: int,
    train_clips: int,
    test_clips: int,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write `dest/videos`, then `dest/lists`; a video that is there already is not drawn again.

    Args:
        dest: Folder of the dataset.
        seed: Seed of the dataset.
        train_clips: Training videos a class.
        test_clips: Test videos a class.
        workers: Processes; None for as many as the machine has processors.
        on_progress: Called with the numbers of finished and of all videos.

    Returns:
        The numbers of training and test videos.

    Raises:
        UsageError: An argument is impossible.
        MismatchError: The folder holds videos of another seed, or of another origin.
        ResourceError: A file cannot be written, or a worker process was killed.
    """
    train, test = plan(seed=seed, train_clips=train_clips, test_clips=test_clips)
    workers = (os.cpu_count() or 1) if workers is None else workers
    _require("workers", workers, 1)
    _claim(dest, seed)
    _write_missing([*train, *test], dest / "videos", workers, on_progress or (lambda _finished, _total: None))
    write_lists(train, test, dest / "lists")
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
