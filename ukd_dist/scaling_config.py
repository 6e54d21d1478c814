"""What an experiment file may say of its study over the number of teachers.

As `config`, which declares the rest, this module only declares.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ukd_dist.settings import Name, Settings, SettingsError, refuse_repetition

Rows = Literal["all", "out_of_fold"]


class Scaling(Settings):
    """How often, with how many and with which teachers one student of the experiment is trained again."""

    student: Name | None = Field(
        None,
        description="name of the run whose recipe every student of the study has, and from whose target's "
        "teachers they are drawn; null: the first that learns from a stored target",
    )
    teachers: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="numbers of teachers K; default: 1, 2, 4, ... and all there are"
    )
    repeats: int = Field(
        3, ge=1, description="students of every K, each with another seed and other teachers"
    )
    order: Literal["random", "listed"] = Field(
        "random",
        description="random: each repeat draws an order of the teachers, and its K are the first of it; "
        "listed: the first K of the experiment",
    )
    rows: tuple[Rows, ...] = Field(
        (),
        description="all: teachers are heard on what they were trained on too; out_of_fold: each video has K "
        "teachers that were not trained on it; both may be compared; default: as the run's target",
    )
    online: int = Field(
        4, ge=0, description="largest K of the contrast with teachers in memory (targets: online); 0: none"
    )
    seed: int = Field(0, ge=0, description="seed of the drawn orders")

    @field_validator("teachers", "rows", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("teachers")
    @classmethod
    def _each_more(cls, teachers: tuple[int, ...]) -> tuple[int, ...]:
        if list(teachers) != sorted(set(teachers)):
            raise SettingsError(
                f"teachers {', '.join(map(str, teachers))}",
                expected="rising numbers",
                action="sort them, and give each once",
            )
        return teachers

    @field_validator("rows")
    @classmethod
    def _each_rows_once(cls, rows: tuple[Rows, ...]) -> tuple[Rows, ...]:
        refuse_repetition(rows, f"rows names one twice: {', '.join(rows)}")
        return rows
