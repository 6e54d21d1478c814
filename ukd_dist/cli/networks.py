"""Commands about networks: which there are; a finished one classifies videos, or leaves as an ONNX file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json
from ukd_dist.errors import DataError, UkdError, UsageError
from ukd_dist.printing.answers import print_answer
from ukd_dist.printing.networks import print_networks, print_prediction

Member = Annotated[
    Path, typer.Argument(metavar="STUDENT", help="ROOT/students/ID, or a teacher's ROOT/teachers/ID")
]


Device = Literal["auto", "cpu", "cuda"]


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|package.module:function]", help="count this one; default: list all"),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="decoded frames of the clip that NAME is counted for")
    ] = None,
    size: Annotated[int | None, typer.Option(min=16, help="side of that clip, pixels")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the networks: parameters, GMACs of a clip, how they sample it, where they are from."""
    with answering(debug):
        from ukd_dist.models.overview import counted, overview

        if name is None and (frames or size):
            raise UsageError(
                "--frames or --size of no network",
                expected="a NAME that is counted for such a clip",
                action="name one, or leave the option out",
            )
        print_networks([counted(name, frames, size)] if name else overview(), as_json)


def predict(
    student: Member,
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO...", help="files, folders, and patterns in quotes")
    ],
    device: Annotated[Device, typer.Option(help="of the network; auto: a GPU where there is one")] = "auto",
    decode: Annotated[Device, typer.Option(help="of the decoder; auto: as the network")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="clips at once; default: as in evaluation")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify videos: a line each, with --json an object each; exit 1 if some could not be read."""
    with answering(debug):
        from ukd_dist.stages.predict import predict as predict_videos

        unreadable, classified = [], 0

        def tell(path: Path, error: UkdError) -> None:
            unreadable.append(path)
            print(f"ukd: {' '.join(error.problem.split())}", file=sys.stderr, flush=True)

        for prediction in predict_videos(
            student,
            videos,
            device=device,
            decode_on=decode,
            batch_size=batch_size,
            on_unreadable=tell,
        ):
            print_prediction(prediction, as_json)
            classified += 1
        if unreadable:
            count = len(unreadable)
            raise DataError(
                f"{count} of {count + classified} videos could not be read, first {unreadable[0]}",
                expected="videos that can be decoded to their end",
                action="see the lines above; the others are classified",
            )


def export(
    student: Member,
    form: Annotated[  # noqa: ARG001 - there is one form so far; another one is refused
        Literal["onnx"], typer.Option("--format", help="of the file")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="default: ID.onnx in the current folder")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a network as an ONNX file, whose logits in ONNX Runtime are compared with torch's first."""
    with answering(debug):
        from ukd_dist.stages.export import export_onnx

        print_answer(asdict(export_onnx(student, out)), as_json)
