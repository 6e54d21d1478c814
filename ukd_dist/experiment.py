"""What an experiment is: its members, each with a stable id.

An id ends in a digest of what determines the content; how it is computed (resources, cluster) is left out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ukd_dist.clip_config import Views
from ukd_dist.cluster_config import Cluster
from ukd_dist.config import Evaluate, Keep
from ukd_dist.data_config import Data
from ukd_dist.scaling_config import Scaling
from ukd_dist.target_config import Combination, Target
from ukd_dist.training_config import ONLINE, Student, Teacher, Training


@dataclass(frozen=True)
class TeacherMember:
    """A teacher: its id and what it is."""

    id: str
    settings: Teacher


@dataclass(frozen=True)
class TargetMember:
    """A target: its id, its settings, the teachers it is assembled from, and what all of them saw."""

    id: str
    name: str
    settings: Target
    teachers: tuple[str, ...]
    views: Views


@dataclass(frozen=True)
class StudentMember:
    """A student.

    Attributes:
        id: Its id.
        settings: What it is.
        target: The stored target that it learns from, or None.
        teachers: Ids of the teachers that it keeps in memory (`targets: online`); none of any other student.
    """

    id: str
    settings: Student
    target: TargetMember | None
    teachers: tuple[str, ...] = ()

    @property
    def combination(self) -> Combination | None:
        """How its teachers' logits became or become one target, or None without distillation."""
        return self.target.settings if self.target else self.settings.weighting

    @property
    def target_name(self) -> str:
        """The target's name in tables: empty without distillation."""
        return ONLINE if self.teachers else self.target.name if self.target else ""

    @property
    def stored_views(self) -> Views | None:
        """The views that it sees and gets targets of, or None where it sees free crops."""
        return self.target.views if self.target and self.settings.view == "stored" else None


@dataclass(frozen=True)
class Experiment:
    """A validated experiment with every grid expanded.

    Attributes:
        imported: Ids of teachers from elsewhere.
        keep: What stays on disk of finished teachers.
        quorum: How many of `teachers` must be finished before targets are made.
        hang_minutes: After how long without a step a teacher counts as hung.
        study: How its study over the number of teachers is made (`scaling`).
    """

    name: str
    root: Path
    data: Data
    teachers: tuple[TeacherMember, ...]
    targets: tuple[TargetMember, ...]
    students: tuple[StudentMember, ...]
    imported: tuple[str, ...]
    keep: Keep
    evaluate: Evaluate
    cluster: Cluster
    document: dict[str, Any]
    quorum: int
    hang_minutes: float
    study: Scaling

    @property
    def combinations(self) -> list[Combination]:
        """Every way in which teachers' logits become one target, stored or in memory."""
        online = [s.settings.weighting for s in self.students if s.settings.weighting]
        return [*(target.settings for target in self.targets), *online]

    @property
    def published(self) -> dict[str, float]:
        """Top-1 in percent that was published of its one split, by name (`stages.summary.published_name`)."""
        return self.evaluate.figures(next(iter(self.data.split_names), ""))

    def to_yaml(self) -> str:
        """The experiment as a file that resolves to the same members."""
        return yaml.safe_dump(self.document, sort_keys=False)


def digest(*parts: Any) -> str:
    """Eight hexadecimal digits that change when anything in `parts` (JSON-like values) does."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def content(settings: Training) -> dict[str, Any]:
    """What an id is a digest of: the settings that determine what a training produces, not its resources.

    Defaults are left out, so that a setting that is new in a later version changes no id of today's members.
    """
    return settings.model_dump(mode="json", exclude={"resources"}, exclude_defaults=True)


_LATER = {"init", "lr_scale", "freeze", "batch_norm"}  # than manifests that have none of them


def resolved(settings: Training) -> dict[str, Any]:
    """What a manifest or checkpoint records of a training: as `content`, with every default.

    Of folds nothing is recorded where none is left out, nor of teachers in memory where there are none, nor
    of a teacher's ranks where there is one, nor of first weights and fine-tuning where nothing is asked of
    them, as before there were such.
    """
    none = {name for name in _LATER if name not in settings.model_dump(include=_LATER, exclude_defaults=True)}
    if getattr(settings, "fold", None) is None:
        none |= {"fold", "folds"}
    if getattr(settings, "teachers", None) is None:
        none |= {"teachers", "weighting"}
    if isinstance(settings, Teacher) and settings.workers == 1:
        none |= {"workers", "zero"}
    return settings.model_dump(mode="json", exclude={"resources", *none})
