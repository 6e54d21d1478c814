"""What loading.py compares with: other libraries' ways from H.264 to the same clip, each on one core.

A clip is the `wanted` frames of a video, resized with OpenCV (PyTorchVideo's with torch, as it does), cropped
in the centre, corrected and normalised: float32 `[3, frames, size, size]`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
import webdataset

from ukd_dist.clip_config import Clip
from ukd_dist.data.clips import RGB_MEAN, RGB_STD


def with_webdataset(tar: Path, wanted: Iterable[np.ndarray], clip: Clip) -> Iterator[torch.Tensor]:
    """The clips of a tar's videos, in its order and over again; PyAV decodes them."""
    samples = webdataset.WebDataset([str(tar)], shardshuffle=False, empty_check=False).repeat()
    for frames, sample in zip(wanted, samples, strict=False):
        yield finish(decoded(sample["rgb.mp4"], frames, in_rgb=True), clip)


def decoded(video: bytes, wanted: np.ndarray, *, in_rgb: bool) -> list[np.ndarray]:
    """The wanted frames, by decoding from the video's start; what is skipped is not converted."""
    kept: dict[int, Any] = {}
    with av.open(io.BytesIO(video)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                planes = frame.to_ndarray() if in_rgb else frame
                kept[number] = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420) if in_rgb else frame
            if number == wanted[-1]:
                break
    return [kept[number] for number in wanted]


def finish(frames: Iterable[np.ndarray], clip: Clip) -> torch.Tensor:
    """The clip of decoded frames, uint8 `[height, width, 3]`."""
    made = []
    for frame in frames:
        scale = clip.size / min(frame.shape[:2])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        top, left = ((length - clip.size) // 2 for length in small.shape[:2])
        made.append(small[top : top + clip.size, left : left + clip.size])
    clip_tchw = torch.from_numpy(np.stack(made)).permute(3, 0, 1, 2).float().div_(255)
    return clip_tchw.pow_(1 / clip.gamma).sub_(RGB_MEAN).div_(RGB_STD).contiguous()


def with_decord(video: bytes, wanted: np.ndarray, clip: Clip) -> torch.Tensor:
    import decord

    reader = decord.VideoReader(io.BytesIO(video), num_threads=1)
    return finish(reader.get_batch(wanted).asnumpy(), clip)


def with_torchcodec(video: bytes, wanted: np.ndarray, clip: Clip) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1)
    return finish(decoder.get_frames_at(wanted.tolist()).data.numpy(), clip)


def with_pytorchvideo(video: bytes, wanted: np.ndarray, clip: Clip, fps: float) -> torch.Tensor:
    from pytorchvideo.data.encoded_video_pyav import EncodedVideoPyAV

    opened = EncodedVideoPyAV(io.BytesIO(video), decode_audio=False)
    found = opened.get_clip(wanted[0] / fps, (wanted[-1] + 1) / fps)["video"]
    chosen = found[:, torch.linspace(0, found.shape[1] - 1, clip.frames).long()]
    scale = clip.size / min(chosen.shape[-2:])
    size = [round(length * scale) for length in chosen.shape[-2:]]
    small = torch.nn.functional.interpolate(chosen, size=size, mode="bilinear", align_corners=False)
    top, left = ((length - clip.size) // 2 for length in size)
    cropped = small[..., top : top + clip.size, left : left + clip.size] / 255
    return cropped.pow_(1 / clip.gamma).sub_(RGB_MEAN).div_(RGB_STD)
