"""A coordinator at work: whose students may wait for weights, whatever the work is on."""

from __future__ import annotations

from pathlib import Path

from tests.stages import fake_run
from ukd_dist.coordination import working
from ukd_dist.experiment import Experiment, StudentMember
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory
from ukd_dist.scaling import begin, studying


def load(root: Path) -> Experiment:
    settings = ("study={teachers: [1], repeats: 1, online: 1}", "cluster.metrics_port=null")
    return parse(fake_run.EXPERIMENT.format(root=root), "test", list(settings))


def waiting(experiment: Experiment, asked: Experiment | None = None) -> set[str]:
    with working(experiment, Progress(), asked=asked) as work:
        return ids(work.waiting)


def ids(*students: tuple[StudentMember, ...]) -> set[str]:
    return {student.id for some in students for student in some}


def test_students_of_a_begun_study_are_waited_for_while_the_experiment_runs(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert waiting(experiment) == ids(experiment.students)
    begin(RunDirectory(tmp_path))
    assert waiting(experiment) == ids(experiment.students, studying(experiment).students)


def test_the_experiments_own_students_are_waited_for_while_its_study_runs(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    study = studying(experiment)
    assert waiting(experiment, asked=study) == ids(experiment.students, study.students)
