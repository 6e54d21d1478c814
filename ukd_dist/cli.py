"""`ukd`: parse, call, print. Progress and logs go to stderr, results to stdout; no logic here."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ukd_dist.errors import UkdError, file_error

if TYPE_CHECKING:
    from ukd_dist.stages.evaluate import Result
    from ukd_dist.stages.summary import Summary

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
        _print({"dest": str(dest), "train": train, "test": test}, as_json)


@app.command()
def status(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """How far a run is; needs no cluster."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.status import read_status

        members = read_status(*open_run(root))
        if as_json:
            _print([asdict(member) for member in members], as_json)
            return
        table = Table(
            "kind", "id", "state", "epochs", "train top-1", "time", "error", box=None, pad_edge=False
        )
        for m in members:
            epochs = f"{m.epoch}/{m.epochs}" if m.epochs else ""
            accuracy = f"{m.accuracy:.1%}" if m.accuracy is not None else ""
            table.add_row(
                m.kind, m.id, m.state, epochs, accuracy, f"{m.seconds:.0f} s" if m.seconds else "", m.error
            )
        _console().print(table)


@app.command()
def report(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """Write the HTML report of a run, finished or not."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.report import report as write_report

        _print({"report": str(write_report(*open_run(root)))}, as_json)


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
            _print([asdict(verdict) for verdict in verdicts], as_json)
        refuse_damage(verdicts)


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
        _print_records(list(member_logits(directory, "teacher")), as_json)


@logits_app.command("list")
def logits_list(root: Root, as_json: Json = False, debug: Debug = False) -> None:
    """What logits a run directory holds, of which rows and from where."""
    with _answering(debug):
        from ukd_dist.rundir import open_run
        from ukd_dist.stages.listing import list_logits

        _print_records(list_logits(open_run(root)[0]), as_json)


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What this machine has, and what will not work on it."""
    with _answering(debug):
        from ukd_dist.doctor import examine

        findings = examine()
        if as_json:
            _print([asdict(finding) for finding in findings], as_json)
            return
        table = Table("", "what", "found", "means", box=None, pad_edge=False)
        for finding in findings:
            mark = {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]no[/]"}[finding.verdict]
            table.add_row(mark, finding.what, finding.found, finding.means)
        _console().print(table)


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
        _print(
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
        _console().print(_results_table(results))
    if is_telling(summaries):
        _console().print()
        _console().print(_summary_table(summaries))
    _console().print(f"report: {page}")


def _print_records(records: Sequence[Any], as_json: bool) -> None:
    """Print dataclasses of one kind, a line each, however narrow the terminal is."""
    documents = [asdict(record) for record in records]
    if as_json:
        _print(documents, as_json)
        return
    names = [name.replace("_", " ") for name in (documents[0] if documents else ())]
    lines = [names, *([str(value) for value in document.values()] for document in documents)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def _results_table(results: Sequence[Result]) -> Table:
    columns = ("kind", "name", "modality", "seed", "target", "test top-1", "correct")
    table = Table(*columns, box=None, pad_edge=False)
    for r in results:
        correct = f"{r.correct}/{r.clips}"
        table.add_row(r.kind, r.name, r.modality, str(r.seed), r.target or "-", f"{r.top1:.1%}", correct)
    return table


def _summary_table(summaries: Sequence[Summary]) -> Table:
    table = Table("kind", "name", "modality", "target", box=None, pad_edge=False)
    for column in ("runs", "mean %", "deviation", "published %"):
        table.add_column(column, justify="right")
    for s in summaries:
        percents = (s.mean_percent, s.deviation_percent, s.published_percent)
        figures = ("-" if percent is None else f"{percent:.1f}" for percent in percents)
        name = f"{s.name} ({s.note})" if s.note else s.name
        table.add_row(s.kind, name, s.modality, s.target or "-", str(s.runs), *figures)
    return table


def _print(value: object, as_json: bool) -> None:
    if as_json:
        print(json.dumps(value, indent=1))
    elif isinstance(value, dict):
        for key, item in value.items():
            print(f"{key}: {item}")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


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
