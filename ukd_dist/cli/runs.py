"""Commands about runs that go on elsewhere: submitted to a cluster, stopped through their root."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Experiment, Json, Overrides
from ukd_dist.printing.answers import print_answer


def submit(
    experiment: Experiment,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(metavar="http://HEAD:8265", help="of Ray's job server; default: Ray's own")
    ] = None,
    cpus: Annotated[
        float, typer.Option(min=0, help="reserved for the coordinator on any node; 0: on the head")
    ] = 0,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="how long it may wait to start")
    ] = 300,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment as a job of a Ray cluster, once: again, it is found running, or goes on."""
    with answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.cluster.submission import submit as submit_job

        job = submit_job(pipeline.load(experiment, overrides or []), address, cpus, wait)
        if as_json:
            print_answer({**asdict(job), "follow": job.follow}, as_json)
            return
        print(f"{job.id} {'was submitted' if job.is_new else 'is running already'}")
        print_answer({"follow": job.follow, "stop": f"ukd cancel {job.root}"}, as_json)


def cancel(
    place: Annotated[Path, typer.Argument(metavar="ROOT|EXPERIMENT", help="run directory, or YAML file")],
    overrides: Overrides = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="how long it may take to stop")] = 120,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop the run of a root, from any machine that sees the root; `ukd run` goes on later."""
    with answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.cancellation import cancel as stop
        from ukd_dist.rundir import RunDirectory
        from ukd_dist.splits import open_parts, parts

        if place.is_dir():
            root, own = place.absolute(), [run.root for run, _ in open_parts(place).values()]
        else:
            experiment = pipeline.load(place, overrides or [])
            root, own = experiment.root, [part.root for part in parts(experiment).values()]
        # Of several splits the outer root is held by who goes through them, a split's own by who works on it.
        holders = (stop(RunDirectory(held), wait) for held in dict.fromkeys([root, *own]))
        stopped = ", ".join(holder for holder in holders if holder) or None
        if as_json:
            print_answer({"root": str(root), "stopped": stopped}, as_json)
            return
        print(f"{root}: {f'{stopped} has stopped' if stopped else 'nobody works on it'}")
