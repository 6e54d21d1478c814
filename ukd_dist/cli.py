"""`ukd`: parse, call, print. Progress and logs go to stderr, results to stdout; no logic here."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from ukd_dist.errors import UkdError, UsageError, file_error
from ukd_dist.printing import (
    console,
    findings_table,
    members_table,
    print_answer,
    print_records,
    print_study,
    results_table,
    summary_table,
)

app = typer.Typer(
    help="Unlimited Knowledge Distillation for action recognition in dark videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_EXPERIMENT = typer.Argument(metavar="EXPERIMENT", help="YAML file (see launch/experiments)")
_OVERRIDES = typer.Argument(metavar="[a.b=value]...", help="settings that override the file's")
_ROOT = typer.Argument(metavar="ROOT", help="run directory")
_JSON = typer.Option("--json", help="results as JSON on stdout")
_DEBUG = typer.Option("--debug", help="tracebacks and debug logs")

logits_app = typer.Typer(help="Logits of every member, and of other systems.", no_args_is_help=True)
app.add_typer(logits_app, name="logits")
data_app = typer.Typer(help="What shards hold.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Experiment = Annotated[Path, _EXPERIMENT]
Overrides = Annotated[list[str] | None, _OVERRIDES]
Root = Annotated[Path, _ROOT]
Json = Annotated[bool, _JSON]
Debug = Annotated[bool, _DEBUG]
Replace = Annotated[bool, typer.Option("--replace", help="make again what other settings or inputs made")]


def _work_command(name: str, description: str, stages: list[str] | None = None) -> None:
    """Add a command that works on an experiment; without `stages`, through all of them."""

    def command(
        experiment: Experiment,
        overrides: Overrides = None,
        replace: Replace = False,
        as_json: Json = False,
        debug: Debug = False,
    ) -> None:
        with _answering(debug):
            _run(experiment, overrides or [], stages, replace, as_json)

    app.command(name, help=description)(command)


_work_command("shard", "Make shards of the videos.", ["shard"])
_work_command("teach", "Train every teacher that is not trained, and write its logits.", ["teach"])
_work_command("reduce", "Assemble the teachers' logits to targets.", ["reduce"])
_work_command("distill", "Train the students with DeepSpeed.", ["distill"])
_work_command("evaluate", "Measure the test accuracy of teachers, students and fusions.", ["evaluate"])
_work_command("run", "Do everything that is not done yet: shard, teach, reduce, distill, evaluate, report.")


@app.command()
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
    with _answering(debug), as_file(files("ukd_dist") / "experiments" / "demo.yaml") as path:
        _run(path, [*chosen, *(overrides or [])], None, False, as_json)


@app.command()
def synth(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="folder to write to")],
    seed: Annotated[int, typer.Option(min=0, help="of actors, scenes and motions")] = 0,
    train_clips: Annotated[int, typer.Option(min=1, help="training videos a class")] = 24,
    test_clips: Annotated[int, typer.Option(min=1, help="test videos a class")] = 20,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a miniature ARID: real H.264 files in ARID's layout, with lists in its format."""
    with _answering(debug):
        from ukd_dist.data import synthetic
        from ukd_dist.progress import Progress

        total = len(synthetic.CLASSES) * (train_clips + test_clips)
        with Progress().bar("videos", total, "videos") as bar:
            train, test = synthetic.write_dataset(
                dest,
                seed=seed,
                train_clips=train_clips,
                test_clips=test_clips,
                on_progress=lambda done, _: bar.update(done),
            )
        print_answer({"dest": str(dest), "train": train, "test": test}, as_json)


