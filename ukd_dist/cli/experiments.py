"""Commands that take an experiment: its stages, one by one or all, the demo, and studies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Experiment, Json, OfSplit, Overrides, Replace, Workers
from ukd_dist.printing.answers import console, print_answer, print_splits
from ukd_dist.printing.results import print_lines, print_scaling, print_scores, results_table, summary_table

if TYPE_CHECKING:
    from ukd_dist.experiment import Experiment as UkdExperiment
    from ukd_dist.stages.scaled import Scaled
    from ukd_dist.stages.studied import Study

# Command: what it is for, and its stages; None: all of them.
WORK: dict[str, tuple[str, list[str] | None]] = {
    "shard": ("Make shards of the videos.", ["shard"]),
    "teach": ("Train every teacher that is not trained, and write its logits.", ["teach"]),
    "reduce": ("Assemble the teachers' logits to targets.", ["reduce"]),
    "distill": ("Train the students with DeepSpeed.", ["distill"]),
    "evaluate": ("Measure the test accuracy of teachers, students and fusions.", ["evaluate"]),
    "run": ("Do everything that is not done yet: shard, teach, reduce, distill, evaluate, report.", None),
}


def working(stages: list[str] | None) -> Callable[..., None]:
    """A command that takes an experiment through the stages; None: through all of them."""
    if stages == ["distill"]:
        return distill

    def command(
        experiment: Experiment,
        overrides: Overrides = None,
        split: OfSplit = None,
        replace: Replace = False,
        as_json: Json = False,
        debug: Debug = False,
    ) -> None:
        with answering(debug):
            _run(experiment, overrides or [], stages, replace, as_json, split=split)

    return command


def distill(
    experiment: Experiment,
    overrides: Overrides = None,
    split: OfSplit = None,
    workers: Workers = None,
    replace: Replace = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """`working`, with an option of its own."""
    with answering(debug):
        _run(experiment, overrides or [], ["distill"], replace, as_json, workers, split)


def demo(
    overrides: Overrides = None,
    root: Annotated[Path, typer.Option(help="run directory")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="of the videos, teachers and students")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The whole method on a miniature ARID that it draws itself; minutes on two CPU cores."""
    chosen = [
        f"root={json.dumps(str(root))}",
        f"seed={seed}",
        f"data.seed={seed}",
        f"data.synthetic.seed={seed}",
    ]
    with answering(debug), as_file(files("ukd_dist") / "experiments" / "demo.yaml") as path:
        _run(path, [*chosen, *(overrides or [])], None, False, as_json)


def study(
    experiment: Experiment,
    overrides: Overrides = None,
    split: OfSplit = None,
    replace: Replace = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="score ways of making targets, without a student")
    ] = False,
    methods: Annotated[
        str, typer.Option(help="with --offline: weightings")
    ] = "avg,pkd,gtd,entropy,confidence,best",
    h: Annotated[str, typer.Option(help="with --offline: of pkd")] = "0.9,0.95,0.99,0.999",
    tau: Annotated[str, typer.Option(help="with --offline: temperatures")] = "1,2,5,10,20",
    spaces: Annotated[str, typer.Option(help="with --offline: what is summed")] = "logits,probs",
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="with --offline: whose teachers and rows; default: everyone"),
    ] = None,
    in_sample: Annotated[
        bool, typer.Option("--in-sample", help="with --offline: score training rows alone")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Accuracy, time, memory and cost as the number of teachers grows; or score targets alone (--offline)."""
    with answering(debug):
        from ukd_dist import pipeline, whole
        from ukd_dist.progress import Progress
        from ukd_dist.splits import parts

        loaded = pipeline.load(experiment, overrides or [])
        several = len(parts(loaded, split)) > 1
        if not offline:
            studies = whole.study(loaded, split=split, replace=replace, progress=Progress())
            print_splits(studies, several, as_json, _scaling_document, _print_scaling)
            return
        scope = {"methods": methods, "h": h, "tau": tau, "spaces": spaces}
        asked = {**scope, "target": target, "in_sample": in_sample}
        scores = whole.score(loaded, asked, split=split, progress=Progress())
        print_splits(scores, several, as_json, _scores_document, _print_scores)


def _scaling_document(answer: tuple[Scaled, Path]) -> dict[str, object]:
    from ukd_dist.stages.scaled import as_row

    done, page = answer
    levels = [{**as_row(level), "shares": dict(level.shares)} for level in done.levels]
    return {"report": str(page), "levels": levels, "runs": [asdict(run) for run in done.runs]}


def _print_scaling(answer: tuple[Scaled, Path]) -> None:
    done, page = answer
    print_scaling(done)
    print(f"report: {page}")


def _scores_document(answer: tuple[Study, Path]) -> dict[str, object]:
    done, page = answer
    scope = done.scope.model_dump(mode="json")
    return {"report": str(page), "scope": scope, "scores": [asdict(score) for score in done.scores]}


def _print_scores(answer: tuple[Study, Path]) -> None:
    done, page = answer
    print_scores(done)
    print(f"report: {page}")


def _run(
    path: Path,
    overrides: list[str],
    stages: list[str] | None,
    replace: bool,
    as_json: bool,
    workers: int | None = None,
    split: str | None = None,
) -> None:
    from ukd_dist import pipeline, whole
    from ukd_dist.progress import Progress
    from ukd_dist.splits import has_several, parts
    from ukd_dist.stages.joint import as_row, read_lines

    stages = stages or list(pipeline.STAGES)
    experiment = pipeline.load(path, overrides)
    page = whole.run(experiment, stages, split=split, replace=replace, workers=workers, progress=Progress())
    chosen, several, evaluated = parts(experiment, split), has_several(experiment), "evaluate" in stages
    lines = read_lines(experiment) if several and evaluated else []
    if as_json:
        documents = {name: _run_document(part, evaluated) for name, part in chosen.items()}
        joint = {"root": str(experiment.root), "report": str(page), "splits": documents}
        average = [as_row(line) for line in lines]
        print_answer({**joint, "average": average} if several else documents.popitem()[1], as_json)
        return
    for name, part in chosen.items() if evaluated else ():
        if several:
            print(f"{name}:")
        _print_results(part)
        if several:
            print()
    if lines:
        print_lines(lines)
    console().print(f"report: {page}")


def _run_document(experiment: UkdExperiment, evaluated: bool) -> dict[str, object]:
    """What a run of one split answers as JSON."""
    from ukd_dist.rundir import RunDirectory
    from ukd_dist.stages.report import PAGE, results_rows
    from ukd_dist.stages.summary import read_summary

    run = RunDirectory(experiment.root)
    return {
        "root": str(experiment.root),
        "report": str(run.report / PAGE),
        "results": [asdict(result) for result in results_rows(run, experiment)] if evaluated else [],
        "summary": [asdict(summary) for summary in read_summary(run, experiment)] if evaluated else [],
    }


def _print_results(experiment: UkdExperiment) -> None:
    """Tables of what one split's evaluation left."""
    from ukd_dist.rundir import RunDirectory
    from ukd_dist.stages.report import results_rows
    from ukd_dist.stages.summary import is_telling, read_summary

    run = RunDirectory(experiment.root)
    results, summaries = results_rows(run, experiment), read_summary(run, experiment)
    if results:
        console().print(results_table(results))
    if is_telling(summaries):
        console().print()
        console().print(summary_table(summaries))
