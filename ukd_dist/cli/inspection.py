"""Commands that look at what there is: at a run directory, and at this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json, Overrides, Place, Root
from ukd_dist.printing.answers import as_documents, console, print_answer, print_splits
from ukd_dist.printing.checks import findings_table
from ukd_dist.printing.runs import print_members


def status(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """How far a run is; needs no cluster."""
    with answering(debug):
        from ukd_dist.splits import open_parts
        from ukd_dist.status import read_status

        found = open_parts(root)
        members = ((split, read_status(run, experiment)) for split, (run, experiment) in found.items())
        print_splits(members, len(found) > 1, as_json, as_documents, print_members)


def report(
    root: Root,
    form: Annotated[
        Literal["html", "md"],
        typer.Option("--format", help="html: say where the page is; md: print Markdown, for a pull request"),
    ] = "html",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run, finished or not: report/index.html, and its tables as report/report.md."""
    with answering(debug):
        from ukd_dist import whole
        from ukd_dist.splits import open_parts
        from ukd_dist.stages.report import MARKDOWN

        page = whole.write_reports(root)
        if form == "html" or as_json:
            print_answer({"report": str(page)}, as_json)
            return
        for run, _ in open_parts(root).values():
            print((run.report / MARKDOWN).read_text(encoding="utf-8"))


def verify(
    place: Place,
    overrides: Overrides = None,
    recompute: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="compute N rows of each teacher's logits again, and compare"),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="of the choice of these rows")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every file of what is finished against its sha256; exit 1 names what is damaged."""
    with answering(debug):
        from ukd_dist import pipeline, whole
        from ukd_dist.printing.checks import describe_verdict
        from ukd_dist.stages.verify import refuse_damage

        verdicts = []
        for verdict in whole.verify(pipeline.load_place(place, overrides or []), recompute, seed):
            verdicts.append(verdict)
            if not as_json:
                print(f"{verdict.directory}: {describe_verdict(verdict)}", flush=True)
        if as_json:
            print_answer([asdict(verdict) for verdict in verdicts], as_json)
        refuse_damage(verdicts)


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What this machine has, and what will not work on it."""
    with answering(debug):
        from ukd_dist.doctor import examine

        findings = examine()
        if as_json:
            print_answer([asdict(finding) for finding in findings], as_json)
            return
        console().print(findings_table(findings))
