"""`init` as an experiment file says it: forms, paths, ids, who may start from whom."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ukd_dist import manifest, pipeline, whole
from ukd_dist.errors import UsageError
from ukd_dist.experiment import Experiment, resolved
from ukd_dist.initial import file_of, generations
from ukd_dist.progress import Progress
from ukd_dist.resolution import parse
from ukd_dist.rundir import RunDirectory, open_run
from ukd_dist.splits import parts
from ukd_dist.stages.initial import check_checkpoints

EXPERIMENT = """
name: study
root: {root}
data: {{source: synthetic, modalities: [rgb, flow], clip: {{frames: 16, size: 32, short_side: [32, 40]}}}}
teachers:
  defaults: {{arch: slowfast_tiny, modality: rgb}}
  fleet:
    - {{seed: 0}}
    - {{seed: 1}}
students: {{runs: [{{arch: slowfast_tiny, modality: rgb, name: baseline, targets: none}}]}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run"


def study(root: Path, *overrides: str) -> Experiment:
    return parse(EXPERIMENT.format(root=root), "study.yaml", list(overrides))


def answer(root: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as refused:
        study(root, *overrides)
    return str(refused.value).removeprefix("study.yaml: ")


def test_drawn_weights_are_no_setting_of_an_id_or_manifest(root: Path) -> None:
    said = study(root, "teachers.defaults.init=none")
    assert [t.id for t in said.teachers] == [t.id for t in study(root).teachers]
    assert "init" not in resolved(said.teachers[0].settings)


@pytest.mark.parametrize("init", ["kinetics400", "/nets/a.pth", "https://host/a.pth", "file:///nets/a.pth"])
def test_another_init_is_another_member(init: str, root: Path) -> None:
    said = study(root, f"teachers.defaults.init={init}", f"students.defaults.init={init}")
    plain = study(root)
    assert {m.settings.init for m in (*said.teachers, *said.students)} == {init}
    assert resolved(said.teachers[0].settings)["init"] == init
    assert {t.id for t in said.teachers}.isdisjoint(t.id for t in plain.teachers)
    assert said.students[0].id != plain.students[0].id


def test_paths_are_made_absolute_wherever_they_are_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = study(
        root,
        "teachers.defaults.init=./a.pth",
        "teachers.fleet.0={grid: {init: [nets/b.pth, none]}}",
        "students.runs.0.init=c.safetensors",
    )
    paths = [m.settings.init for m in (*said.teachers, *said.students)]
    assert paths == [
        str(tmp_path / "nets/b.pth"),
        "none",
        str(tmp_path / "a.pth"),
        str(tmp_path / "c.safetensors"),
    ]
    monkeypatch.chdir("/")
    again = parse(yaml.safe_dump(said.document), "again.yaml", [])
    assert [t.id for t in again.teachers] == [t.id for t in said.teachers]


def test_a_path_may_begin_at_somebodys_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    inits = ("~/a.pth", "~nobody-here/b.pth")
    said = [study(root, f"teachers.fleet.1.init='{init}'").teachers[1].settings.init for init in inits]
    assert said == ["/home/ada/a.pth", str(Path.cwd() / "~nobody-here/b.pth")]


def test_a_file_urls_path_is_unquoted() -> None:
    assert file_of("file:///nets/a%20b%23.pth") == Path("/nets/a b#.pth")


@pytest.mark.parametrize(
    "url", ["file://host/nets/a.pth", "file://nets/a.pth", "file://", "file:///nets/a#1.pth", "file:///a?1"]
)
def test_a_file_url_of_elsewhere_is_refused(url: str, root: Path) -> None:
    assert f"init {url} names no file of this machine; expected file:///path" in answer(
        root, f"teachers.fleet.1.init='{url}'"
    )


@pytest.mark.parametrize(
    ("init", "told"),
    [
        (
            "kinetics",
            "init 'kinetics' is unknown; expected none, kinetics400, a file's path or URL, or member:ID; did",
        ),
        ("imagenet", "init 'imagenet' is unknown; expected none, .*; write a file's path as ./imagenet"),
        (
            "s3://bucket/a.pth",
            "init s3://bucket/a.pth is of scheme 's3'; expected one of http, https, file; fetch",
        ),
        ("'member:'", "init 'member:' is unknown; expected none"),
    ],
)
def test_other_forms_are_refused(init: str, told: str, root: Path) -> None:
    assert answer(root, f"teachers.fleet.1.init={init}").startswith(
        f"teachers.fleet[1].init: {told.split('.*')[0]}"
    )


def test_a_teacher_starts_from_another_of_the_fleet(root: Path) -> None:
    first, _ = study(root).teachers
    said = study(root, f"teachers.fleet.1.init=member:{first.id}")
    assert said.teachers[1].settings.init == f"member:{first.id}"


def missing(experiment: Experiment) -> str:
    with pytest.raises(UsageError) as refused:
        check_checkpoints(RunDirectory(experiment.root), experiment)
    return str(refused.value)


def test_a_teacher_starts_from_a_finished_one_of_the_root(root: Path) -> None:
    (root / "teachers" / "x3d-rgb-s9-00000000").mkdir(parents=True)
    said = study(root, "teachers.fleet.1.init=member:x3d-rgb-s9-00000000")
    assert missing(said) == (
        f"{said.teachers[1].id} starts from member x3d-rgb-s9-00000000, which has no weights here; "
        f"expected a teacher of the fleet, or a finished one in {root}; correct its init"
    )
    (root / "teachers" / "x3d-rgb-s9-00000000" / "manifest.json").write_text("{}")
    check_checkpoints(RunDirectory(root), said)


def test_a_member_that_is_not_there_is_refused_with_the_nearest(root: Path) -> None:
    first, _ = study(root).teachers
    told = missing(study(root, f"teachers.fleet.1.init=member:{first.id[:-1]}x"))
    assert told.endswith(f"did you mean member:{first.id}?")


def test_a_root_is_read_though_the_member_that_a_finished_one_started_from_is_gone(root: Path) -> None:
    said = study(root, "teachers.fleet.1.init=member:gone-rgb-s9-00000000")
    run, child = RunDirectory(root), said.teachers[1]
    manifest.write_atomically(run.experiment, said.to_yaml().encode())
    assert open_run(root)[1].teachers == said.teachers
    manifest.commit(run.teacher(child.id), "teacher", resolved(child.settings), {}, [])
    check_checkpoints(run, said)


def test_each_split_has_its_own_finished_teachers(root: Path) -> None:
    splits = "{split0: {train: a, test: b}, split1: {train: c, test: d}}"
    data = f"data={{source: arid, videos: v, clip: {{frames: 16, size: 32}}, splits: {splits}}}"
    said = study(root, data, "teachers.fleet.1.init=member:x3d-rgb-s9-00000000")
    (root / "split0" / "teachers" / "x3d-rgb-s9-00000000").mkdir(parents=True)
    (root / "split0" / "teachers" / "x3d-rgb-s9-00000000" / "manifest.json").write_text("{}")
    first, second = parts(said).values()
    check_checkpoints(RunDirectory(first.root), first)
    assert "which has no weights here" in missing(second)
    with pytest.raises(UsageError, match=r"^split1: .* starts from member x3d-rgb-s9-00000000, which has no"):
        whole.run(said, ["teach"], progress=Progress())
    assert not (root / "experiment.yaml").exists()


def test_imported_teachers_have_no_weights_to_start_from(root: Path) -> None:
    told = answer(root, "teachers.imported=[theirs]", "teachers.fleet.1.init=member:theirs")
    assert "starts from the imported theirs, which has no weights; expected a teacher that was" in told


def test_a_teacher_of_another_network_is_refused(root: Path) -> None:
    first, _ = study(root).teachers
    told = answer(root, f"teachers.fleet.1={{arch: x3d_tiny, init: 'member:{first.id}'}}")
    assert (
        f"starts from {first.id}, which is a slowfast_tiny; expected another x3d_tiny; give it the same"
        in told
    )


def test_a_student_starts_from_no_teacher(root: Path) -> None:
    first, _ = study(root).teachers
    told = answer(root, f"students.runs.0.init=member:{first.id}")
    assert told.startswith(
        f"students.runs[0].init: init: member:{first.id} of a student; expected weights that are"
    )
    path = root / "teachers" / first.id / "model.safetensors"
    told = answer(root, f"students.runs.0.init={path}")
    assert told.startswith(
        f"student 'baseline' starts from the teacher's file {path}; expected weights that are no"
    )
    assert study(root, f"students.runs.0.init={root}/students/other/model.safetensors")


def refused_to_a_student(root: Path, path: Path | str) -> bool:
    try:
        study(root, f"students.runs.0.init={path}")
    except UsageError as refused:
        return f"student 'baseline' starts from the teacher's file {path}; expected weights" in str(refused)
    return False


def test_no_way_to_a_teachers_file_makes_it_another(root: Path, tmp_path: Path) -> None:
    id_ = study(root).teachers[0].id
    for run in (root, root / "split0", tmp_path / "other"):
        RunDirectory(run).teacher(id_).mkdir(parents=True)
        manifest.write_atomically(RunDirectory(run).experiment, b"")
    (tmp_path / "nets").symlink_to(root / "teachers" / id_)
    for way in ("run/split0/teachers", "run/students/../teachers", "other/teachers"):
        assert refused_to_a_student(root, tmp_path / way / id_ / "model.safetensors"), way
    assert refused_to_a_student(root, tmp_path / "nets" / "model.safetensors")
    assert not refused_to_a_student(root, tmp_path / "teachers" / "theirs.safetensors")


def test_a_manifest_beside_a_file_tells_whose_weights_it_holds(root: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("copied", "initial", "public", "student")}
    for name, place in places.items():
        init = {"initial": "member:x", "public": "kinetics400"}.get(name, "none")
        kind = {"copied": "teacher", "student": "student"}.get(name, "init")
        place.mkdir()
        manifest.commit(place, kind, {"init": init}, {}, [])
    found = {name: refused_to_a_student(root, place / "a.safetensors") for name, place in places.items()}
    assert found == {"copied": True, "initial": True, "public": False, "student": False}
    (places["student"] / manifest.FILENAME).write_text("of another program")
    assert not refused_to_a_student(root, places["student"] / "a.safetensors")


def test_members_that_start_from_others_come_after_them() -> None:
    inits = {"d": "member:b", "a": "none", "b": "member:a", "c": "kinetics400", "e": "member:gone"}
    assert generations(inits) == [["a", "c", "e"], ["b"], ["d"]]
    assert generations({}) == []


def test_public_weights_that_nobody_knows_are_refused_before_anything_runs(
    root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(EXPERIMENT.format(root=root))
    with pytest.raises(
        UsageError, match=r"-s1-.*: no public Kinetics-400 weights of slowfast_tiny are known"
    ):
        pipeline.load(path, ["teachers.fleet.1.init=kinetics400"])
    assert not root.exists()
