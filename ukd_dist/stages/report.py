"""The run on one page: what is done, what was measured, what it cost, and what was run.

Reads what the other stages left under the root and disturbs nothing, so a run that is going on or that failed
has a page too: what is missing is marked as missing. The page holds no clock: the same run gives the same
bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ukd_dist import __version__, manifest
from ukd_dist.experiment import Experiment
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.cards import read_cards
from ukd_dist.stages.charts import SHARE, Scale
from ukd_dist.stages.curves import scaling_charts, study_charts, training_charts
from ukd_dist.stages.figures import draw_scaling
from ukd_dist.stages.findings import Member, compare, costs, flat, read_fusions, read_groups
from ukd_dist.stages.markdown import markdown
from ukd_dist.stages.provenance import read_origins, write_origins
from ukd_dist.stages.results import Result
from ukd_dist.stages.sayings import read_sayings
from ukd_dist.stages.scaled import Scaled, write_scaled
from ukd_dist.stages.scaling_results import read_scaled
from ukd_dist.stages.studied import read_study
from ukd_dist.stages.summary import is_telling, summarise, write_summary
from ukd_dist.stages.tables import write_changed
from ukd_dist.status import STATES, MemberStatus, is_held, read_status
from ukd_dist.training.history import Epoch

PAGE, MARKDOWN = "index.html", "report.md"


def report(run: RunDirectory, experiment: Experiment) -> Path:
    """Write the page of a run, finished or not, the same as Markdown, its tables and the study's figure.

    Returns:
        Path of the page.

    Raises:
        DataError: A manifest, or a finished target's opinions.json, is damaged.
    """
    contents = _contents(run, experiment)
    page = environment().get_template("report.html.j2").render(contents)
    write_origins(run, contents["origins"])
    write_summary(run, contents["summaries"])
    if contents["scaled"] is not None:
        write_scaled(run, contents["scaled"])
        draw_scaling(run, contents["scaled"], experiment.name)
    write_changed(run.report / MARKDOWN, markdown(contents).encode())
    path = run.report / PAGE
    manifest.write_atomically(path, page.encode())
    return path


def environment() -> Environment:
    """Where the pages' templates are, and how they are read."""
    return Environment(
        loader=PackageLoader("ukd_dist", "stages/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def results_rows(run: RunDirectory, experiment: Experiment) -> list[Result]:
    """What is evaluated: teachers, students, fusions, each in the experiment's order."""
    groups = [*read_groups(run, experiment), *read_fusions(run, experiment)]
    return [m.result for group in groups for m in group.members if m.result]


def _contents(run: RunDirectory, experiment: Experiment) -> dict[str, Any]:
    """All that the template shows."""
    groups, fusions = read_groups(run, experiment), read_fusions(run, experiment)
    teachers, students = ([g for g in groups if g.kind == kind] for kind in ("teacher", "student"))
    members, statuses = [m for g in (*groups, *fusions) for m in g.members], read_status(run, experiment)
    shards = manifest.read(run.shards)
    classes = list(shards.settings["classes"]) if shards else []
    chance = 1 / len(classes) if classes else None
    comparisons = compare(students)
    summaries = summarise([*groups, *fusions], experiment.published)
    origins = read_origins(run, experiment)
    scaled = read_scaled(run, experiment)
    studied = {one.student for one in scaled.runs} | {one.target for one in scaled.runs} if scaled else set()
    own = [status for status in statuses if status.id not in studied]
    study = read_study(run, experiment)
    return {
        "version": __version__,
        "experiment": experiment,
        "state": _state(own, members, scaled, is_held(run)),
        "progress": _progress(statuses, members),
        "failures": [status for status in statuses if status.state == "failed"],
        "data": flat(experiment.document["data"]),
        "shards": shards,
        "classes": classes,
        "chance": chance,
        "support": next(([sum(row) for row in m.result.confusion] for m in members if m.result), []),
        "sections": [("Teachers", teachers), ("Students", students), ("Fusions", fusions)],
        "members": [*teachers, *students],
        "students": students,
        "fusions": fusions,
        "comparisons": comparisons,
        "summaries": summaries,
        "telling": is_telling(summaries),
        "origins": origins,
        "cards": read_cards(teachers, origins, chance),
        "study": study,
        "study_curves": study_charts(study) if study else ([], []),
        "scaled": scaled,
        "scaling_charts": scaling_charts(scaled) if scaled else ([], []),
        "target_states": {status.id: status.state for status in statuses if status.kind == "target"},
        "told": read_sayings(run, experiment, students),
        "costs": [
            ("s", "seconds an epoch", costs(students, _median_seconds)),
            ("MiB", "peak memory, MiB", costs(students, _peak_mib)),
        ],
        "teacher_seconds": [
            sum(e.seconds for e in m.history) for g in teachers for m in g.members if m.history
        ],
        "curves": [
            ("Teachers", *training_charts(teachers, chance)),
            ("Students", *training_charts(students, chance)),
        ],
        "share": SHARE,
        "difference_scale": Scale.over(
            [abs(c.top1.mean) + c.top1.margin for c in comparisons if c.top1], symmetric=True
        ),
        "scale_over": Scale.over,
    }


def _median_seconds(history: Sequence[Epoch]) -> float:
    return median(epoch.seconds for epoch in history)


def _peak_mib(history: Sequence[Epoch]) -> float:
    return max(epoch.peak_memory_bytes for epoch in history) / 2**20


def _state(own: Sequence[MemberStatus], members: Sequence[Member], scaled: Scaled | None, held: bool) -> str:
    """Done is a run whose own members are, or one that was for its study, when that is."""
    if all(s.state == "done" for s in own) and all(m.result for m in members):
        return "done"
    if scaled is not None and all(one.top1 is not None for one in scaled.runs):
        return "done"
    return "going on" if held else "not finished"


def _progress(statuses: Sequence[MemberStatus], members: Sequence[Member]) -> list[str]:
    """One phrase a stage: how much is done, and what became of the rest."""
    phrases = []
    for kind in ("shards", "teacher", "target", "student"):
        counts = Counter(s.state for s in statuses if s.kind == kind)
        rest = [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
        if kind == "shards":
            phrases.append(f"shards {'done' if not rest else rest[0].removeprefix('1 ')}")
        elif counts:
            phrases.append(", ".join([f"{kind}s: {counts['done']} of {counts.total()} done", *rest]))
    return [*phrases, f"evaluated: {sum(m.result is not None for m in members)} of {len(members)}"]
