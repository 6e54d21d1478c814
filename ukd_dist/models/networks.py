"""Networks behind one signature: clips in, logits out."""

from __future__ import annotations

import torch
from torch import nn

from ukd_dist.clip_config import Clip
from ukd_dist.errors import UsageError
from ukd_dist.models.builders import BODIES, Wanted
from ukd_dist.models.catalogue import check, pathways
from ukd_dist.models.own import build_own, is_own


class VideoNetwork(nn.Module):
    """A network that samples its pathways from the decoded frames.

    Args:
        body: Takes one clip tensor, or a list with one for each pathway.
        every: Each pathway sees every n-th decoded frame.
    """

    def __init__(self, body: nn.Module, every: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.every = every

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, classes]` of clips `[batch, channels, frames, height, width]`."""
        seen = [clips_bcthw[:, :, ::n] for n in self.every]
        logits: torch.Tensor = self.body(seen[0] if len(seen) == 1 else seen)
        return logits


class OwnNetwork(VideoNetwork):
    """A network of the user's: what it gives is looked at before it is believed.

    Args:
        body: Takes clips.
        arch: What names it.
        num_classes: Logits it has to give.
    """

    def __init__(self, body: nn.Module, arch: str, num_classes: int) -> None:
        super().__init__(body, pathways(arch))
        self.arch, self.num_classes = arch, num_classes

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """As of every network.

        Raises:
            UsageError: It gives something else than `[batch, classes]`.
        """
        logits = super().forward(clips_bcthw)
        is_tensor = isinstance(logits, torch.Tensor)
        if not is_tensor or tuple(logits.shape[1:]) != (self.num_classes,):
            found = f"a tensor of shape {list(logits.shape)}" if is_tensor else type(logits).__name__
            raise UsageError(
                f"arch {self.arch} gives {found} for clips of shape {list(clips_bcthw.shape)}",
                expected=f"logits [batch, {self.num_classes}]",
                action="let its network end in one logit for each of num_classes",
            )
        return logits


def build(
    arch: str, *, num_classes: int, channels: int, clip: Clip, dropout: float, seed: int
) -> VideoNetwork:
    """A network by name with weights drawn from `seed`.

    Args:
        arch: A name of `catalogue.NETWORKS`, or package.module:function (see `own`).
        num_classes: Logits a clip.
        channels: Channels of the clips: 3 for rgb, 2 for flow.
        clip: Frames and size of the clips.
        dropout: Probability before the classifier.
        seed: Of the weights; the global generator is left as it was.

    Raises:
        UsageError: No network has the name, it cannot take such clips, or the user's function is not as it
            has to be.
    """
    check(arch, clip)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_own(arch):
            body = build_own(arch, num_classes=num_classes, channels=channels, clip=clip, dropout=dropout)
            return OwnNetwork(body, arch, num_classes)
        every = pathways(arch)
        frames = tuple(-(-clip.frames // n) for n in every)
        return VideoNetwork(
            BODIES[arch](Wanted(num_classes, channels, every, frames, clip.size, dropout)), every
        )
