"""Commands about what a run takes: `ukd gc` drops what is left over."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json, Overrides, Place
from ukd_dist.printing import print_answer, print_collection


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
        from ukd_dist import pipeline
        from ukd_dist.stages.garbage import collect, refuse_damage

        chosen = pipeline.load_place(place, overrides or [])
        collection = collect(chosen, removed=removed, dry_run=dry_run)
        if as_json:
            items = [{"what": e.what, "path": str(e.path), "bytes": e.bytes} for e in collection.excess]
            print_answer({"dropped": not dry_run, "bytes": collection.bytes, "items": items}, as_json)
        else:
            print_collection(collection, dropped=not dry_run)
        refuse_damage(collection)
