"""What an experiment file may say of trainings: those of teachers and those of students.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ukd_dist.clip_config import Clip, Views
from ukd_dist.cluster_config import Resources
from ukd_dist.data_config import Folds, Modality
from ukd_dist.initial import NONE, check_form, parent_of
from ukd_dist.settings import Name, Settings, SettingsError
from ukd_dist.target_config import Combination, Selection

# What a student's `targets` may say beside the name of a target.
NO_TARGETS = "none"
ONLINE = "online"


class Training(Settings):
    """What determines one network's training."""

    arch: str = Field(description="network by name (`ukd models`), or package.module:function")
    modality: Modality = Field(description="component that the network sees")
    seed: int = Field(0, ge=0, description="seed of weights, order, views and dropout")
    init: str = Field(
        NONE,
        description="first weights: none: drawn; kinetics400: public ones; a checkpoint's path or URL; "
        "member:ID: a teacher's, its classifier included",
    )
    epochs: int = Field(30, ge=1, description="passes over the training rows")
    batch_size: int = Field(16, ge=1, description="clips a step, over all ranks")
    accumulate: int = Field(
        1, ge=1, description="forward passes a step, each over an equal part of batch_size; saves memory"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd is Nesterov's where there is momentum")
    lr: float = Field(0.01, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum, AdamW's beta 1")
    weight_decay: float = Field(1e-4, ge=0, description="on every weight; SGD's L2, AdamW's decoupled")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warm-up")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "cosine", description="learning rate after warm-up"
    )
    milestones: tuple[float, ...] = Field(
        (), description="step: epochs after which the learning rate is a tenth of what it was"
    )
    lr_scale: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="learning rate of parts of the network over lr, by their names; the longest name holds",
    )
    freeze: tuple[str, ...] = Field(
        (), description="parts of the network that are not trained, statistics of their batch norms included"
    )
    batch_norm: Literal["train", "frozen", "precise"] = Field(
        "train",
        description="train: running averages; frozen: statistics, scale and shift as they are initially; "
        "precise: measured after the last step, over up to 200 batches under the final weights",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="largest norm of a step's gradient, which is shortened; null: left as it is"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay a step of the moving average of the weights, which is what is kept; null: none",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of convolutions and products in training; weights are float32"
    )
    recompute: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross entropy")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the classifier")
    clip: Clip = Field(default_factory=Clip, description="default: data.clip")
    workers: int = Field(
        1,
        ge=1,
        description="ranks, the processes that train it together; batch_size is shared equally among them",
    )
    zero: Literal[0, 1, 2] = Field(
        0, description="ZeRO stage: ranks share the optimizer's state (1) and the gradients (2)"
    )
    resources: Resources = Field(default_factory=Resources, description="of each process")

    @field_validator("init")
    @classmethod
    def _init_is_known(cls, init: str) -> str:
        return check_form(init)

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Training:
        if self.batch_size % (self.workers * self.accumulate):
            shares = {"workers": self.workers, "accumulate": self.accumulate}
            by = " times ".join(f"{name} {count}" for name, count in shares.items() if count > 1)
            raise SettingsError(
                f"batch_size {self.batch_size} is not a multiple of {by}",
                expected="equal shares for every rank and forward pass",
                action="change one of them",
            )
        if self.workers > 1 and 0 < self.resources.gpus < 1:
            raise ValueError(
                f"{self.workers} workers with gpus {self.resources.gpus:g} each; "
                "expected a whole GPU for every rank, since NCCL refuses two on one"
            )
        return self

    @model_validator(mode="after")
    def _milestones_belong_to_steps(self) -> Training:
        if (self.schedule == "step") != bool(self.milestones):
            raise SettingsError(
                f"schedule: {self.schedule} with {len(self.milestones)} milestones",
                expected="milestones with schedule: step, and none with another",
                action="change one of the two",
            )
        if self.milestones and not all(
            a < b for a, b in pairwise((self.warmup_epochs, *self.milestones, self.epochs))
        ):
            raise SettingsError(
                f"milestones {', '.join(f'{m:g}' for m in self.milestones)} of {self.epochs} epochs",
                expected="rising numbers between warmup_epochs and epochs",
                action="correct them",
            )
        return self

    @model_validator(mode="after")
    def _frozen_parts_have_no_rate(self) -> Training:
        for part in self.lr_scale:
            frozen = [name for name in self.freeze if f"{part}.".startswith(f"{name}.")]
            if frozen:
                raise SettingsError(
                    f"lr_scale of {part}, which freeze: {frozen[0]} keeps from being trained",
                    expected="one of the two",
                    action="remove the other",
                )
        return self

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

    @property
    def name(self) -> str:
        """What fusions and published figures call it, with all others of its network and modality."""
        arch = re.sub(r"\W", "-", self.arch)  # package.module:function; ids, which name directories, begin so
        return f"{arch}-{self.modality}"

    @model_validator(mode="after")
    def _ranks_to_share_with(self) -> Teacher:
        if self.zero and self.workers == 1:
            raise SettingsError(
                f"zero: {self.zero} with one rank",
                expected="several ranks, which share the optimizer's state",
                action="give it workers, or remove zero",
            )
        return self


class Student(Training):
    """One student run, after its grid was expanded."""

    name: Name = Field(description="name in tables")
    targets: str = Field(
        description="name of a target; none: no distillation; online: teachers that are kept in memory"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="share of the cross entropy (UKD, Eq. 1)")
    temperature: float | None = Field(
        None, gt=0, description="tau of Eq. 3; a target in probs carries its own"
    )
    view: Literal["free", "stored"] = Field(
        "free",
        description="free: random crops, with the video's target; stored: the views that its teachers saw, "
        "each with its own target",
    )
    teachers: Selection | None = Field(
        None,
        description="targets: online: who is kept in memory; a number: the first ones of its modality",
    )
    weighting: Combination | None = Field(
        None, description="targets: online: how these teachers' logits become one target; null: method: pkd"
    )

    @field_validator("teachers", mode="before")
    @classmethod
    def _a_number_of_them(cls, value: Any) -> Any:
        return {"count": value} if isinstance(value, int) else value

    @field_validator("init")
    @classmethod
    def _no_members_weights(cls, init: str) -> str:
        if parent_of(init):
            raise SettingsError(
                f"init: {init} of a student",
                expected="weights that are no member's: a student's training opens no teacher",
                action="give the path of another student's model.safetensors, or init: kinetics400",
            )
        return init

    @model_validator(mode="after")
    def _targets_agree(self) -> Student:
        if self.targets == NO_TARGETS and self.temperature is not None:
            raise SettingsError(
                f"temperature {self.temperature:g} without targets",
                expected="none: no target is softened",
                action="remove it, or name a target",
            )
        if self.targets in (NO_TARGETS, ONLINE) and self.view == "stored":
            raise SettingsError(
                f"view: stored with targets: {self.targets}",
                expected="view: free: nothing is stored of its views",
                action="remove view, or name a target",
            )
        return self

    @model_validator(mode="after")
    def _teachers_are_online(self) -> Student:
        online = self.targets == ONLINE
        if online and self.teachers is None:
            raise SettingsError(
                f"targets: {ONLINE} without teachers",
                expected="how many are kept in memory, for example teachers: 2",
                action="give it teachers",
            )
        for name in () if online else ("teachers", "weighting"):
            if getattr(self, name) is not None:
                raise SettingsError(
                    f"{name} with targets: {self.targets}",
                    expected=f"targets: {ONLINE}, whose teachers are kept in memory",
                    action=f"remove {name}, or choose a target's teachers where it is defined",
                )
        return self
