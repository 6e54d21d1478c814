"""What an experiment file may say: frozen models whose fields carry their meaning and unit.

Reading files, overrides and the expansion of grids are elsewhere; this module only declares.
Settings never come from environment variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ukd_dist.clip_config import Views
from ukd_dist.cluster_config import Cluster
from ukd_dist.data_config import Data
from ukd_dist.scaling_config import Scaling
from ukd_dist.settings import Name, Settings, SettingsError, refuse_repetition
from ukd_dist.target_config import Target
from ukd_dist.training_config import NO_TARGETS, ONLINE


def _percentages(said: float | dict[str, float]) -> float | dict[str, float]:
    for percent in said.values() if isinstance(said, dict) else (said,):
        if not 0 <= percent <= 100:
            raise SettingsError(f"{percent:g} is no percentage", expected="0 to 100", action="correct it")
    return said


Published = Annotated[float | dict[Name, float], AfterValidator(_percentages)]
Keep = Literal["all", "weights", "logits"]


class Expandable(Settings):
    """Defaults and a list of entries; an entry's `grid` expands to its product."""

    defaults: dict[str, Any] = Field(
        default_factory=dict, description="settings of every entry that lacks them"
    )


class Teachers(Expandable):
    """The fleet, and teachers from elsewhere."""

    fleet: list[dict[str, Any]] = Field(
        default_factory=list, description="members; `grid: {field: [values]}` expands"
    )
    imported: tuple[Name, ...] = Field((), description="ids that `ukd logits import` gave")
    keep: Keep = Field(
        "weights",
        description="what stays on disk of a finished teacher: all; weights: no checkpoints, which hold the "
        "optimizer's state; logits: no weights either",
    )
    quorum: int | float | None = Field(
        None,
        gt=0,
        description="members of the fleet without which no target is made: a number, or a share such as 0.9; "
        "null: all",
    )
    hang_minutes: float = Field(
        20.0, gt=0, description="a member that makes no step for so long is stopped and starts again, minutes"
    )

    @field_validator("quorum")
    @classmethod
    def _a_share_is_at_most_all(cls, quorum: int | float | None) -> int | float | None:
        if isinstance(quorum, float) and quorum > 1:
            raise SettingsError(
                f"quorum {quorum:g} is no share",
                expected="a whole number of members, or a share of at most 1.0",
                action="correct it",
            )
        return quorum

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Teachers:
        if not self.fleet and not self.imported:
            raise SettingsError(
                "fleet is empty and nothing is imported", expected="at least one teacher", action="add one"
            )
        refuse_repetition(self.imported, f"imported names one twice: {', '.join(self.imported)}")
        return self


class Students(Expandable):
    """The student runs."""

    runs: list[dict[str, Any]] = Field(min_length=1, description="runs; `grid: {field: [values]}` expands")


class Evaluate(Settings):
    """What is evaluated beyond each network by itself."""

    fusion: dict[Name, tuple[Name, Name]] = Field(
        default_factory=dict,
        description="late fusion: name -> two students by name or teachers by network and modality "
        "(x3d_tiny-rgb; of mynets.wide:network mynets-wide-network-rgb), paired by seed, or members by id",
    )
    published: dict[Name, Published] = Field(
        default_factory=dict,
        description="top-1 published elsewhere, shown beside ours: name of a student, a fusion or teachers "
        "(as in fusions) -> percent; of several splits -> {split: percent, average: percent}",
    )
    views: Views = Field(
        default_factory=Views, description="what students are evaluated on; teachers keep their own views"
    )

    def figures(self, which: str) -> dict[str, float]:
        """What was published of one split, or of the average over all; a bare number is the only split's."""
        found = {
            name: said.get(which) if isinstance(said, dict) else said for name, said in self.published.items()
        }
        return {name: percent for name, percent in found.items() if percent is not None}

    @model_validator(mode="after")
    def _views_are_one_opinion(self) -> Evaluate:
        if self.views.kind == "random":
            raise SettingsError(
                "views: kind: random",
                expected="centre or mean: a test video gets one prediction",
                action="change kind",
            )
        return self


class ExperimentFile(Settings):
    """One experiment, as its file says it."""

    name: Name = Field(description="name of the run, the metrics' `run` label")
    root: Path = Field(description="run directory, a path that every node sees")
    seed: int = Field(0, ge=0, description="seed of every entry that names none")
    data: Data
    teachers: Teachers
    targets: dict[Name, Target] = Field(default_factory=dict)
    students: Students
    study: Scaling = Field(default_factory=Scaling, description="of `ukd study`")
    evaluate: Evaluate = Field(default_factory=Evaluate)
    cluster: Cluster = Field(default_factory=Cluster)

    @model_validator(mode="after")
    def _names_are_free(self) -> ExperimentFile:
        taken = {NO_TARGETS: "without targets", ONLINE: "with its teachers in memory"}
        for name, who in taken.items():
            if name in self.targets:
                raise SettingsError(
                    f"targets names one '{name}', which is what a student {who} says",
                    expected="any other name",
                    action="rename it",
                )
        return self
