"""What an experiment file may say: frozen models whose fields carry their meaning and unit.

Reading files, overrides and the expansion of grids are elsewhere; this module only declares.
Settings never come from environment variables.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ukd_dist.settings import Settings, SettingsError

Modality = Literal["rgb", "flow"]
Codec = Literal["vp9", "copy", "jpeg"]
FlowMethod = Literal["dis_medium", "dis_fast", "farneback"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Percent = Annotated[float, Field(ge=0, le=100)]

NO_TARGETS = "none"


class Clip(Settings):
    """How a clip is taken from a video. A network states how its pathways sample the decoded frames."""

    frames: int = Field(32, ge=1, description="decoded frames a clip")
    stride: int = Field(2, ge=1, description="source frames from one decoded frame to the next")
    size: int = Field(224, ge=16, description="side of the square crop, pixels")
    short_side: tuple[int, int] = Field(
        (224, 288), description="range of the short side after resizing, pixels; evaluation uses the lower"
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


class Validation(Settings):
    """Training videos that are held out as a split of their own, for choices."""

    share: float = Field(gt=0, lt=1, description="of the training videos")
    by: Literal["group", "random"] = Field(
        "group", description="group: whole recording groups; random: of each class the same share"
    )
    seed: int = Field(0, ge=0, description="seed of the choice")


class FolderSplit(Settings):
    """Which videos of `source: folder` are its test split."""

    test: float = Field(gt=0, lt=1, description="share of the videos that is the test split")
    by: Literal["group", "random"] = Field(
        "group", description="group: whole recording groups; random: of each class the same share"
    )
    seed: int = Field(0, ge=0, description="seed of the choice")


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


class Data(Settings):
    """The videos, their lists, and how shards and clips are made of them."""

    source: Literal["arid", "folder", "csv", "synthetic"] = Field(
        description="arid: ARID's lists; folder: a folder a class; csv: lists as CSV, or UCF101's or HMDB51's"
    )
    videos: Path | None = Field(
        None, description="folder that the lists' paths start from; of source: folder, that of the classes"
    )
    splits: dict[Name, Split] = Field(default_factory=dict, description="exactly one split a run directory")
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

    @model_validator(mode="after")
    def _source_is_complete(self) -> Data:
        used = _SETTINGS_OF_SOURCE[self.source]
        for name in sorted(set().union(*_SETTINGS_OF_SOURCE.values()) - used):
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
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
        if "splits" in used and len(self.splits) != 1:
            raise SettingsError(
                f"splits names {len(self.splits)} splits",
                expected="exactly one, since a run directory holds one split",
                action="give each split an experiment with a root of its own",
            )
        if "split" in used and self.split is None:
            raise SettingsError(
                "split is missing",
                expected="the share of the folder's videos that is the test split",
                action="give it, for example split: {test: 0.3}",
            )
        return self

    @model_validator(mode="after")
    def _modalities_differ(self) -> Data:
        if len(set(self.modalities)) != len(self.modalities):
            raise SettingsError(
                f"modalities {list(self.modalities)} names one twice",
                expected="each once",
                action="remove the second",
            )
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


class Resources(Settings):
    """What Ray reserves for one process."""

    cpus: float = Field(1.0, gt=0, description="CPU cores; also the process's threads")
    gpus: float = Field(0.0, ge=0, description="GPUs, fractions allowed")
    memory_gib: float | None = Field(None, gt=0, description="host memory, GiB; null reserves none")
    decode: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="where clips are decoded; auto: on the process's GPU where it has one"
    )

    @model_validator(mode="after")
    def _several_gpus_are_whole(self) -> Resources:
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus {self.gpus:g} is more than one and no whole number")
        return self

    @model_validator(mode="after")
    def _a_gpu_decodes_where_there_is_one(self) -> Resources:
        if self.decode == "gpu" and not self.gpus:
            raise SettingsError(
                "decode: gpu with gpus 0",
                expected="a GPU, or a share of one",
                action="set gpus, or decode: auto",
            )
        return self


class Training(Settings):
    """What determines one network's training."""

    arch: str = Field(description="network by name (see ukd_dist.models)")
    modality: Modality = Field(description="component that the network sees")
    seed: int = Field(0, ge=0, description="seed of weights, order, views and dropout")
    epochs: int = Field(30, ge=1, description="passes over the training rows")
    batch_size: int = Field(16, ge=1, description="clips a step, over all ranks")
    lr: float = Field(0.01, gt=0, description="SGD's peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum (Nesterov)")
    weight_decay: float = Field(1e-4, ge=0, description="L2 on every weight")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning rate after warm-up")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross entropy")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the classifier")
    clip: Clip = Field(default_factory=Clip, description="default: data.clip")
    resources: Resources = Field(default_factory=Resources, description="of each process")

    @model_validator(mode="after")
    def _warmup_fits(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise SettingsError(
                f"warmup_epochs {self.warmup_epochs:g} leaves nothing of {self.epochs} epochs",
                expected="fewer than epochs",
                action="lower warmup_epochs, or raise epochs",
            )
        return self


class Teacher(Training):
    """One member of the fleet, after its grid was expanded."""

    views: Views = Field(default_factory=Views, description="default: data.views")
    fold: int | None = Field(
        None, ge=0, description="the fold of data.folds that it is not trained on; null: trained on every row"
    )
    folds: Folds | None = Field(
        None, description="data.folds, filled in where fold is set: no others are taken"
    )


class Student(Training):
    """One student run, after its grid was expanded."""

    name: Name = Field(description="name in tables")
    targets: str = Field(description="name of a target, or none for training without distillation")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the cross entropy (UKD, Eq. 1)")
    temperature: float | None = Field(
        None, gt=0, description="tau of Eq. 3; a target in probs carries its own"
    )
    view: Literal["free", "stored"] = Field(
        "free",
        description="free: random crops, with the video's target; stored: the views that its teachers saw, "
        "each with its own target",
    )
    workers: int = Field(1, ge=1, description="ranks; batch_size is shared equally among them")

    @model_validator(mode="after")
    def _ranks_share_equally(self) -> Student:
        if self.batch_size % self.workers:
            raise SettingsError(
                f"batch_size {self.batch_size} is not a multiple of workers {self.workers}",
                expected="equal shares for every rank",
                action="change one of the two",
            )
        if self.workers > 1 and 0 < self.resources.gpus < 1:
            raise ValueError(
                f"{self.workers} workers with gpus {self.resources.gpus:g} each; "
                "expected a whole GPU for every rank, since NCCL refuses two on one"
            )
        if self.targets == NO_TARGETS and self.temperature is not None:
            raise SettingsError(
                f"temperature {self.temperature:g} without targets",
                expected="none: no target is softened",
                action="remove it, or name a target",
            )
        if self.targets == NO_TARGETS and self.view == "stored":
            raise SettingsError(
                "view: stored without targets",
                expected="view: free: there are no teachers whose views it could see",
                action="remove view, or name a target",
            )
        return self


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


class Target(Settings):
    """How the teachers' logits become one target per video."""

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
    rows: Literal["all", "out_of_fold"] = Field(
        "all", description="out_of_fold: a video is taught only by teachers that were not trained on it"
    )
    teachers: Selection = Field(default_factory=Selection, description="whose opinions; default: everyone's")

    @model_validator(mode="after")
    def _temperature_has_a_use(self) -> Target:
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

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Teachers:
        if not self.fleet and not self.imported:
            raise SettingsError(
                "fleet is empty and nothing is imported", expected="at least one teacher", action="add one"
            )
        if len(set(self.imported)) != len(self.imported):
            raise SettingsError(
                f"imported names one twice: {', '.join(self.imported)}",
                expected="each once",
                action="remove the second",
            )
        return self


class Students(Expandable):
    """The student runs."""

    runs: list[dict[str, Any]] = Field(min_length=1, description="runs; `grid: {field: [values]}` expands")


class Evaluate(Settings):
    """What is evaluated beyond each network by itself."""

    fusion: dict[Name, tuple[Name, Name]] = Field(
        default_factory=dict, description="two-stream late fusion: name -> two student names, paired by seed"
    )
    published: dict[Name, Percent] = Field(
        default_factory=dict,
        description="top-1 published elsewhere: student's or fusion's name -> percent, shown beside ours",
    )


class Cluster(Settings):
    """Where the work runs; no part of it changes a result."""

    address: str | None = Field(
        None,
        description="Ray address, or auto; default: the cluster of this Ray job, else a local one",
    )
    local_nodes: int = Field(1, ge=1, description="Ray nodes of a local cluster")
    cpus_per_node: int | None = Field(
        None, ge=1, description="of a local node; default: the cores shared equally"
    )
    max_failures: int = Field(3, ge=0, description="times that a lost process is started again")
    reduce_rows: int | None = Field(
        None,
        ge=1,
        description="rows that one task of the reduction assembles; 1024s read no byte twice; "
        "default: 1024 to 8192, fewer for more classes",
    )
    keep_sums: bool = Field(
        True,
        description="keep each target's running sums: one of a teacher more or less then costs one; those of "
        "best and confidence, which serve no other target, never",
    )
    metrics_port: int | None = Field(
        0, ge=0, le=65535, description="of the exporter; 0: a free one; null: none"
    )


class ExperimentFile(Settings):
    """One experiment, as its file says it."""

    name: Name = Field(description="name of the run, the metrics' `run` label")
    root: Path = Field(description="run directory, a path that every node sees")
    seed: int = Field(0, ge=0, description="seed of every entry that names none")
    data: Data
    teachers: Teachers
    targets: dict[Name, Target] = Field(default_factory=dict)
    students: Students
    evaluate: Evaluate = Field(default_factory=Evaluate)
    cluster: Cluster = Field(default_factory=Cluster)

    @model_validator(mode="after")
    def _none_is_no_target(self) -> ExperimentFile:
        if NO_TARGETS in self.targets:
            raise SettingsError(
                f"targets names one '{NO_TARGETS}', which is what a student without targets says",
                expected="any other name",
                action="rename it",
            )
        return self
