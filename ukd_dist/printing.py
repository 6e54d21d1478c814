"""What `ukd` prints on stdout: JSON, lines of words, and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ukd_dist.doctor import Finding
    from ukd_dist.kubernetes.check import Verdict as ManifestVerdict
    from ukd_dist.models.overview import Overview
    from ukd_dist.stages.garbage import Collection
    from ukd_dist.stages.joint import Line
    from ukd_dist.stages.plan import Plan
    from ukd_dist.stages.predict import Prediction
    from ukd_dist.stages.results import Result
    from ukd_dist.stages.scaled import Scaled
    from ukd_dist.stages.statistics import Estimate
    from ukd_dist.stages.studied import Study
    from ukd_dist.stages.summary import Summary
    from ukd_dist.stages.verify import Verdict
    from ukd_dist.status import MemberStatus

Answer = TypeVar("Answer")


def as_documents(records: Sequence[Any]) -> list[dict[str, Any]]:
    """Dataclasses as JSON-like values."""
    return [asdict(record) for record in records]


def print_records(records: Sequence[Any]) -> None:
    """Print dataclasses of one kind, a line each, however narrow the terminal is."""
    documents = as_documents(records)
    names = [name.replace("_", " ") for name in (documents[0] if documents else ())]
    _print_aligned([names, *([str(value) for value in document.values()] for document in documents)])


def print_prediction(prediction: Prediction, as_json: bool) -> None:
    """Print a video's classes as one line, at once."""
    first, *others = prediction.top
    if as_json:
        top = [{"class": share.class_name, "probability": share.probability} for share in prediction.top]
        print(json.dumps({"video": prediction.video, **top[0], "top5": top}), flush=True)
        return
    rest = ", ".join(f"{share.class_name} {share.probability:.1%}" for share in others)
    print(f"{prediction.video}: {first.class_name} {first.probability:.1%} ({rest})", flush=True)


def print_networks(networks: Sequence[Overview], as_json: bool) -> None:
    """Print a line of each network, however narrow the terminal is."""
    if as_json:
        print_answer(as_documents(networks), as_json)
        return
    lines = [["name", "parameters", "GMACs", "of a clip", "frames seen", "builder", "kinetics400", "source"]]
    for n in networks:
        seen = " + ".join("all" if every == 1 else f"1 in {every}" for every in n.every)
        clip = f"{n.frames} x {n.size} x {n.size}"
        figures = f"{n.parameters / 1e6:.2f} M", f"{n.gmacs:.4g}"
        lines.append([n.name, *figures, clip, seen, n.builder, n.pretrained or "-", n.source])
    _print_aligned(lines, right=(1, 2))


def print_scaling(scaled: Scaled) -> None:
    """Print a line of each number of teachers, however narrow the terminal is."""
    lines = [["taught by", "K", "repeats", "test top-1 %", "s an epoch", "peak MiB", "device-seconds", ""]]
    lines.append(["", "", "", "", "", "", "teachers", "student"])
    for name, levels in scaled.lines.items():
        lines += [
            [
                *(name, str(level.teachers), str(level.repeats)),
                *(_estimate(level.top1, 100.0, 1), _estimate(level.epoch_seconds, 1.0, 2)),
                _estimate(level.peak_mib, 1.0, 0),
                *(_whole(level.teacher_device_seconds), _whole(level.student_device_seconds)),
            ]
            for level in levels
        ]
    _print_aligned(lines, right=(1, 2, 3, 4, 5, 6, 7))


def print_scores(study: Study) -> None:
    """Print a line of each score of an offline study, however narrow the terminal is."""
    names = ["method", "h", "tau", "space", "weights", "rows", "top-1", "NLL", "ECE", "entropy"]
    lines, rows = [names], study.scores[0].rows
    for s in study.scores:
        if s.rows != rows:
            lines.append([""] * len(names))
            rows = s.rows
        h = "-" if s.h is None else f"{s.h:g}"
        figures = (f"{s.top1:.1%}", f"{s.nll:.3f}", f"{s.ece:.3f}", f"{s.entropy:.3f}")
        lines.append([s.method, h, f"{s.tau:g}", s.space, s.weights, f"{s.num_rows} {s.rows}", *figures])
    _print_aligned(lines, right=(1, 2, 6, 7, 8, 9))
    teachers = study.scores[0].teachers
    print(
        f"\nteachers: {teachers}; NLL and entropy in nats; weights of 'labels' know the row's own: an oracle"
    )


