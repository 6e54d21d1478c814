"""One rank of a student, for launchers other than Ray.

torchrun --nproc-per-node 2 -m ukd_dist.cli.rank EXPERIMENT --student NAME [a.b=value]...
deepspeed --module ukd_dist.cli.rank EXPERIMENT --student NAME [a.b=value]...
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Experiment, OfSplit, Overrides, Replace, Workers


def rank(
    experiment: Experiment,
    student: Annotated[str, typer.Option(metavar="NAME", help="name or id")],
    overrides: Overrides = None,
    split: OfSplit = None,
    local_rank: Annotated[
        int | None, typer.Option("--local_rank", "--local-rank", hidden=True, help="as launchers pass it")
    ] = None,
    workers: Workers = None,
    replace: Replace = False,
    debug: Debug = False,
) -> None:
    """Train a student as `ukd distill` does, as one of the ranks that a launcher started."""
    with answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.progress import Progress
        from ukd_dist.splits import only_part

        if local_rank is not None:
            os.environ.setdefault("LOCAL_RANK", str(local_rank))
        loaded = only_part(pipeline.load(experiment, overrides or []), split)
        pipeline.distill_launched(
            loaded, student, replace=replace, workers=workers, progress=Progress(views=False)
        )


if __name__ == "__main__":
    typer.run(rank)