@app.command()
def study(
    experiment: Experiment,
    overrides: Overrides = None,
    offline: Annotated[bool, typer.Option("--offline", help="score targets without a student")] = False,
    methods: Annotated[str, typer.Option(help="weightings")] = "avg,pkd,gtd,entropy,confidence,best",
    h: Annotated[str, typer.Option(help="of pkd")] = "0.9,0.95,0.99,0.999",
    tau: Annotated[str, typer.Option(help="temperatures")] = "1,2,5,10,20",
    spaces: Annotated[str, typer.Option(help="what is summed")] = "logits,probs",
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="whose teachers and rows are taken; default: everyone")
    ] = None,
    in_sample: Annotated[bool, typer.Option("--in-sample", help="score training rows alone")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Which method, h, temperature and space make the best targets, judged on validation rows."""
    with _answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.progress import Progress

        if not offline:
            raise UsageError(
                "`ukd study` without --offline",
                expected="--offline: training students to compare is not there yet",
                action="give --offline",
            )
        asked = {"methods": methods, "h": h, "tau": tau, "spaces": spaces}
        chosen = {**asked, "target": target, "in_sample": in_sample}
        done, page = pipeline.study(pipeline.load(experiment, overrides or []), chosen, progress=Progress())
        if as_json:
            scores = [asdict(score) for score in done.scores]
            scope = done.scope.model_dump(mode="json")
            print_answer({"report": str(page), "scope": scope, "scores": scores}, as_json)
            return
        print_study(done)
        print(f"report: {page}")


@app.command()
def status(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """How far a run is; needs no cluster."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.status import read_status

        members = read_status(*open_run(root))
        if as_json:
            print_answer([asdict(member) for member in members], as_json)
            return
        console().print(members_table(members))


@app.command()
def report(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """Write the HTML report of a run, finished or not."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.report import report as write_report

        print_answer({"report": str(write_report(*open_run(root)))}, as_json)


@app.command()
def verify(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """Check every file of what is finished against its sha256; exit 1 names what is damaged."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.verify import refuse_damage
        from ukd_dist.stages.verify import verify as verify_files

        verdicts = []
        for verdict in verify_files(open_run(root)[0]):
            verdicts.append(verdict)
            if not as_json:
                state = verdict.problem or f"ok, {verdict.files} files, {verdict.bytes} bytes"
                print(f"{verdict.directory}: {state}", flush=True)
        if as_json:
            print_answer([asdict(verdict) for verdict in verdicts], as_json)
        refuse_damage(verdicts)


@data_app.command("show")
def data_show(
    place: Annotated[Path, typer.Argument(metavar="ROOT|SHARDS_DIR", help="run or shards directory")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="the contact sheet")] = Path(
        "contact-sheet.png"
    ),
    seed: Annotated[int, typer.Option(min=0, help="draws the samples that are shown")] = 0,
    gamma: Annotated[float, typer.Option(min=0.1, help="of the corrected frames")] = 3.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Figures of finished shards, and a contact sheet: a video of each class, corrected, and its flow."""
    with _answering(debug):
        from ukd_dist.stages.contact_sheet import write_contact_sheet
        from ukd_dist.stages.show import describe, measure, open_shards

        shards = open_shards(place)
        figures = measure(shards, seed=seed)
        write_contact_sheet(shards, out, gamma=gamma, seed=seed)
        if as_json:
            print_answer({**asdict(figures), "contact_sheet": str(out)}, as_json)
            return
        print(f"{describe(figures)}\n\ncontact sheet: {out}")


@logits_app.command("import")
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
    replace: Replace = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a teacher of another system's logits, matched by key and class."""
    with _answering(debug):
        from ukd_dist import pipeline
        from ukd_dist.rundir import RunDirectory
        from ukd_dist.stages.imports import Source, import_logits
        from ukd_dist.stages.listing import member_logits

        path, chosen = place, overrides or []
        if place.is_dir():
            path, chosen = RunDirectory(place).experiment, [*chosen, f"root={json.dumps(str(place))}"]
        experiment = pipeline.load(path, chosen)
        source = Source(file, teacher, trained_on, partial)
        directory = import_logits(experiment, source, replace=replace)
        print_records(list(member_logits(directory, "teacher")), as_json)


@logits_app.command("list")
def logits_list(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """What logits a run directory holds, of which rows and from where."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.listing import list_logits

        print_records(list_logits(open_run(root)[0]), as_json)


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What this machine has, and what will not work on it."""
    with _answering(debug):
        from ukd_dist.doctor import examine

        findings = examine()
        if as_json:
            print_answer([asdict(finding) for finding in findings], as_json)
            return
        console().print(findings_table(findings))


def main() -> None:
    """The entry point."""
    app()


def _run(path: Path, overrides: list[str], stages: list[str] | None, replace: bool, as_json: bool) -> None:
    from ukd_dist import pipeline
    from ukd_dist.progress import Progress
    from ukd_dist.rundir import RunDirectory
    from ukd_dist.stages.report import results_rows
    from ukd_dist.stages.summary import is_telling, read_summary

    stages = stages or list(pipeline.STAGES)
    experiment = pipeline.load(path, overrides)
    page = pipeline.run(experiment, stages, replace=replace, progress=Progress())
    run, evaluated = RunDirectory(experiment.root), "evaluate" in stages
    results = results_rows(run, experiment) if evaluated else []
    summaries = read_summary(run, experiment) if evaluated else []
    if as_json:
        print_answer(
            {
                "root": str(experiment.root),
                "report": str(page),
                "results": [asdict(result) for result in results],
                "summary": [asdict(summary) for summary in summaries],
            },
            as_json,
        )
        return
    if results:
        console().print(results_table(results))
    if is_telling(summaries):
        console().print()
        console().print(summary_table(summaries))
    console().print(f"report: {page}")


@contextmanager
def _answering(debug: bool) -> Iterator[None]:
    """Answer a user's errors with one line and an exit code; a traceback with --debug only."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        yield
    except UkdError as error:
        _fail(str(error), error.exit_code, debug)
    except OSError as error:
        _fail(str(file_error(error)), 1, debug)
    except Exception as error:  # noqa: BLE001 - the boundary: a user gets one line, --debug the rest
        _fail(f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", 1, debug)
    except KeyboardInterrupt:
        _fail("interrupted; run again to go on", 1, debug)


def _fail(message: str, exit_code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"ukd: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main()
