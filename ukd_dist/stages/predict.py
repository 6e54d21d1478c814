"""Videos from anywhere, classified by a finished network.

A video is stored in memory exactly as sharding stores it and goes the way of evaluation's clips from there
on: a test video gets the logits that evaluation has of it. Videos are stored on several threads, a little
ahead of the network, so that memory does not grow with their number. Nothing is written.
"""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from ukd_dist.data.clips import EncodedBatch, decode
from ukd_dist.data.components import encode_sample
from ukd_dist.data.modalities import stored_codec
from ukd_dist.data.shards import Sample
from ukd_dist.data.sources.lists import VIDEO_SUFFIXES
from ukd_dist.data.streams import check_cpu_decodes, copy_stream
from ukd_dist.data.video import probe
from ukd_dist.data.videofacts import stored_size
from ukd_dist.data.views import stored_views
from ukd_dist.errors import DataError, ResourceError, UkdError, UsageError, file_error
from ukd_dist.training.trained import Trained, TrainedNetwork, load_network

_TOP = 5

DeviceName = Literal["auto", "cpu", "cuda"]
OnUnreadable = Callable[[Path, UkdError], None]


@dataclass(frozen=True)
class Share:
    """A class and its probability."""

    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a network says of a video.

    Attributes:
        video: Its path as it was given.
        top: The likeliest classes, the likeliest first.
    """

    video: str
    top: tuple[Share, ...]


@dataclass(frozen=True)
class _Stored:
    """A video as shards hold it; `number` is its place among all that were asked for."""

    number: int
    component: npt.NDArray[np.uint8]
    frames: int
    height: int
    width: int


def predict(
    directory: Path,
    places: Sequence[str],
    *,
    device: DeviceName = "auto",
    decode_on: DeviceName = "auto",
    batch_size: int | None = None,
    on_unreadable: OnUnreadable,
) -> Iterator[Prediction]:
    """Classify videos in their order.

    Args:
        directory: A finished student or teacher.
        places: Videos, folders and patterns.
        device: What the network runs on; auto: a GPU where there is one.
        decode_on: What decodes clips; auto: as `device`.
        batch_size: Clips that the network is given at once; None: as evaluation does.
        on_unreadable: Told of every video that cannot be read; the others go on.

    Yields:
        What is said of each video that can be read.

    Raises:
        UsageError: There is no network, or nothing to classify.
        ResourceError: There is no GPU, but one is asked for.
    """
    paths = find_videos(places)
    chosen = _device(device)
    network = load_network(directory).to(chosen)
    decoder = chosen if decode_on == "auto" else _device(decode_on)
    for number, logits_c in infer_videos(network, paths, chosen, decoder, batch_size, on_unreadable):
        yield Prediction(str(paths[number]), rank(logits_c, network.classes))


def find_videos(places: Sequence[str]) -> list[Path]:
    """The files that are named, those below folders, and those that patterns fit; each once.

    Of folders only what looks like a video by its suffix, by name; hidden files are passed over.

    Raises:
        UsageError: A folder or pattern gives nothing.
    """
    found: dict[Path, None] = {}
    for place in places:
        named = [Path(place)]
        if glob.has_magic(place) and not named[0].exists():
            # Path.glob takes no absolute pattern.
            named = [Path(name) for name in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207
        paths = [file for path in named for file in (_below(path) if path.is_dir() else [path])]
        if not paths:
            raise UsageError(
                f"no video in {place}",
                expected=f"files that end in {', '.join(VIDEO_SUFFIXES)}",
                action="name videos, folders of them, or patterns in quotes",
            )
        found.update(dict.fromkeys(paths))
    return list(found)


def infer_videos(
    network: TrainedNetwork,
    paths: Sequence[Path],
    device: torch.device,
    decoder: torch.device,
    batch_size: int | None,
    on_unreadable: OnUnreadable,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Logits, float32 `[classes]` on the CPU, of each video that can be read, with its number in `paths`.

    They are those that evaluation stores: of the student's centre, or of a teacher's views their mean.
    """
    trained = network.trained
    settings, views = trained.settings, trained.views
    size, threads = batch_size or settings.batch_size, len(os.sched_getaffinity(0))
    stored = _readable(partial(_store, trained, decoder), paths, threads, on_unreadable)
    seen: list[torch.Tensor] = []
    for clips_bcthw, numbers_b, _ in decode(
        _batches(stored, trained, size),
        settings.modality,
        settings.clip,
        batch_size=size,
        flow_bound=trained.encoding.flow_bound,
        device=device,
        decoder=decoder,
        codec=stored_codec(settings.modality, trained.codec),
        num_threads=threads,
    ):
        with torch.inference_mode():
            logits_bc = network(clips_bcthw).float().cpu()
        for number, logits_c in zip(numbers_b.tolist(), logits_bc, strict=True):
            seen.append(logits_c)
            if len(seen) == views.count:
                yield number, torch.stack(seen).double().mean(dim=0).float()
                seen = []


