"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Experiment = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file (see launch/experiments)")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[a.b=value]...", help="settings that override the file's"),
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="run directory")]
Place = Annotated[
    Path, typer.Argument(metavar="ROOT|EXPERIMENT", help="run directory, or the YAML file that names it")
]
OfSplit = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="of an experiment of several splits this one alone"),
]
Replace = Annotated[bool, typer.Option("--replace", help="make again what other settings or inputs made")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="ranks in place of a student's `workers`; what others began goes on with them"),
]
Json = Annotated[bool, typer.Option("--json", help="results as JSON on stdout")]
Debug = Annotated[bool, typer.Option("--debug", help="tracebacks and debug logs")]
