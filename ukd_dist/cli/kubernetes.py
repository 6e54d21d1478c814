"""Commands about Kubernetes: an experiment as manifests, and manifests validated without a cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Experiment, Json, Overrides
from ukd_dist.printing.answers import print_answer
from ukd_dist.printing.checks import print_manifest_verdicts

app = typer.Typer(help="Manifests for Kubernetes with KubeRay.", no_args_is_help=True)


@app.command("render")
def k8s_render(
    experiment: Experiment,
    overrides: Overrides = None,
    overlay: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="of k8s/overlays, or a kustomization of your own")
    ] = "gpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """An experiment as manifests, for `kubectl apply --server-side -f -`; its paths are those of the pods."""
    with answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.kubernetes.manifests import dump
        from ukd_dist.kubernetes.render import render

        objects = render(pipeline.load(experiment, overrides or []), overlay)
        if as_json:
            print_answer({"apiVersion": "v1", "kind": "List", "items": objects}, as_json)
        else:
            print(dump(objects), end="")


@app.command("check")
def k8s_check(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="file, - for stdin, or kustomization; default: every overlay"),
    ] = None,
    crds: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="folder with KubeRay's definitions (CustomResourceDefinitions)"
        ),
    ] = None,
    kubernetes: Annotated[
        str | None, typer.Option(metavar="1.N", help="version of Kubernetes; default: the newest known")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Validate manifests without a cluster: by schemas, strictly, and against each other."""
    with answering(debug):
        from ukd_dist.kubernetes.check import check, refuse_problems
        from ukd_dist.kubernetes.schemas import Schemas

        found = check(place, Schemas(kubernetes, crds))
        if as_json:
            print_answer([asdict(verdict) for verdict in found], as_json)
        else:
            print_manifest_verdicts(found)
        refuse_problems(found)
