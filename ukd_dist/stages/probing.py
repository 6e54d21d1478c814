"""Which of the listed videos can be used: each is decoded once, in tasks; the others go into rejects.jsonl.

Left out: what is made of those that can, which is `shard`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist import manifest
from ukd_dist.cluster import Job
from ukd_dist.data.sources import ListedVideo
from ukd_dist.data.videofacts import RejectedVideoError, VideoInfo
from ukd_dist.errors import DataError
from ukd_dist.rundir import REJECTS
from ukd_dist.stages.context import Context

_PROBES_PER_TASK = 32


@dataclass(frozen=True)
class Verdict:
    """What probing one video showed: its figures, or the reason of its rejection."""

    video: ListedVideo
    info: VideoInfo | None
    reason: str = ""
    detail: str = ""


def probe_all(context: Context, videos: Sequence[ListedVideo]) -> list[Verdict]:
    """What each video showed, in their order.

    Raises:
        UkdError: What a task raised.
    """
    chunks = [videos[i : i + _PROBES_PER_TASK] for i in range(0, len(videos), _PROBES_PER_TASK)]
    jobs = [Job(f"probe-{i}", probe_videos, (chunk,)) for i, chunk in enumerate(chunks)]
    found: dict[str, Verdict] = {}
    with context.progress.bar("probing", len(videos), "videos") as bar:
        for outcome in context.cluster.run(jobs):
            if outcome.error is not None:
                raise outcome.error
            found.update({verdict.video.key: verdict for verdict in outcome.value})
            bar.update(len(found))
    return [found[video.key] for video in videos]


def probe_videos(videos: Sequence[ListedVideo]) -> list[Verdict]:
    """Decode each video once (a Ray task)."""
    from ukd_dist.data.video import probe

    verdicts = []
    for video in videos:
        try:
            verdicts.append(Verdict(video, probe(video.path)))
        except RejectedVideoError as error:
            verdicts.append(Verdict(video, None, error.reason, error.detail))
    return verdicts


def write_rejects(directory: Path, rejects: Sequence[Verdict]) -> None:
    """Write rejects.jsonl: a line a rejected video, with its reason."""
    lines = [
        json.dumps({"key": v.video.key, "file": v.video.path.name, "reason": v.reason, "detail": v.detail})
        for v in rejects
    ]
    manifest.write_atomically(directory / REJECTS, "".join(line + "\n" for line in lines).encode())


def check_rejects(rejects: Sequence[Verdict], listed: int, allowed: float, directory: Path) -> None:
    """Refuse a set of which too much is lost.

    Args:
        rejects: The videos that cannot be used.
        listed: Number of videos in the lists.
        allowed: Largest share of them that may be rejected.
        directory: Where rejects.jsonl lies.

    Raises:
        DataError: More are rejected.
    """
    if len(rejects) > allowed * listed:
        first = rejects[0]
        raise DataError(
            f"{len(rejects)} of {listed} videos cannot be used, first {first.video.path}: {first.detail}",
            expected=f"at most {allowed:.1%} (data.max_rejected)",
            action=f"see {directory / REJECTS}; mend the videos or raise data.max_rejected",
        )
