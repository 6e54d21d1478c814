"""A planned video becomes pictures, and the pictures the bytes of an H.264 file."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np

from ukd_dist.data.synthetic.bodies import person, skeleton
from ukd_dist.data.synthetic.drawing import HEIGHT, WIDTH, Frame, draw_frames
from ukd_dist.data.synthetic.planning import Video
from ukd_dist.data.synthetic.poses import pose
from ukd_dist.data.synthetic.scenes import draw_scene, draw_things
from ukd_dist.data.synthetic.style import FPS, draw_style

# crf 18 keeps four fifths of the sensor's noise or more. The bytes depend on the pictures alone with one
# thread, with no code for one kind of processor, and without the macroblock tree, whose AVX-512 code (x264
# core 165) reads memory that nobody wrote: under another MALLOC_PERTURB_ it gives other bytes.
_ENCODER = {
    "preset": "superfast",
    "crf": "18",
    "threads": "1",
    "x264-params": "cpu-independent=1:mbtree=0",
}


def render(video: Video) -> Iterator[Frame]:
    """Draw a video.

    Yields:
        Planar YUV 4:2:0 pictures of limited range, uint8 (360, 320): 240 rows of luma, 60 of Cb, 60 of Cr.
    """
    scene = draw_scene(np.random.default_rng([video.seed, video.group]))
    rng = np.random.default_rng([video.seed, video.group, video.label, video.clip])
    style = draw_style(rng, video.class_name)
    at = skeleton(scene.actor, pose(video.class_name, style), style)
    solids = [*person(scene.actor, at), *draw_things(rng, video.class_name, style, at)]
    yield from draw_frames(scene, solids, style.frames, rng)


def encode(frames: Iterator[Frame]) -> bytes:
    """Return a file in MP4 whose bytes depend on the pictures alone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()
