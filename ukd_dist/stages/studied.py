"""The offline study as files: what was asked, what was found, and whether it still speaks of these teachers.

report/study.json holds all of it, bound to the digests of the shards and of the teachers; report/study.csv a
line of each score. Left out: the scoring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from ukd_dist import manifest
from ukd_dist.errors import DataError, UsageError
from ukd_dist.experiment import Experiment, TargetMember, digest
from ukd_dist.method.weighting import Method, Space
from ukd_dist.rundir import RunDirectory
from ukd_dist.settings import Settings
from ukd_dist.stages.tables import write_changed, write_table

STUDY, STUDY_CSV = "study.json", "study.csv"


class Scope(Settings):
    """What is scored; lists may be given as text, comma-separated."""

    methods: tuple[Method, ...] = Field(description="weightings")
    h: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(description="of pkd")
    tau: tuple[Annotated[float, Field(gt=0)], ...] = Field(description="temperatures")
    spaces: tuple[Space, ...] = Field(description="what is summed")
    target: str | None = Field(None, description="name of the target whose teachers and rows are taken")
    in_sample: bool = Field(False, description="score training rows alone")

    @field_validator("methods", "h", "tau", "spaces", mode="before")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        values = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
        return tuple(dict.fromkeys(values))


@dataclass(frozen=True, kw_only=True)
class Score:
    """One way of making a target, scored on some rows.

    Attributes:
        method: Weighting.
        h: Of `pkd`; None of others, which do not read it.
        tau: Temperature.
        space: What is summed.
        weights: labels, mean training weights (ours), or label-free.
        rows: validation, in-sample or out-of-fold.
        num_rows: Rows that were scored, one for each stored view.
        teachers: Whose opinions were mixed.
        top1: Share of rows where the target's largest probability is the label's.
        nll: Mean of -ln p(label), nats.
        ece: Expected calibration error, 15 bins.
        entropy: Mean entropy of the target, nats.
    """

    method: Method
    h: float | None
    tau: float
    space: Space
    weights: str
    rows: str
    num_rows: int
    teachers: int
    top1: float
    nll: float
    ece: float
    entropy: float

    @property
    def way(self) -> tuple[str, float | None, float, str]:
        """Method, h, tau and space: the same on other rows."""
        return self.method, self.h, self.tau, self.space


@dataclass(frozen=True)
class Study:
    """A study that was done.

    Attributes:
        scope: What was asked.
        of: Digest of the scope, the shards and the teachers.
        scores: Validation rows first, by method in the scope's order, then by the NLL there.
    """

    scope: Scope
    of: str
    scores: tuple[Score, ...]

    @property
    def leaders(self) -> list[tuple[Score, Score | None]]:
        """Of each method and space, the h and tau of least NLL on the first rows; the same on the others."""
        first = [score for score in self.scores if score.rows == self.scores[0].rows]
        others = {score.way: score for score in self.scores if score.rows != self.scores[0].rows}
        least: dict[tuple[str, str], Score] = {}
        for score in first:
            least.setdefault((score.method, score.space), score)
        return [(score, others.get(score.way)) for score in least.values()]

    def over_tau(self, leader: Score) -> list[float]:
        """NLL at each tau of the scope, at the leader's method, h and space, on its rows."""
        found = {
            score.tau: score.nll
            for score in self.scores
            if (score.rows, score.method, score.h, score.space)
            == (leader.rows, leader.method, leader.h, leader.space)
        }
        return [found[tau] for tau in sorted(found)]


def arrange(scope: Scope, scores: Sequence[Score]) -> tuple[Score, ...]:
    """The order of `Study.scores`, of scores whose first rows come first."""
    kinds = list(dict.fromkeys(score.rows for score in scores))
    nll = {score.way: score.nll for score in scores if score.rows == kinds[0]}
    return tuple(
        sorted(scores, key=lambda s: (kinds.index(s.rows), scope.methods.index(s.method), nll[s.way], s.tau))
    )


def selection(experiment: Experiment, scope: Scope) -> tuple[tuple[str, ...], TargetMember | None]:
    """Ids of the teachers, and the target that was named.

    Raises:
        UsageError: The experiment has no such target.
    """
    if scope.target is None:
        return (*(member.id for member in experiment.teachers), *experiment.imported), None
    for target in experiment.targets:
        if target.name == scope.target:
            return target.teachers, target
    raise UsageError(
        f"--target {scope.target} is no target of the experiment",
        expected=f"one of {', '.join(target.name for target in experiment.targets) or 'none'}",
        action="correct it, or leave --target out for all teachers",
    )


def binding(run: RunDirectory, experiment: Experiment, scope: Scope) -> str | None:
    """What a study's `of` has to be, or None where its target or its teachers are not there.

    Raises:
        DataError: A manifest is damaged.
    """
    if scope.target not in (None, *(target.name for target in experiment.targets)):
        return None
    teachers, target = selection(experiment, scope)
    found = [manifest.read(directory) for directory in (run.shards, *map(run.teacher, teachers))]
    digests = [one.digest() for one in found if one is not None]
    rows = target.settings.rows if target else None
    return digest(scope.model_dump(mode="json"), rows, digests) if len(digests) == len(found) else None


def read_study(run: RunDirectory, experiment: Experiment) -> Study | None:
    """The study of this root, or None where there is none of the shards and teachers as they are now.

    Raises:
        DataError: The file or a manifest is damaged.
    """
    path = run.report / STUDY
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        scores = tuple(Score(**score) for score in document["scores"])
        study = Study(Scope.model_validate(document["scope"]), document["of"], scores)
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected="what `ukd study` wrote",
            action=f"remove {path}",
        ) from error
    return study if study.of == binding(run, experiment, study.scope) else None


def write_study(run: RunDirectory, study: Study) -> None:
    """Write report/study.json and report/study.csv."""
    scores = [asdict(score) for score in study.scores]
    document = {"of": study.of, "scope": study.scope.model_dump(mode="json"), "scores": scores}
    write_changed(run.report / STUDY, json.dumps(document, indent=1).encode())
    write_table(run.report / STUDY_CSV, [field.name for field in fields(Score)], scores)
