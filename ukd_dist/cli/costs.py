"""Commands about what a run takes: `ukd plan` before it, `ukd gc` after it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Experiment, Json, OfSplit, Overrides, Place
from ukd_dist.printing.answers import print_answer, print_splits
from ukd_dist.printing.runs import print_collection, print_plan


def plan(
    experiment: Experiment,
    overrides: Overrides = None,
    split: OfSplit = None,
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="cpus=N[,gpus=N][,memory_gib=N][,count=N]", help="nodes; default: this machine"),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="take a few steps here of networks that no history tells of")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What the teachers will take: how many train at once, how long, and how much room."""
    with answering(debug):
        from ukd_dist import pipeline, whole
        from ukd_dist.splits import parts
        from ukd_dist.stages.packing import parse_nodes

        nodes, loaded = parse_nodes(node or []), pipeline.load(experiment, overrides or [])
        plans = whole.plan(loaded, nodes, split=split, measured=measure)
        print_splits(plans, len(parts(loaded, split)) > 1, as_json, asdict, print_plan)


def gc(
    place: Place,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    removed: Annotated[
        bool, typer.Option("--removed", help="drop members and targets too that the experiment names no more")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop from a run directory what nothing needs (`teachers.keep` says what stays of finished teachers)."""
    with answering(debug):
        from ukd_dist import pipeline, whole
        from ukd_dist.stages.garbage import refuse_damage

        chosen = pipeline.load_place(place, overrides or [])
        collection = whole.collect_garbage(chosen, removed=removed, dry_run=dry_run)
        if as_json:
            items = [{"what": e.what, "path": str(e.path), "bytes": e.bytes} for e in collection.excess]
            print_answer({"dropped": not dry_run, "bytes": collection.bytes, "items": items}, as_json)
        else:
            print_collection(collection, dropped=not dry_run)
        refuse_damage(collection)
