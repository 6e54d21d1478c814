"""What an experiment file may say of targets: whose opinions, and how they become one.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ukd_dist.data_config import Modality
from ukd_dist.settings import Settings, SettingsError


class Selection(Settings):
    """Some teachers of the fleet: those whose settings are among the values named; nothing named: any."""

    arch: tuple[str, ...] = Field((), description="networks")
    modality: tuple[Modality, ...] = Field((), description="modalities")
    seed: tuple[int, ...] = Field((), description="seeds")
    fold: tuple[int, ...] = Field((), description="folds left out")
    id: tuple[str, ...] = Field((), description="ids, for example of imported teachers")
    count: int | None = Field(None, ge=1, description="the first so many of them, in the experiment's order")

    @field_validator("arch", "modality", "seed", "fold", "id", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)


class Combination(Settings):
    """How several teachers' logits become one target per video."""

    method: Literal["pkd", "gtd", "avg", "avg1", "single", "best", "entropy", "confidence"] = Field(
        description="weighting: pkd (Eq. 12), gtd (Eq. 8), avg (Eq. 5), avg1 (Eq. 4), single (one teacher), "
        "best (per video, by the truth), entropy (EBKD) or confidence (CA-MKD)"
    )
    h: float = Field(0.99, gt=0, lt=1, description="probability of the true class in the PKD (Eq. 11)")
    floor: float = Field(1e-4, gt=0, description="least cross entropy of a GTD weight, nats")
    space: Literal["logits", "probs"] = Field("logits", description="what is summed in Eq. 9")
    temperature: float | None = Field(
        None, gt=0, description="tau of the summed probabilities (space: probs)"
    )

    @model_validator(mode="after")
    def _temperature_has_a_use(self) -> Combination:
        if (self.space == "probs") != (self.temperature is not None):
            raise SettingsError(
                f"space: {self.space} with temperature: {self.temperature}",
                expected="a temperature with probs, and none with logits, where the student sets it",
                action="change one of the two",
            )
        if self.method == "avg1" and self.space != "probs":
            raise SettingsError(
                f"method: avg1 with space: {self.space}",
                expected="space: probs, since Eq. 4 is a mean of divergences at one temperature",
                action="change one of the two",
            )
        return self


class Target(Combination):
    """How the teachers' stored logits become one stored target per video."""

    rows: Literal["all", "out_of_fold"] = Field(
        "all", description="out_of_fold: a video is taught only by teachers that were not trained on it"
    )
    teachers: Selection = Field(default_factory=Selection, description="whose opinions; default: everyone's")