def print_members(members: Sequence[MemberStatus]) -> None:
    """Print a line of each member's progress, however narrow the terminal is; there may be a thousand."""
    lines = [["kind", "id", "state", "epochs", "train top-1", "time", "attempt", "error"]]
    for m in members:
        epochs = f"{m.epoch}/{m.epochs}" if m.epochs else ""
        accuracy = f"{m.accuracy:.1%}" if m.accuracy is not None else ""
        seconds = f"{m.seconds:.0f} s" if m.seconds else ""
        if m.eta_seconds is not None:
            seconds += f" +{m.eta_seconds:.0f} s"
        attempt = f"{m.attempt} {m.host}" if m.attempt else ""
        error = " ".join(m.error.split())
        lines.append([m.kind, m.id, m.state, epochs, accuracy, seconds, attempt, error])
    _print_aligned(lines)


def print_collection(collection: Collection, *, dropped: bool) -> None:
    """Print how much of each kind is dropped, or would be."""
    kinds: dict[str, list[int]] = {}
    for item in collection.excess:
        kinds.setdefault(item.what, []).append(item.bytes)
    lines = [[what, str(len(sizes)), _bytes(sum(sizes))] for what, sizes in kinds.items()]
    verb = "dropped" if dropped else "would be dropped"
    _print_aligned(
        [
            [verb, "items", "size"],
            *lines,
            ["all", str(len(collection.excess)), _bytes(collection.bytes)],
        ],
        right=(1, 2),
    )


def print_plan(plan: Plan) -> None:
    """Print a fleet's packing, time and storage, however narrow the terminal is."""
    names = (
        "network",
        "modality",
        "members",
        "done",
        "CPUs",
        "GPUs",
        "at once",
        "epoch",
        "each",
        "known from",
    )
    lines = [
        [
            *(group.arch, group.modality, str(group.members), str(group.finished)),
            *(f"{group.cpus:g}", f"{group.gpus:g}", str(group.at_once)),
            *(_seconds(group.epoch_seconds), _seconds(group.seconds), group.pace),
        ]
        for group in plan.groups
    ]
    _print_aligned([names, *lines], right=(2, 3, 4, 5, 6, 7, 8))
    nodes = [f"{plan.nodes.count(node)} x ({node})" for node in dict.fromkeys(plan.nodes)]
    print(f"\nnodes: {'; '.join(nodes)}; at most {plan.at_once} teachers at once")
    print(f"time: {_seconds(plan.left_seconds)} left, {_seconds(plan.whole_seconds)} from nothing")
    kept = ", ".join(f"{_bytes(size)} with keep: {keep}" for keep, size in plan.teacher_bytes.items())
    print(f"teachers: {kept}; checkpoints while they train: {_bytes(plan.training_bytes)}")
    print(f"targets: {_bytes(plan.target_bytes)}; free there: {_bytes(plan.free_bytes)}")
    for note in plan.notes:
        print(f"note: {note}")


def describe_verdict(verdict: Verdict) -> str:
    """What was found of a directory, in words."""
    if verdict.problem:
        return verdict.problem
    words = f"ok, {verdict.files} files, {verdict.bytes} bytes"
    if verdict.difference is not None:
        words += f"; {verdict.recomputed} rows recomputed, off by {verdict.difference:.1g} of a logit at most"
    return f"{words}; {verdict.note}" if verdict.note else words


def print_manifest_verdicts(found: Sequence[ManifestVerdict]) -> None:
    """Print a line of each problem, how many objects there are, and of which kinds no schema is known."""
    for verdict in found:
        for problem in verdict.problems:
            print(f"{verdict.where}: {verdict.object}: {problem}")
    objects = [verdict for verdict in found if verdict.object != "together"]
    unknown = sorted({verdict.object.partition("/")[0] for verdict in objects if not verdict.schema})
    print(f"{len(objects)} objects, {sum(len(verdict.problems) for verdict in found)} problems")
    if unknown:
        print(f"no schema is known of {', '.join(unknown)}: of these only what their pods say was validated")


