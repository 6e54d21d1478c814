"""`ukd`: parse, call, print. Progress and logs go to stderr, results to stdout; no logic here.

Each module holds the commands of one kind, and imports what a command needs only when it is called.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from ukd_dist.cli import costs, data, experiments, inspection, kubernetes, logits, metrics, networks, runs


def _assemble() -> typer.Typer:
    """All commands, in the order in which --help lists them."""
    whole = typer.Typer(
        help="Unlimited Knowledge Distillation for action recognition in dark videos.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name, (description, stages) in experiments.WORK.items():
        whole.command(name, help=description)(experiments.working(stages))
    others: tuple[Callable[..., None], ...] = (
        experiments.demo,
        data.synth,
        experiments.study,
        costs.plan,
        inspection.status,
        inspection.report,
        inspection.verify,
        costs.gc,
        networks.models,
        networks.predict,
        networks.export,
        runs.submit,
        runs.cancel,
        inspection.doctor,
    )
    for command in others:
        whole.command()(command)
    whole.add_typer(logits.app, name="logits")
    whole.add_typer(data.app, name="data")
    whole.add_typer(metrics.app, name="metrics")
    whole.add_typer(kubernetes.app, name="k8s")
    return whole


app = _assemble()


def main() -> None:
    """The entry point."""
    app()
