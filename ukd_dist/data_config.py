"""What an experiment file may say of its videos: where they are and how they are stored.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from ukd_dist.clip_config import Clip, Views
from ukd_dist.settings import Name, Settings, SettingsError, refuse_repetition

Modality = Literal["rgb", "flow"]
Codec = Literal["vp9", "copy", "jpeg"]
FlowMethod = Literal["dis_medium", "dis_fast", "farneback"]

AVERAGE = "average"  # over several splits, beside their names

# What lies in a run directory, where each of several splits has a directory by its name.
_TAKEN = {"init", "logs", "metrics", "report", "shards", "students", "targets", "teachers", "videos", AVERAGE}


class Encoding(Settings):
    """How videos are stored in the shards."""

    short_side: int | None = Field(
        None, ge=16, description="stored short side, pixels; null keeps the source's"
    )
    crf_rgb: int = Field(24, ge=0, le=63, description="VP9 quality of rgb, lower is better")
    crf_flow: int = Field(12, ge=0, le=63, description="VP9 quality of flow, lower is better")
    jpeg_qscale: int = Field(
        2, ge=2, le=31, description="codec: jpeg's quality of rgb, FFmpeg's scale, lower is better"
    )
    flow: FlowMethod = Field("dis_medium", description="how optical flow is found (OpenCV)")
    flow_bound: float = Field(20.0, gt=0, description="largest flow that is kept, stored pixels a frame")
    samples_per_shard: int = Field(64, ge=1, description="samples in one tar")


class Split(Settings):
    """The list files of one split."""

    train: Path = Field(description="list of training videos")
    test: Path = Field(description="list of test videos")


class Synthetic(Settings):
    """The miniature ARID that `source: synthetic` draws; sizes are per class."""

    seed: int = Field(0, ge=0, description="seed of actors, scenes and motions")
    train_clips: int = Field(24, ge=1, description="training videos a class")
    test_clips: int = Field(20, ge=1, description="test videos a class")
    splits: int = Field(
        1, ge=1, description="divisions of the same videos into training and test: split0, split1, ..."
    )

    @model_serializer(mode="wrap")
    def _say_one_split_nowhere(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there were several, so that an experiment of one still resolves to the same text."""
        said: dict[str, Any] = serialize(self)
        return {name: value for name, value in said.items() if (name, value) != ("splits", 1)}


# How held-out videos are chosen, be they the validation split or a folder's test split.
_HeldOutBy = Annotated[
    Literal["group", "random"],
    Field(description="group: whole recording groups; random: of each class the same share"),
]
_SeedOfChoice = Annotated[int, Field(ge=0, description="seed of the choice")]


class Validation(Settings):
    """Training videos that are held out as a split of their own, for choices."""

    share: float = Field(gt=0, lt=1, description="of the training videos")
    by: _HeldOutBy = "group"
    seed: _SeedOfChoice = 0


class FolderSplit(Settings):
    """Which videos of `source: folder` are its test split."""

    test: float = Field(gt=0, lt=1, description="share of the videos that is the test split")
    by: _HeldOutBy = "group"
    seed: _SeedOfChoice = 0


class Folds(Settings):
    """Parts of the training rows, of which a teacher may leave one out: the same parts for every teacher."""

    count: int = Field(ge=2, description="number of folds")
    by: Literal["random", "group"] = Field(
        "random", description="random: every class dealt out evenly; group: whole recording groups"
    )
    seed: int = Field(0, ge=0, description="seed of the folds")


# Which of their settings the sources read.
_SETTINGS_OF_SOURCE: dict[str, set[str]] = {
    "arid": {"videos", "splits", "classes"},
    "folder": {"videos", "split", "group_pattern"},
    "csv": {"videos", "splits", "format", "classes", "group_pattern"},
    "synthetic": {"synthetic"},
}
_SETTINGS_OF_SHARDING = {"encoding", "max_rejected", "seed", "validation"}


