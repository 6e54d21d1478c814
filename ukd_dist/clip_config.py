"""What an experiment file may say of clips: how one is taken from a video, and in which views.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from ukd_dist.settings import Settings, SettingsError


class Clip(Settings):
    """How a clip is taken from a video. A network states how its pathways sample the decoded frames."""

    frames: int = Field(32, ge=1, description="decoded frames a clip")
    stride: int = Field(2, ge=1, description="source frames from one decoded frame to the next")
    size: int = Field(224, ge=16, description="side of the square crop, pixels")
    short_side: tuple[int, int] = Field(
        (224, 288), description="range of the short side after resizing, pixels; evaluation uses the lower"
    )
    antialias: bool = Field(
        True, description="a smaller picture averages over all pixels; false: over the nearest, faster"
    )
    gamma: float = Field(3.0, gt=0, description="rgb value v in 0..1 becomes v ** (1 / gamma) (UKD, Eq. 13)")
    flip: bool = Field(True, description="mirror half of the training clips")

    @model_validator(mode="after")
    def _crop_fits(self) -> Clip:
        low, high = self.short_side
        if not self.size <= low <= high:
            raise SettingsError(
                f"short_side [{low}, {high}] does not hold a crop of {self.size}",
                expected="size <= short_side[0] <= short_side[1]",
                action="lower size, or raise short_side",
            )
        return self


class Views(Settings):
    """What of a video a teacher's stored logits speak of: its centre, a mean over views, or several views."""

    kind: Literal["centre", "mean", "random"] = Field(
        "centre", description="centre: one view; mean: of the logits over views; random: each view by itself"
    )
    clips: int = Field(1, ge=1, description="mean: clips spread over a video; random: views of a video")
    crops: Literal[1, 3] = Field(1, description="mean: crops of each clip along the long side")
    seed: int = Field(0, ge=0, description="random: seed of the views, whoever the teacher is")

    @model_validator(mode="after")
    def _kind_uses_what_is_said(self) -> Views:
        used = {"centre": set[str](), "mean": {"clips", "crops"}, "random": {"clips", "seed"}}[self.kind]
        for name, unused in (("clips", 1), ("crops", 1), ("seed", 0)):
            if name not in used and getattr(self, name) != unused:
                raise SettingsError(
                    f"{name} {getattr(self, name)} with kind: {self.kind}, which has no use for it",
                    expected=f"{name} {unused}",
                    action=f"remove {name}, or change kind",
                )
        if self.kind == "mean" and self.count == 1:
            raise SettingsError(
                "kind: mean of one view", expected="several clips or crops", action="set kind: centre"
            )
        return self

    @property
    def count(self) -> int:
        """Views of a video."""
        return self.clips * self.crops

    @property
    def evaluated(self) -> Views:
        """The views of videos that teach no student: in place of random ones the centre."""
        return Views() if self.kind == "random" else self

    @property
    def name(self) -> str:
        """The views as text, which files of logits and targets carry: centre, mean-10x3, random-4-s0."""
        details = {"mean": f"-{self.clips}x{self.crops}", "random": f"-{self.clips}-s{self.seed}"}
        return self.kind + details.get(self.kind, "")

    @classmethod
    def named(cls, name: str) -> Views | None:
        """The views of that `name`, or None where it is none of ours: logits from elsewhere may say so."""
        given: dict[str, Any] = {"kind": name}
        if mean := re.fullmatch(r"mean-(\d+)x(\d+)", name):
            given = {"kind": "mean", "clips": int(mean[1]), "crops": int(mean[2])}
        elif random := re.fullmatch(r"random-(\d+)-s(\d+)", name):
            given = {"kind": "random", "clips": int(random[1]), "seed": int(random[2])}
        try:
            return cls.model_validate(given)
        except ValueError:
            return None
