"""Which teachers the targets came from, class by class: what the report shows of each target's opinions.json.

Of many teachers it shows sums over those of one network and modality, those from elsewhere together, and the
most heard; all of them are in report/opinions.csv. Left out: the shares themselves, which the reduction
computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ukd_dist import manifest
from ukd_dist.experiment import Experiment, TargetMember, TeacherMember
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.imports import IMPORTED
from ukd_dist.stages.reduce import OPINIONS
from ukd_dist.stages.tables import write_table
from ukd_dist.target_config import Target

MOST_SHOWN, MOST_HEARD = 24, 10
OPINIONS_CSV = "opinions.csv"
_COLUMNS = ("target", "teacher", "class", "share", "top1")


@dataclass(frozen=True)
class Voice:
    """What one teacher, or several alike, contributed to a target.

    Attributes:
        label: The teacher's id, or network and modality; of several from elsewhere that they are imported.
        teachers: How many speak.
        heard: Training rows that they are heard on, summed over teachers.
        share: Of the weights of all teachers, mean over rows.
        top1: Share of heard rows that are classified correctly.
        agreement: Share of heard rows where it and the target name the same class.
        entropy: Mean over heard rows, nats.
        share_per_class: `share` over the rows of each class; None where there are none.
        top1_per_class: As `top1`; empty for several teachers.
    """

    label: str
    teachers: int
    heard: int
    share: float
    top1: float | None
    agreement: float | None
    entropy: float | None
    share_per_class: tuple[float | None, ...]
    top1_per_class: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Voices that are shown on one scale.

    Attributes:
        title: What they are, or empty where nothing else is shown.
        voices: One a row.
    """

    title: str
    voices: tuple[Voice, ...]

    @property
    def top(self) -> float:
        """Share of a full bar and strongest cell: twice an equal part, or the largest if that is more."""
        shares = [s for voice in self.voices for s in (voice.share, *voice.share_per_class) if s is not None]
        equal = sum(voice.share for voice in self.voices) / len(self.voices)
        return min(1.0, max(2 * equal, *shares)) or 1.0

    @property
    def digits(self) -> int:
        """Decimals of a class's share in percent."""
        return 0 if self.top >= 0.1 else 1 if self.top >= 0.01 else 2


@dataclass(frozen=True)
class Origin:
    """One target and whose opinions it is made of.

    Attributes:
        target: The target.
        rule: Its method and the settings that matter to it.
        out_of_fold: Whether a teacher is heard only on rows that it was not trained on.
        rows: Training rows that were looked at; 0 where the target is not finished.
        weight_entropy: Of a row's weights over teachers, mean over rows, nats; ln K is the most.
        classes: Their names.
        voices: One a teacher; empty where the target is not finished.
        panels: What is shown of them.
    """

    target: TargetMember
    rule: str
    out_of_fold: bool
    rows: int = 0
    weight_entropy: float = 0.0
    classes: tuple[str, ...] = ()
    voices: tuple[Voice, ...] = ()
    panels: tuple[Panel, ...] = ()

    @property
    def most_entropy(self) -> float:
        """Entropy of equal weights, nats."""
        return math.log(len(self.voices))


def read_origins(run: RunDirectory, experiment: Experiment) -> list[Origin]:
    """Every target of the experiment, finished or not.

    Raises:
        DataError: A manifest or a finished target's opinions are damaged.
    """
    teachers = {member.id: member for member in experiment.teachers}
    return [_origin(target, _read(run, target), teachers) for target in experiment.targets]


def write_origins(run: RunDirectory, origins: Sequence[Origin]) -> None:
    """Write report/opinions.csv: a row of each target, teacher and class."""
    write_table(run.report / OPINIONS_CSV, _COLUMNS, _rows(origins))


def rule(target: Target) -> str:
    """A target's method and those of its settings that its content depends on."""
    own = {"pkd": f"h {target.h:g}", "gtd": f"floor {target.floor:g} nats"}
    space = target.space if target.temperature is None else f"{target.space} at τ {target.temperature:g}"
    folds = "out of fold" if target.rows == "out_of_fold" else ""
    return " · ".join(part for part in (target.method, own.get(target.method), space, folds) if part)


def _read(run: RunDirectory, target: TargetMember) -> dict[str, Any] | None:
    directory = run.target(target.id)
    found = manifest.read(directory)
    if found is None or OPINIONS not in found.files:
        return None
    manifest.verify(directory, found, [OPINIONS])
    document: dict[str, Any] = json.loads((directory / OPINIONS).read_bytes())
    return document


def _origin(
    target: TargetMember, document: dict[str, Any] | None, teachers: Mapping[str, TeacherMember]
) -> Origin:
    about = target, rule(target.settings), target.settings.rows == "out_of_fold"
    if document is None:
        return Origin(*about)
    voices = tuple(_voice(entry) for entry in document["teachers"])
    classes, entropy = tuple(document["classes"]), document["weight_entropy"]
    return Origin(*about, document["rows"], entropy, classes, voices, _panels(voices, teachers))


def _voice(entry: dict[str, Any]) -> Voice:
    return Voice(
        label=entry["id"],
        teachers=1,
        heard=entry["heard"],
        share=entry["share"],
        top1=entry["top1"],
        agreement=entry["agreement"],
        entropy=entry["entropy"],
        share_per_class=tuple(entry["share_per_class"]),
        top1_per_class=tuple(entry["top1_per_class"]),
    )


def _panels(voices: tuple[Voice, ...], teachers: Mapping[str, TeacherMember]) -> tuple[Panel, ...]:
    if len(voices) <= MOST_SHOWN:
        return (Panel("", voices),)
    alike: dict[str, list[Voice]] = {}
    for voice in voices:
        member = teachers.get(voice.label)
        label = f"{member.settings.arch} {member.settings.modality}" if member else IMPORTED
        alike.setdefault(label, []).append(voice)
    together = tuple(merged(label, members) for label, members in alike.items())
    loudest = sorted(voices, key=lambda voice: -voice.share)[:MOST_HEARD]
    return (
        Panel("By network and modality", together),
        Panel(f"The {MOST_HEARD} most heard", tuple(loudest)),
    )


def merged(label: str, voices: Sequence[Voice]) -> Voice:
    """Several teachers as one voice: sums of shares, means over heard rows of everything else."""
    heard = sum(voice.heard for voice in voices)

    def mean(name: str) -> float | None:
        told = [(getattr(voice, name), voice.heard) for voice in voices if voice.heard]
        return sum(value * rows for value, rows in told) / heard if told else None

    return Voice(
        label=label,
        teachers=len(voices),
        heard=heard,
        share=sum(voice.share for voice in voices),
        top1=mean("top1"),
        agreement=mean("agreement"),
        entropy=mean("entropy"),
        share_per_class=tuple(
            None if None in shares else sum(shares)
            for shares in zip(*(voice.share_per_class for voice in voices), strict=True)
        ),
    )


def _rows(origins: Sequence[Origin]) -> Iterator[dict[str, object]]:
    for origin in origins:
        for voice in origin.voices:
            columns = zip(origin.classes, voice.share_per_class, voice.top1_per_class, strict=True)
            for name, share, top1 in columns:
                values = (origin.target.id, voice.label, name, share, top1)
                yield dict(zip(_COLUMNS, values, strict=True))