def rank(logits_c: torch.Tensor, classes: Sequence[str]) -> tuple[Share, ...]:
    """The five classes of the greatest probability; all of them where there are fewer."""
    probs, labels = logits_c.double().softmax(dim=0).topk(min(_TOP, len(classes)))
    return tuple(Share(classes[c], p) for c, p in zip(labels.tolist(), probs.tolist(), strict=True))


def _below(folder: Path) -> list[Path]:
    """The videos below a folder, by name."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return sorted(
        path
        for path in files
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _device(name: DeviceName) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ResourceError(
            "a GPU is asked for, and this machine has none that torch can use",
            expected="cpu, or auto",
            action="see `ukd doctor`",
        )
    return torch.device("cuda", 0) if there and name != "cpu" else torch.device("cpu")


def _readable(
    store: Callable[[int, Path], _Stored], paths: Sequence[Path], threads: int, on_unreadable: OnUnreadable
) -> Iterator[_Stored]:
    """Every video that can be stored, in order; some are being stored while one is waited for."""
    pending: deque[tuple[Path, Future[_Stored]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number, path in enumerate(paths):
            pending.append((path, pool.submit(store, number, path)))
            if len(pending) > 2 * threads:
                yield from _outcome(*pending.popleft(), on_unreadable)
        while pending:
            yield from _outcome(*pending.popleft(), on_unreadable)


def _outcome(path: Path, stored: Future[_Stored], on_unreadable: OnUnreadable) -> Iterator[_Stored]:
    """The stored video, or nothing where it cannot be read."""
    try:
        yield stored.result()
    except DataError as error:
        on_unreadable(path, error)
    except OSError as error:
        on_unreadable(path, file_error(error))


def _store(trained: Trained, decoder: torch.device, number: int, path: Path) -> _Stored:
    """One video as the shards would hold it."""
    info = probe(path)
    width, height = stored_size(info.width, info.height, trained.encoding.short_side)
    sample = Sample("test", number, path.stem, 0, "", "", info.frames, info.fps, width, height)
    component = np.frombuffer(_component(trained, decoder, sample, path), np.uint8)
    return _Stored(number, component, info.frames, height, width)


def _component(trained: Trained, decoder: torch.device, sample: Sample, path: Path) -> bytes:
    """The bytes that the shards would hold; what cannot be copied, or not decoded there, as lossless VP9."""
    modality, encoding, codec = trained.settings.modality, trained.encoding, trained.codec
    if stored_codec(modality, codec) == "copy":
        try:
            stream = copy_stream(path, sample.frames)
            if decoder.type == "cpu":
                check_cpu_decodes(np.frombuffer(stream, np.uint8), str(path))
            return stream
        except UkdError:
            encoding, codec = encoding.model_copy(update={"crf_rgb": 0}), "vp9"
    (made,) = encode_sample(sample, path, (modality,), encoding, codec).values()
    return made


def _batches(stored: Iterable[_Stored], trained: Trained, batch_size: int) -> Iterator[EncodedBatch]:
    """Every view of every video, a video's together, as evaluation shows them."""
    views = trained.views
    clips = ((video, view) for video in stored for view in range(views.count))
    while batch := list(islice(clips, batch_size)):
        frames = np.array([video.frames for video, _ in batch])
        sizes = np.array([(video.height, video.width) for video, _ in batch])
        numbers = np.array([video.number for video, _ in batch])
        shown = stored_views(
            numbers,
            np.array([view for _, view in batch]),
            frames,
            trained.settings.clip,
            views,
            sizes[:, 0] > sizes[:, 1],
        )
        yield EncodedBatch([video.component for video, _ in batch], frames, sizes, shown)
