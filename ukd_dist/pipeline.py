"""The whole method on one page: which stage follows which.

    videos -> shards -> clips -> teachers -> logits -> targets -> student -> report

Each stage reads files under the run directory and writes files there, and does only what is not done, so that
`run` after a kill goes on where it was, and `run` on a finished root does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ukd_dist import resolution
from ukd_dist.cluster import RayCluster
from ukd_dist.coordination import working
from ukd_dist.data.shard_cache import open_to_decode
from ukd_dist.data.shards import ShardSet
from ukd_dist.data.sources import read_source
from ukd_dist.errors import BusyError, IncompleteError, MismatchError, UkdError, UsageError
from ukd_dist.expansion import validate
from ukd_dist.experiment import Experiment, StudentMember, TeacherMember
from ukd_dist.initial import KINETICS
from ukd_dist.models.catalogue import check
from ukd_dist.models.pretrained import published
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, open_run
from ukd_dist.scaling import studying
from ukd_dist.stages.adopt import provide_shards
from ukd_dist.stages.context import Context
from ukd_dist.stages.distill import distill
from ukd_dist.stages.evaluate import evaluate, evaluate_members
from ukd_dist.stages.examples import provide_examples
from ukd_dist.stages.initial import check_checkpoints
from ukd_dist.stages.launched import follow, joined, lead, student_named
from ukd_dist.stages.recompute import recompute
from ukd_dist.stages.reduce import reduce
from ukd_dist.stages.report import report
from ukd_dist.stages.scaled import Scaled
from ukd_dist.stages.scaling_results import read_scaled
from ukd_dist.stages.studied import Scope, Study
from ukd_dist.stages.study import study as score_targets
from ukd_dist.stages.teach import teach
from ukd_dist.stages.verify import Verdict
from ukd_dist.stages.verify import verify as verify_files


def _evaluate(context: Context) -> None:
    evaluate(context)
    provide_examples(context)


STAGES: Mapping[str, Callable[[Context], None]] = {
    "shard": provide_shards,  # videos to shards, or finished shards from elsewhere
    "teach": teach,  # clips of the shards to teachers and their logits
    "reduce": reduce,  # logits to targets
    "distill": distill,  # targets to students
    "evaluate": _evaluate,  # test accuracy of all of them, and pictures for the report
}
STUDY_STAGES = {**STAGES, "evaluate": evaluate_members}  # whose students are in no table of the experiment's


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment and check what its file alone can tell, networks and their clips included.

    Raises:
        UsageError: The experiment is wrong.
    """
    experiment = resolution.load(path, list(overrides))
    members: list[TeacherMember | StudentMember] = [*experiment.teachers, *experiment.students]
    for member in members:
        try:
            check(member.settings.arch, member.settings.clip)
            if member.settings.init == KINETICS:
                published(member.settings.arch)
        except UsageError as error:
            problem = f"{path}: {member.id}: {error.problem}"
            raise UsageError(problem, expected=error.expected, action=error.action) from error
    return experiment


def load_place(place: Path, overrides: Sequence[str] = ()) -> Experiment:
    """As `load`, of a file or of a run directory, wherever that lies by now."""
    if not place.is_dir():
        return load(place, overrides)
    return load(RunDirectory(place).experiment, [*overrides, f"root={json.dumps(str(place))}"])


def run(
    experiment: Experiment,
    stages: Sequence[str] = tuple(STAGES),
    *,
    replace: bool = False,
    workers: int | None = None,
    progress: Progress,
    cluster: RayCluster | None = None,
) -> Path:
    """Do the stages' work that is not done yet, in order, and write the report.

    Args:
        experiment: What is to be done, of one split.
        stages: Names from `STAGES`.
        replace: Make again what was made from other settings or inputs.
        workers: Ranks of every student in place of its own `workers`; what others began goes on with them.
        progress: Who is told.
        cluster: Where it runs; None: the experiment's own, for this run.

    Returns:
        The report's page.

    Raises:
        IncompleteError: Everything is done but by some teachers (`teachers.quorum`).
        UkdError: What stopped a stage. What was finished stays.
    """
    chosen = {name: STAGES[name] for name in stages}
    return _run(experiment, experiment, chosen, progress, replace, workers, cluster)


