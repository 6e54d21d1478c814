"""Students that keep teachers in memory, as an experiment file says them: whom they keep, ids, refusals."""

from __future__ import annotations

import pytest

from tests.small_study import answer, study, teacher_ids
from ukd_dist.experiment import Experiment, resolved
from ukd_dist.target_config import Combination

ONLINE = "students.runs.1={name: online, targets: online, teachers: 2, temperature: 20}"


def online(*overrides: str) -> Experiment:
    return study(ONLINE, *overrides)


def run(**settings: str) -> str:
    """An override: the second student is online, with settings of its own."""
    said = {"name": "online", "targets": "online", "teachers": "2", "temperature": "20", **settings}
    return f"students.runs.1={{{', '.join(f'{key}: {value}' for key, value in said.items())}}}"


def refused(*overrides: str) -> str:
    """What the user is told, without the file's name."""
    return answer(*overrides).removeprefix("study.yaml: ")


def test_a_number_of_teachers_are_the_first_of_the_students_modality() -> None:
    (_, student) = online("students.defaults.modality=flow").students
    assert student.teachers == tuple(teacher_ids(online())[2:4])
    assert (student.target, student.target_name) == (None, "online")


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("{seed: 1}", [1]),
        ("{arch: x3d_tiny}", [4]),
        ("{modality: rgb, count: 3}", [0, 1, 4]),
        ("{count: 1}", [0]),
        ("{}", [0, 1, 4]),
    ],
)
def test_teachers_are_chosen_as_a_targets_are(selection: str, chosen: list[int]) -> None:
    (_, student) = study(run(teachers=selection)).students
    assert student.teachers == tuple(teacher_ids(online())[number] for number in chosen)


def test_teachers_are_chosen_by_their_ids() -> None:
    wanted = teacher_ids(online())[4]
    (_, student) = study(run(teachers=f"{{id: {wanted}}}")).students
    assert student.teachers == (wanted,)


def test_logits_are_weighed_by_pkd_unless_the_run_says_otherwise() -> None:
    assert online().students[1].combination == Combination(method="pkd")
    (_, student) = study(
        run(weighting="{method: avg, space: probs, temperature: 60}", temperature="null")
    ).students
    assert student.combination == Combination(method="avg", space="probs", temperature=60)
    assert student.settings.temperature == 60


def test_a_grid_over_numbers_of_teachers_makes_a_student_of_each() -> None:
    text = "students.runs.1={name: online, targets: online, temperature: 20, grid: {teachers: [1, 2, 3]}}"
    students = study(text).students[1:]
    assert [len(student.teachers) for student in students] == [1, 2, 3]
    assert len({student.id for student in students}) == 3


@pytest.mark.parametrize(
    "change",
    [
        "teachers.fleet.0.grid.seed=[7, 8]",
        "teachers.defaults.lr=0.5",
        "students.runs.1.teachers=1",
        "students.runs.1.weighting={method: avg}",
        "students.runs.1.weighting={h: 0.9, method: pkd}",
        "students.runs.1.temperature=5",
    ],
)
def test_other_teachers_or_another_weighting_change_the_students_id(change: str) -> None:
    before, after = online(), online(change)
    assert before.students[0].id == after.students[0].id
    assert before.students[1].id != after.students[1].id


@pytest.mark.parametrize(
    "change",
    [
        "students.runs.1.weighting={method: pkd}",
        "teachers.fleet.1.seed=9",  # of a teacher that it does not keep
        "teachers.keep=all",
        "targets={}",
    ],
)
def test_what_is_not_the_students_changes_no_id_of_it(change: str) -> None:
    assert online(change).students[1].id == online().students[1].id


def test_of_other_students_the_same_is_recorded_as_before_there_were_teachers_in_memory() -> None:
    known = {"teachers", "weighting"}
    assert [known & resolved(s.settings).keys() for s in online().students] == [set(), known]


def test_the_written_experiment_has_the_same_student() -> None:
    written = online().to_yaml()
    assert "targets: online" in written
    assert [s.id for s in study(run()).students] == [s.id for s in online().students]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [run(teachers="null")],
            "students.runs[1]: targets: online without teachers; expected how many are kept in memory, for "
            "example teachers: 2; give it teachers",
        ),
        (
            ["students.runs.1.teachers=2"],
            "students.runs[1]: teachers with targets: ukd; expected targets: online, whose teachers are kept "
            "in memory; remove teachers, or choose a target's teachers where it is defined",
        ),
        (
            ["students.runs.0.weighting={method: avg}"],
            "students.runs[0]: weighting with targets: none; expected targets: online",
        ),
        (
            [run(teachers="4")],
            "student 'online' keeps 4 teachers in memory, and the fleet has 3 of them; expected so many "
            "teachers of the fleet, of the student's modality; select others or fewer, or add to",
        ),
        ([run(teachers="0")], "students.runs[1].teachers.count is 0; expected greater than or equal to 1"),
        ([run(teachers="several")], "students.runs[1].teachers is 'several'; expected a valid dictionary"),
        ([run(teachers="{cuont: 2}")], "students.runs[1].teachers: unknown key 'cuont'; expected one of"),
        (
            ["teachers.imported=[theirs]", run(teachers="{id: theirs}")],
            "student 'online': teachers.id names theirs, which no teacher has; expected one of slowfast_tiny",
        ),
        (
            [run(weighting="{method: single}")],
            "student 'online' keeps 2 teachers in memory, and its weighting is of method single; expected "
            "one teacher with that method; set teachers: 1, or choose another weighting",
        ),
        ([run(temperature="null")], "student 'online' has no temperature; expected tau > 0"),
        (
            [run(weighting="{method: avg, space: probs, temperature: 60}")],
            "student 'online' has temperature 20, its target 60; expected the target's",
        ),
        (
            [run(view="stored")],
            "students.runs[1]: view: stored with targets: online; expected view: free: nothing is stored of "
            "its views; remove view, or name a target",
        ),
        (
            ["targets.online={method: avg}"],
            "targets names one 'online', which is what a student with its teachers in memory says",
        ),
    ],
)
def test_a_contradiction_is_named(overrides: list[str], message: str) -> None:
    assert refused(*overrides).startswith(message)


def test_a_teacher_of_another_modality_is_refused_since_it_would_need_other_clips() -> None:
    flow = teacher_ids(online())[2]
    assert refused(run(teachers="{modality: flow, count: 1}")) == (
        f"student 'online' sees rgb, and teacher {flow}, which it keeps in memory, flow; "
        "expected teachers of its own modality, since they see its very clips; "
        "select others, or learn from a target, whose teachers may see anything"
    )


def test_teachers_of_other_clips_are_refused() -> None:
    teacher = teacher_ids(online())[0]
    assert refused(run(clip="{frames: 8}")) == (
        f"student 'online' takes other clips than its teacher {teacher}: its clip.frames is 8, the teacher's "
        "16; expected equal clips of a student and its teachers in memory; "
        "give both the same clip.frames, or learn from a target"
    )
