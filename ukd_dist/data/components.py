"""A video becomes the components of its sample: its file is decoded once, and every modality's writer fed.

What each writer makes of the frames is `modalities`', where the components are stored is `shards`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ukd_dist.data.modalities import component
from ukd_dist.data.shards import Sample
from ukd_dist.data.streams import copy_stream
from ukd_dist.data.video import read_frames
from ukd_dist.data.writers import open_writer
from ukd_dist.data_config import Codec, Encoding, Modality
from ukd_dist.errors import DataError


def encode_sample(
    sample: Sample,
    path: Path,
    modalities: Sequence[Modality],
    encoding: Encoding,
    codec: Codec = "vp9",
) -> dict[str, bytes]:
    """Every component of a video's sample; the video is decoded once, or not at all where rgb is copied.

    Raises:
        RejectedVideoError: The video cannot be decoded.
        DataError: It holds another number of frames than when it was probed, or cannot be copied.
    """
    if codec == "copy" and "rgb" in modalities:
        made = [modality for modality in modalities if modality != "rgb"]
        copied = copy_stream(path, sample.frames)
        others = encode_sample(sample, path, made, encoding) if made else {}
        return {component("rgb", codec): copied, **others}
    size = (sample.width, sample.height)
    writers = {modality: open_writer(modality, *size, sample.fps, encoding, codec) for modality in modalities}
    frames = 0
    for frame in read_frames(path, *size):
        frames += 1
        for writer in writers.values():
            writer.write(frame)
    if frames != sample.frames:
        raise DataError(
            f"{path} changed while it was sharded: {frames} frames",
            expected=f"{sample.frames}",
            action="run again when nothing writes to the videos",
        )
    return {component(modality, codec): writer.finish() for modality, writer in writers.items()}
