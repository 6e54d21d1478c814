"""Commands about metrics: those of a run directory over HTTP or for TensorBoard, worked on or not."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json, Root
from ukd_dist.errors import UsageError
from ukd_dist.printing.answers import print_answer

app = typer.Typer(help="Metrics of a run for Prometheus and TensorBoard.", no_args_is_help=True)


@app.callback()
def metrics() -> None:
    """Metrics of a run for Prometheus and TensorBoard."""


@app.command("serve")
def metrics_serve(
    root: Root,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve the metrics of a run that is going on or has ended, until Ctrl-C."""
    with answering(debug):
        from ukd_dist.exporter import exporting
        from ukd_dist.splits import open_parts
        from ukd_dist.status import committed_metrics, is_held

        (run, experiment), *others = open_parts(root).values()
        if others:
            raise UsageError(
                f"{root} holds {1 + len(others)} splits",
                expected="one of them",
                action=f"name it, for example {run.root}",
            )
        with exporting(
            run.metrics,
            experiment.name,
            port,
            lambda: committed_metrics(run, experiment),
            discovered=not is_held(run),  # else its coordinator's address is there
        ) as served:
            print_answer({"metrics": f"http://localhost:{served}/metrics"}, as_json)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


@app.command("tensorboard")
def metrics_tensorboard(
    root: Root,
    out: Annotated[
        Path | None, typer.Option(help="folder of the event files; default: ROOT/tensorboard")
    ] = None,
    follow: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=1, help="look again so often, until Ctrl-C")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write every member's history as TensorBoard event files."""
    with answering(debug):
        from ukd_dist.splits import open_parts
        from ukd_dist.stages.events import EventFiles

        found = open_parts(root)
        folders = {name: (out or root / "tensorboard") / (name if len(found) > 1 else "") for name in found}
        with suppress(KeyboardInterrupt):
            files = [EventFiles(*found[name], folders[name]) for name in found]
            epochs = sum(each.update() for each in files)
            print_answer({"epochs": epochs, "events": str(out or root / "tensorboard")}, as_json)
            while follow is not None:
                time.sleep(follow)
                for each in files:
                    each.update()