def _estimate(found: Estimate | None, factor: float, digits: int) -> str:
    """A mean with half of its 95% interval, where there is one."""
    if found is None:
        return "-"
    margin = f" ± {factor * found.margin:.{digits}f}" if found.margin else ""
    return f"{factor * found.mean:.{digits}f}{margin}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _bytes(size: float) -> str:
    """Bytes with three digits or so: 512 B, 3.4 MB, 270 GB."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while size >= 1000 and len(units) > 1:
        size, _ = size / 1000, units.pop()
    return f"{size:.0f} {units[-1]}" if size >= 100 or units[-1] == "B" else f"{size:.1f} {units[-1]}"


def _seconds(seconds: float | None) -> str:
    """A duration with two digits or so, ? where it is unknown."""
    if seconds is None:
        return "?"
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _print_aligned(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print columns as wide as their widest word; those numbered in `right` end at their right edge."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            word.rjust(width) if column in right else word.ljust(width)
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def findings_table(findings: Sequence[Finding]) -> Table:
    """A line of each thing that a machine has or lacks."""
    table = Table("", "what", "found", "means", box=None, pad_edge=False)
    for finding in findings:
        mark = {"ok": "[green]ok[/]", "note": "[yellow]--[/]", "missing": "[red]no[/]"}[finding.verdict]
        table.add_row(mark, finding.what, finding.found, finding.means)
    return table


def results_table(results: Sequence[Result]) -> Table:
    """A line of each member that was evaluated."""
    columns = ("kind", "name", "modality", "seed", "target", "test top-1", "correct")
    table = Table(*columns, box=None, pad_edge=False)
    for r in results:
        correct = f"{r.correct}/{r.clips}"
        table.add_row(r.kind, r.name, r.modality, str(r.seed), r.target or "-", f"{r.top1:.1%}", correct)
    return table


def summary_table(summaries: Sequence[Summary]) -> Table:
    """A line of each summary over repeats."""
    table = Table("kind", "name", "modality", "target", box=None, pad_edge=False)
    for column in ("runs", "mean %", "deviation", "published %"):
        table.add_column(column, justify="right")
    for s in summaries:
        percents = (s.mean_percent, s.deviation_percent, s.published_percent)
        figures = ("-" if percent is None else f"{percent:.1f}" for percent in percents)
        name = f"{s.name} ({s.note})" if s.note else s.name
        table.add_row(s.kind, name, s.modality, s.target or "-", str(s.runs), *figures)
    return table


def print_lines(lines: Sequence[Line]) -> None:
    """Print a line of each member or fusion over the splits, however narrow the terminal is."""
    splits = list(lines[0].splits)
    rows = [["kind", "name", "modality", "target", *(f"{s} %" for s in splits), "average %", "published %"]]
    for line in lines:
        means = [line.splits[split].mean_percent for split in splits]
        percents = (*means, line.average_percent, line.published_percent)
        name = f"{line.name} ({line.note})" if line.note else line.name
        figures = ("-" if percent is None else f"{percent:.1f}" for percent in percents)
        rows.append([line.kind, name, line.modality, line.target or "-", *figures])
    _print_aligned(rows, right=range(4, len(rows[0])))


def print_splits(
    answers: Iterable[tuple[str, Answer]],
    several: bool,
    as_json: bool,
    document: Callable[[Answer], object],
    show: Callable[[Answer], None],
) -> None:
    """Print what a command answers of each split: under its name, where there are several.

    Args:
        answers: The splits' names and answers, printed as they come.
        several: Whether there is more than one; otherwise the answer stands for itself.
        as_json: Print one JSON document at the end, of several an object by split.
        document: An answer as JSON-like values.
        show: Prints an answer.
    """
    documents = {}
    for split, answer in answers:
        if as_json:
            documents[split] = document(answer)
            continue
        if several:
            print(f"{split}:")
        show(answer)
    for found in [documents] if several else documents.values():
        print_answer(found, as_json)


def print_answer(value: object, as_json: bool) -> None:
    """Print a value as JSON, or a mapping as lines; of other values nothing but JSON is printed."""
    if as_json:
        print(json.dumps(value, indent=1), flush=True)
    elif isinstance(value, dict):
        for key, item in value.items():
            print(f"{key}: {item}", flush=True)


def console() -> Console:
    """Where tables go, however narrow the terminal is."""
    return Console(highlight=False, soft_wrap=True)