class Data(Settings):
    """The videos, their lists, and how shards and clips are made of them."""

    source: Literal["arid", "folder", "csv", "synthetic"] | None = Field(
        None,
        description="arid: ARID's lists; folder: a folder a class; csv: lists as CSV, or UCF101's or "
        "HMDB51's; null: nothing is sharded, `shards` are taken",
    )
    shards: str | None = Field(
        None,
        description="finished shards made elsewhere, instead of sharding: s3://bucket/prefix or a folder; "
        "of several splits each has its own below it, by its name",
    )
    videos: Path | None = Field(
        None, description="folder that the lists' paths start from; of source: folder, that of the classes"
    )
    splits: dict[Name, Split] = Field(
        default_factory=dict,
        description="list files by split; each of several has a run directory of its own below the root",
    )
    split: FolderSplit | None = Field(None, description="of source: folder, which has no lists")
    format: Literal["auto", "csv", "ucf101", "hmdb51"] = Field(
        "auto", description="of source: csv's lists; auto: what their content says"
    )
    classes: Path | None = Field(
        None,
        description="`label<TAB>class` table; default: mapping_table.txt or classInd.txt beside the lists",
    )
    group_pattern: str | None = Field(
        None,
        description="regular expression, found in a video's path below `videos`, whose one group is the "
        "recording group; null: ARID's, UCF101's and HMDB51's names; for folder and csv",
    )
    synthetic: Synthetic | None = Field(None, description="sizes and seed of the synthetic videos")
    validation: Validation | None = Field(
        None, description="training videos that are held out; null: none, and all are trained on"
    )
    folds: Folds | None = Field(
        None, description="of the training rows, for teachers that leave one out (their `fold`)"
    )
    modalities: tuple[Modality, ...] = Field(("rgb",), min_length=1, description="components of a sample")
    codec: Codec = Field(
        "vp9", description="of stored rgb: vp9; copy: the source's own stream, unchanged; jpeg: single frames"
    )
    encoding: Encoding = Field(default_factory=Encoding, description="size and quality in the shards")
    clip: Clip = Field(default_factory=Clip, description="clips of every network that does not say otherwise")
    views: Views = Field(
        default_factory=Views, description="of every teacher that does not say otherwise: what its logits saw"
    )
    seed: int = Field(0, ge=0, description="seed of the order of samples in the shards")
    max_rejected: float = Field(
        0.01, ge=0, le=1, description="share of damaged videos above which sharding fails"
    )

    @field_validator("group_pattern")
    @classmethod
    def _pattern_has_one_group(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise SettingsError(
                f"'{pattern}' is no regular expression: {error}",
                expected="one that finds the recording group",
                action="correct it",
            ) from error
        if groups != 1:
            raise SettingsError(
                f"'{pattern}' has {groups} groups in parentheses",
                expected="exactly one, the recording group",
                action="put it into ( ), and others into (?: )",
            )
        return pattern

    @field_validator("shards")
    @classmethod
    def _shards_lie_where_they_can_be_read(cls, place: str | None) -> str | None:
        scheme, separator, rest = (place or "").partition("://")
        if place is None or (place and not separator):
            return place
        if scheme == "file" and rest.startswith("/"):
            return rest
        if scheme == "s3" and rest.strip("/"):
            return f"s3://{rest.strip('/')}"
        raise SettingsError(
            f"shards '{place}'",
            expected="s3://bucket/prefix, file:///folder or a folder's path",
            action="correct it",
        )

    @model_validator(mode="after")
    def _shards_come_from_somewhere(self) -> Data:
        if self.source is not None:
            return self
        if self.shards is None:
            raise SettingsError(
                "source is missing",
                expected="where the videos are, or `shards` that are finished",
                action="give one of the two",
            )
        for name in sorted(_SETTINGS_OF_SHARDING.union(*_SETTINGS_OF_SOURCE.values())):
            if self._says(name):
                raise SettingsError(
                    f"{name} without a source, where nothing is sharded",
                    expected="of the settings of sharding only modalities and codec, which `shards` must fit",
                    action=f"remove {name}, or give the source",
                )
        return self

    @model_validator(mode="after")
    def _source_is_complete(self) -> Data:
        if self.source is None:
            return self
        used = _SETTINGS_OF_SOURCE[self.source]
        for name in sorted(set().union(*_SETTINGS_OF_SOURCE.values()) - used):
            if self._says(name):
                raise SettingsError(
                    f"{name} with source: {self.source}, which has no use for it",
                    expected=f"of the settings of sources only {', '.join(sorted(used))}",
                    action=f"remove {name}, or change source",
                )
        if "videos" in used and self.videos is None:
            raise SettingsError(
                "videos is missing",
                expected="the folder that the lists' paths start from, or that holds the classes' folders",
                action="give it",
            )
        if "splits" in used and not self.splits:
            raise SettingsError(
                "splits is missing",
                expected="the lists of at least one split",
                action="give them, for example splits: {split0: {train: train.txt, test: test.txt}}",
            )
        if "split" in used and self.split is None:
            raise SettingsError(
                "split is missing",
                expected="the share of the folder's videos that is the test split",
                action="give it, for example split: {test: 0.3}",
            )
        return self

    @model_validator(mode="after")
    def _splits_have_directories(self) -> Data:
        for name in self.splits if len(self.splits) > 1 else ():
            if name in _TAKEN:
                raise SettingsError(
                    f"splits names one '{name}', which is taken",
                    expected=f"none of {', '.join(sorted(_TAKEN))}, since each of several has a directory",
                    action="rename it",
                )
        return self

    @model_validator(mode="after")
    def _modalities_differ(self) -> Data:
        refuse_repetition(self.modalities, f"modalities {list(self.modalities)} names one twice")
        return self

    @model_validator(mode="after")
    def _codec_can_scale(self) -> Data:
        if self.codec == "copy" and self.encoding.short_side is not None:
            raise SettingsError(
                f"encoding.short_side {self.encoding.short_side} with codec: copy, which cannot scale",
                expected="encoding.short_side null: a copied stream keeps its size",
                action="remove encoding.short_side, or set codec: vp9 or jpeg",
            )
        return self

    @property
    def split_names(self) -> tuple[str, ...]:
        """Every split by its name; none where the one that there is has no name."""
        if self.source == "synthetic":
            return tuple(f"split{number}" for number in range((self.synthetic or Synthetic()).splits))
        return tuple(self.splits)

    def _says(self, name: str) -> bool:
        """Whether a setting is other than its default."""
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) != default)