def study(
    experiment: Experiment,
    *,
    replace: bool = False,
    progress: Progress,
    cluster: RayCluster | None = None,
) -> tuple[Scaled, Path]:
    """As `run`, of the study over the number of teachers in place of the experiment's targets and students.

    Returns:
        The study, and the report's page.

    Raises:
        UsageError: Nothing can be studied there (`scaling.points`).
        IncompleteError: Some teachers failed: without them K would not be K.
        UkdError: As `run`.
    """
    asked = studying(experiment)
    page = _run(experiment, asked, STUDY_STAGES, progress, replace, None, cluster)
    scaled = read_scaled(RunDirectory(experiment.root), experiment)
    assert scaled is not None
    return scaled, page


def _run(
    experiment: Experiment,
    asked: Experiment,
    stages: Mapping[str, Callable[[Context], object]],
    progress: Progress,
    replace: bool,
    workers: int | None,
    cluster: RayCluster | None,
) -> Path:
    """Do the stages' work on what is asked of an experiment, and write its report."""
    data = experiment.data
    if "shard" in stages and data.shards is None and data.source != "synthetic":
        read_source(data)  # what is wrong with the lists is said before anything is written
    if {"teach", "distill"}.intersection(stages):
        check_checkpoints(RunDirectory(experiment.root), asked)
    try:
        with working(experiment, progress, replace, workers, cluster, asked) as work:
            missing = _work_through(stages, work, strict=asked is not experiment)
            if not work.cluster.was_asked:
                progress.say(f"{work.run.root}: nothing to do, {', '.join(stages)} done already")
        if missing is not None:
            raise missing
    except (BusyError, MismatchError, UsageError):  # refused: the root is as it was
        raise
    except UkdError:
        report(RunDirectory(experiment.root), experiment)
        raise
    return report(RunDirectory(experiment.root), experiment)


def _work_through(
    stages: Mapping[str, Callable[[Context], object]], work: Context, *, strict: bool
) -> IncompleteError | None:
    """Do the stages; returns what is said of teachers that the run goes on without, unless it is strict."""
    missing = None
    for stage in stages.values():
        try:
            stage(work)
        except IncompleteError as error:
            if strict:
                raise
            work.progress.say(f"going on without some: {error.problem}")
            missing = error
    return missing


def score(experiment: Experiment, scope: Mapping[str, object], *, progress: Progress) -> tuple[Study, Path]:
    """Score ways of making targets by the teachers' logits alone, and write the report.

    Args:
        experiment: Whose teachers.
        scope: The fields of `studied.Scope`.
        progress: Who is told.

    Returns:
        The study, and the report's page.

    Raises:
        UkdError: What stopped it.
    """
    wanted = validate(Scope, dict(scope), "ukd study", ())
    with working(experiment, progress) as work:
        done = score_targets(work, wanted)
    return done, report(work.run, experiment)


def distill_launched(
    experiment: Experiment,
    name: str,
    *,
    replace: bool = False,
    workers: int | None = None,
    progress: Progress,
) -> None:
    """Train one student as one of the ranks that torchrun or DeepSpeed's launcher started.

    Args:
        experiment: Whose student.
        name: Its name or id.
        replace: Make it again if it was made from other settings or inputs.
        workers: Ranks in place of its own `workers`; if others began it, these go on.
        progress: Who is told, by rank 0.

    Raises:
        UsageError: No such student, or not as many ranks as it has `workers`.
        UkdError: What stopped it.
    """
    member = student_named(experiment, name)
    run = RunDirectory(experiment.root)
    with joined(member.settings, experiment.cluster, workers) as rank:
        if rank != 0:
            follow(run.student(member.id))
            return
        lead(working(experiment, progress, replace, workers), member)
    report(run, experiment)


def verify(experiment: Experiment, num_rows: int = 0, seed: int = 0) -> Iterator[Verdict]:
    """Check every finished directory of a root; of trained teachers also recompute so many rows of logits.

    Raises:
        UsageError: There is no run there, or nothing to recompute from.
        ResourceError: Shards that were made elsewhere cannot be read.
    """
    run, _ = open_run(experiment.root)
    shards: ShardSet | None = None
    for verdict in verify_files(run):
        if num_rows and verdict.directory.startswith("teachers/"):
            shards = shards or open_to_decode(run.shards, experiment.cluster.shard_cache)
            yield recompute(run, experiment, shards, verdict, num_rows=num_rows, seed=seed)
        else:
            yield verdict
