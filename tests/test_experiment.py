"""What an experiment file means: grids, defaults, overrides, and the resolved file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_study import FOLDER, NO_VIDEOS, STUDY, TAKEN, answer, members, study
from ukd_dist import pipeline
from ukd_dist.config import ExperimentFile
from ukd_dist.errors import UsageError
from ukd_dist.method.weighting import Method, Weighting
from ukd_dist.resolution import load, parse
from ukd_dist.target_config import Target

# --- What a file resolves to -------------------------------------------------------------------------------


def test_a_student_of_probabilities_takes_its_targets_temperature() -> None:
    (_, student) = study("students.runs.1={name: ukd, targets: avg2}").students
    assert student.settings.temperature == 60


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), st.permutations(["rgb", "flow"]))
def test_a_grid_expands_to_its_product(seeds: list[int], modalities: list[str]) -> None:
    grid = json.dumps({"seed": seeds, "modality": modalities})
    found = study(f"teachers.fleet.0.grid={grid}", "teachers.fleet.1.modality=rgb").teachers[:-1]
    wanted = [(seed, modality) for seed in seeds for modality in modalities]
    assert [(t.settings.seed, t.settings.modality) for t in found] == wanted


def test_an_entry_inherits_the_seed_and_the_clip() -> None:
    inherits, *_ = (t.settings for t in study().teachers if t.settings.arch == "x3d_tiny")
    assert inherits.seed == 3
    assert inherits.clip == study().data.clip


def test_an_entry_beats_the_defaults_and_the_defaults_beat_what_is_inherited() -> None:
    found = study("teachers.defaults.seed=5", "teachers.fleet.1.epochs=9").teachers[-1].settings
    assert (found.seed, found.epochs) == (5, 9)


def test_the_clip_of_an_entry_is_merged_field_by_field() -> None:
    changes = ["teachers.defaults.clip={stride: 1}", "teachers.fleet.1.clip={frames: 8}"]
    clip = study(*changes).teachers[-1].settings.clip
    assert clip == study().data.clip.model_copy(update={"stride": 1, "frames": 8})


def test_the_resources_of_an_entry_are_merged_field_by_field() -> None:
    changes = ["teachers.defaults.resources={cpus: 2}", "teachers.fleet.1.resources={gpus: 1}"]
    found = study(*changes).teachers[-1].settings.resources
    assert (found.cpus, found.gpus) == (2, 1)


def test_relative_paths_start_where_the_command_was_given() -> None:
    experiment = study()
    here = Path.cwd()
    assert (experiment.root, experiment.data.videos) == (here / "runs/study", here / "videos")
    assert experiment.data.splits["split0"].train == here / "train.txt"


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("s3://bucket/arid/v1/", "s3://bucket/arid/v1"),
        ("file:///made/shards", "/made/shards"),
        ("made/shards", str(Path("made/shards").absolute())),
    ],
)
def test_where_finished_shards_lie_is_said_in_one_form(said: str, place: str) -> None:
    found = study(*TAKEN, f"data.shards={said}", "cluster.shard_cache=/scratch")
    assert found.data.shards == place
    assert parse(found.to_yaml(), "study.yaml", []).data == found.data


def test_teachers_from_elsewhere_need_no_fleet() -> None:
    found = study("teachers.fleet=[]", "teachers.imported=[theirs, others]")
    assert found.teachers == ()
    assert parse(found.to_yaml(), "study.yaml", []).targets == found.targets


def test_rates_of_parts_are_an_entrys_own_and_not_joined_to_the_defaults() -> None:
    changes = ["teachers.defaults.lr_scale={blocks.0: 0.1}", "teachers.fleet.1.lr_scale={blocks.5: 10}"]
    first, *_, last = (teacher.settings.lr_scale for teacher in study(*changes).teachers)
    assert (first, last) == ({"blocks.0": 0.1}, {"blocks.5": 10.0})


def test_a_target_has_the_weightings_of_the_method_and_their_defaults() -> None:
    assert get_args(Target.model_fields["method"].annotation) == get_args(Method)
    ours, theirs = Target(method="gtd"), Weighting(method="gtd")
    for name in ("h", "floor", "space", "temperature"):
        assert getattr(ours, name) == getattr(theirs, name)


# --- The resolved file -------------------------------------------------------------------------------------


def clips() -> st.SearchStrategy[dict[str, Any]]:
    sides = st.tuples(st.integers(64, 96), st.integers(0, 32)).map(lambda s: [s[0], s[0] + s[1]])
    fields = {
        "frames": st.integers(1, 64),
        "short_side": sides,
        "gamma": st.floats(0.1, 5),
        "flip": st.booleans(),
    }
    return st.fixed_dictionaries({}, optional=fields)


def entries() -> st.SearchStrategy[dict[str, Any]]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "lr": st.floats(1e-6, 1) | st.sampled_from(["1e-3", 1]),
        "weight_decay": st.floats(0, 0.1),
        "schedule": st.sampled_from(["constant", "cosine"]),
        "batch_size": st.sampled_from([8, 16]),
        "clip": clips(),
        "resources": st.fixed_dictionaries({"cpus": st.floats(0.5, 8)}),
    }
    return st.fixed_dictionaries({}, optional=fields)


TARGETS = st.dictionaries(
    st.from_regex(r"\A[a-m][A-Za-z0-9_-]{0,9}\Z"),
    st.sampled_from(
        [
            {"method": "pkd", "h": 0.5},
            {"method": "gtd"},
            {"method": "avg", "space": "probs", "temperature": 3},
        ]
    ),
    max_size=3,
)


@settings(deadline=None)
@given(st.integers(0, 2**31), clips(), entries(), entries(), TARGETS, st.booleans())
def test_the_written_experiment_loads_to_the_same_members(
    seed: int,
    clip: dict[str, Any],
    defaults: dict[str, Any],
    entry: dict[str, Any],
    targets: dict[str, Any],
    synthetic: bool,
) -> None:
    document = yaml.safe_load(STUDY)
    document["seed"] = seed
    document["data"]["clip"] = {"size": 64, "short_side": [64, 80], **clip}
    document["teachers"]["defaults"] |= defaults
    document["teachers"]["fleet"][0] |= entry
    document["targets"] = targets
    document["students"]["runs"] = [
        {"name": name, "targets": name, **({} if "temperature" in target else {"temperature": 2.5})}
        for name, target in targets.items()
    ] or [{"name": "alone", "targets": "none"}]
    experiment = parse(yaml.safe_dump(document), "study.yaml", list(NO_VIDEOS if synthetic else ()))
    assert parse(experiment.to_yaml(), "experiment.yaml", []) == experiment


@pytest.mark.parametrize(
    "overrides", [FOLDER, ["data.source=csv", "data.format=hmdb51", "data.group_pattern='^(.)'"]]
)
def test_the_written_experiment_keeps_its_source(overrides: list[str]) -> None:
    experiment = study(*overrides)
    assert parse(experiment.to_yaml(), "experiment.yaml", []) == experiment
    assert members(experiment) == members(study())


def test_the_resolved_file_holds_absolute_paths_only() -> None:
    file = ExperimentFile.model_validate(yaml.safe_load(study().to_yaml()))
    assert file.data.videos is not None
    paths = [file.root, file.data.videos, *(p for s in file.data.splits.values() for p in (s.train, s.test))]
    assert all(path.is_absolute() for path in paths)


# --- Overrides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("seed=9", lambda e: e.document["seed"] == 9),
        ("data.clip.short_side=[70, 90]", lambda e: e.data.clip.short_side == (70, 90)),
        ("data.encoding.short_side=64", lambda e: e.data.encoding.short_side == 64),
        ("teachers.fleet.1.seed=9", lambda e: e.teachers[-1].settings.seed == 9),
        ("teachers.fleet.0.grid.seed.1=9", lambda e: e.teachers[1].settings.seed == 9),
        ("students.runs.-1.alpha=0.25", lambda e: e.students[1].settings.alpha == 0.25),
        ("targets.gtd={method: gtd}", lambda e: e.targets[-1].name == "gtd"),
        ("root=a=b", lambda e: e.root.name == "a=b"),
    ],
)
def test_an_override_sets_what_it_names(override: str, found: Any) -> None:
    assert found(study(override))


def test_the_last_of_two_overrides_wins() -> None:
    assert study("seed=4", "seed=5") == study("seed=5")


@pytest.mark.parametrize("override", ["seed", "=3", "data.clip.frames", ""])
def test_an_override_without_a_name_or_a_value_is_shown_how(override: str) -> None:
    assert answer(override).startswith(f"override '{override}'; expected a.b=value; for example ")


@pytest.mark.parametrize(
    "override", ["teachers.fleet.7.seed=3", "teachers.fleet.x.seed=3", "name.a=3", "seed.a.b=3", "seed=["]
)
def test_an_override_of_nothing_is_named(override: str) -> None:
    assert answer(override).startswith(f"override '{override}' names no setting: ")


# --- Networks, which only the pipeline knows ---------------------------------------------------------------


@pytest.mark.parametrize(("said", "quorum"), [("null", 5), ("2", 2), ("1.0", 5), ("0.8", 4), ("0.5", 3)])
def test_a_quorum_is_a_number_of_members_or_a_share_of_them(said: str, quorum: int) -> None:
    assert study(f"teachers.quorum={said}").quorum == quorum


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_the_pipeline_loads_what_the_experiment_says(written: Path) -> None:
    assert pipeline.load(written) == load(written)


@pytest.mark.parametrize(
    ("override", "member"),
    [("teachers.fleet.1.arch=x3d_xl", "x3d_xl-rgb-s3"), ("students.runs.1.arch=x3d_xl", "ukd-s3")],
)
def test_an_unknown_network_is_named_with_its_member(written: Path, override: str, member: str) -> None:
    known = "one of c2d_r50, .*, slowfast_r50_4x16, "
    with pytest.raises(
        UsageError, match=rf"study\.yaml: {member}-\w+: unknown network 'x3d_xl'; expected {known}"
    ):
        pipeline.load(written, [override])


def test_a_clip_that_does_not_divide_among_the_pathways_is_refused(written: Path) -> None:
    problem = r"slowfast_tiny cannot sample its pathways from clips of 18 frames; expected a multiple of 4"
    with pytest.raises(
        UsageError, match=rf"study\.yaml: slowfast_tiny-rgb-s0-\w+: {problem}; change clip.frames"
    ):
        pipeline.load(written, ["data.clip.frames=18"])
