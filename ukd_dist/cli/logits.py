"""Commands about logits: other systems' come in, and those of a run directory are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json, OfSplit, Overrides, Replace, Root
from ukd_dist.printing.answers import as_documents, print_answer, print_records, print_splits

app = typer.Typer(help="Logits of every member, and of other systems.", no_args_is_help=True)


@app.command("import")
def logits_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".npz, .safetensors, .csv or .parquet")],
    place: Annotated[Path, typer.Argument(metavar="ROOT|EXPERIMENT", help="run directory, or YAML file")],
    teacher: Annotated[str, typer.Option("--as", metavar="ID", help="id of the teacher that it becomes")],
    overrides: Overrides = None,
    trained_on: Annotated[
        str,
        typer.Option(metavar="all|none|FILE", help="training videos that its network saw; keys, one a line"),
    ] = "all",
    partial: Annotated[bool, typer.Option("--partial", help="accept that it lacks some videos")] = False,
    split: OfSplit = None,
    replace: Replace = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a teacher of another system's logits, matched by key and class."""
    with answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.splits import only_part
        from ukd_dist.stages.imports import Source, import_logits
        from ukd_dist.stages.listing import member_logits

        experiment = only_part(pipeline.load_place(place, overrides or []), split)
        source = Source(file, teacher, trained_on, partial)
        directory = import_logits(experiment, source, replace=replace)
        holdings = list(member_logits(directory, "teacher"))
        if as_json:
            print_answer(as_documents(holdings), as_json)
        else:
            print_records(holdings)


@app.command("list")
def logits_list(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """What logits a run directory holds, of which rows and from where."""
    with answering(debug):
        from ukd_dist.splits import open_parts
        from ukd_dist.stages.listing import list_logits

        found = open_parts(root)
        holdings = ((split, list_logits(run)) for split, (run, _) in found.items())
        print_splits(holdings, len(found) > 1, as_json, as_documents, print_records)
