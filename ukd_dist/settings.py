"""What every settings model is: frozen, strict about keys, and clear about what it refuses."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ukd_dist.errors import UsageError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class SettingsError(UsageError, ValueError):
    """A validator's refusal; as a ValueError, pydantic adds the place of the settings to it."""


class Settings(BaseModel):
    """The base of every settings model: frozen, and an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_key(str(key), sorted(cls.model_fields))
        return data


def refuse_repetition(names: Sequence[str], problem: str) -> None:
    """Refuse a list that names something twice.

    Raises:
        SettingsError: It does.
    """
    if len(set(names)) != len(names):
        raise SettingsError(problem, expected="each once", action="remove the second")


def unknown_key(key: str, known: list[str]) -> SettingsError:
    """The error for a key that no setting has, naming the nearest one that exists."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return SettingsError(
        f"unknown key '{key}'",
        expected=f"one of {', '.join(known)}",
        action=f"did you mean '{nearest[0]}'?" if nearest else "remove it",
    )
