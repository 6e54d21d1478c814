"""Teachers from elsewhere, by the command line: imported, listed, verified, and heard by the reduction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from tests.data.test_foreign import WRITERS
from tests.stages import small_run
from tests.stages.small_run import CLASSES, REJECTED, TEST, TRAIN
from tests.test_cli import invoke, told
from ukd_dist import manifest, pipeline
from ukd_dist.data.knowledge import LOGITS, TARGET, logits_name, open_finished, write_logits
from ukd_dist.data.rowarray import RowArray
from ukd_dist.data.shards import SplitName
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.experiment import resolved
from ukd_dist.method.weighting import Weighting
from ukd_dist.progress import Progress
from ukd_dist.rundir import RunDirectory, coordinating
from ukd_dist.stages.blocks import Block, Opinion, Work, assemble
from ukd_dist.stages.imports import read_imported
from ukd_dist.stages.reduce import TARGET_FILE

EVERYTHING = [*TRAIN, *TEST]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    return small_run.build(tmp_path / "run")


def opinion(key: str) -> list[float]:
    """What the other system thinks of a video, by class."""
    return np.random.default_rng(list(key.encode())).normal(size=len(CLASSES)).astype(np.float32).tolist()


def write(
    keys: list[str], *, suffix: str = ".npz", classes: tuple[str, ...] | None = None, name: str = "out"
) -> Path:
    """A file of the other system, its columns in the order of `classes`."""
    path = Path(f"{name}{suffix}")
    order = [CLASSES.index(c) if c in CLASSES else n for n, c in enumerate(classes or CLASSES)]
    logits = np.array([opinion(key) for key in keys], np.float32)[:, order]
    WRITERS[suffix](path, keys, logits, classes)
    return path


def bring_in(path: Path, *options: str) -> Result:
    return invoke("logits", "import", path, "run", "--as", "theirs", *options)


def refused(path: Path, *options: str, exit_code: int = 1) -> str:
    """What the user reads; nothing is left of the attempt."""
    line = told(bring_in(path, *options), exit_code)
    assert not Path("run/teachers/theirs/manifest.json").exists()
    return line


def done(path: Path, *options: str) -> None:
    result = bring_in(path, *options)
    assert result.exit_code == 0, result.stderr


def imported(run: RunDirectory, split: SplitName = "train") -> RowArray:
    rows = small_run.shards(run).rows[split]
    name = f"logits/{split}.safetensors"
    return open_finished(run.teacher("theirs"), name, LOGITS, rows, split, len(CLASSES))


def marks(array: RowArray | None) -> list[bool]:
    assert array is not None
    return list(array.read().tolist())


# --- What is imported --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("classes", [None, ("Jump", "Walk", "Wave")], ids=["by number", "by name"])
def test_rows_are_matched_by_key_and_columns_by_class(
    run: RunDirectory, suffix: str, classes: tuple[str, ...] | None
) -> None:
    done(write(EVERYTHING[::-1], suffix=suffix, classes=classes))
    splits: list[tuple[SplitName, list[str]]] = [("train", TRAIN), ("test", TEST)]
    for split, keys in splits:
        assert torch.equal(imported(run, split).read(), torch.tensor([opinion(key) for key in keys]))
        assert imported(run, split).covers is None


def test_a_file_may_hold_the_training_samples_alone(run: RunDirectory) -> None:
    done(write(TRAIN))
    assert imported(run).shape == (12, 3)
    assert not (run.teacher("theirs") / "logits/test.safetensors").exists()


def test_samples_that_sharding_rejected_are_passed_over(run: RunDirectory) -> None:
    done(write([REJECTED, *TRAIN]))
    assert imported(run).shape == (12, 3)


def test_a_partial_teacher_has_no_say_on_what_it_lacks(run: RunDirectory) -> None:
    done(write([*TRAIN[2:], TEST[0]]), "--partial")
    assert marks(imported(run).covers) == [False] * 2 + [True] * 10
    assert marks(imported(run, "test").covers) == [True] + [False] * 5
    assert imported(run).read(0, 3).isnan().all(dim=1).tolist() == [True, True, False]


def test_a_whole_file_is_whole_even_with_partial(run: RunDirectory) -> None:
    done(write(EVERYTHING), "--partial")
    assert imported(run).covers is None


@pytest.mark.parametrize(
    ("options", "trained_on"),
    [
        ([], [True] * 12),
        (["--trained-on", "none"], [False] * 12),
        (["--trained-on", "keys.txt"], [True, True]),
    ],
)
def test_the_rows_that_its_network_was_trained_on_are_kept(
    run: RunDirectory, options: list[str], trained_on: list[bool]
) -> None:
    Path("keys.txt").write_text(f"{TRAIN[0]}\n\n{TRAIN[1]}\n")
    done(write(EVERYTHING), *options)
    assert marks(imported(run).trained_on) == trained_on + [False] * (12 - len(trained_on))
    assert marks(imported(run, "test").trained_on) == [False] * 6


def test_the_manifest_says_where_it_came_from(run: RunDirectory) -> None:
    path = write(EVERYTHING)
    done(path)
    found = manifest.read(run.teacher("theirs"))
    assert found is not None
    assert (found.kind, found.settings["imported"]) == ("teacher", True)
    assert (found.settings["sha256"], found.summary["source"]) == (manifest.sha256_of(path), "out.npz")
    assert found.inputs == {"shards": small_run.shards(run).digest}
    assert sorted(found.files) == ["logits/test.safetensors", "logits/train.safetensors"]


def test_an_experiment_file_names_the_root_as_well(run: RunDirectory) -> None:
    Path("small.yaml").write_text(small_run.EXPERIMENT.format(root="elsewhere"))
    result = invoke("logits", "import", write(TRAIN), "small.yaml", "root=run", "--as", "theirs")
    assert result.exit_code == 0, result.stderr
    assert imported(run).shape == (12, 3)


# --- Again, otherwise, and beside others -------------------------------------------------------------------


def test_the_same_import_again_does_nothing(run: RunDirectory) -> None:
    done(write(EVERYTHING))
    before = (run.teacher("theirs") / manifest.FILENAME).stat()
    done(Path("out.npz").rename("renamed.npz"), "--trained-on", "all")
    assert (run.teacher("theirs") / manifest.FILENAME).stat() == before


@pytest.mark.parametrize(
    ("second", "options", "field"),
    [
        (TRAIN, [], "sha256"),
        (EVERYTHING, ["--trained-on", "none"], "trained_on"),
        (EVERYTHING, ["--partial"], "partial"),
    ],
    ids=["another file", "trained on others", "partial"],
)
def test_another_import_under_the_same_id_is_refused_or_replaces(
    run: RunDirectory, second: list[str], options: list[str], field: str
) -> None:
    done(write(EVERYTHING))
    path = write(second, name="second")
    line = told(bring_in(path, *options), exit_code=1)
    directory = run.teacher("theirs")
    assert line.startswith(
        f"teacher 'theirs' was imported otherwise: {directory} was made with settings.{field} = "
    )
    assert line.endswith("; expected the same file, options and shards; give --as another id, or --replace")

    done(path, *options, "--replace")
    found = manifest.read(directory)
    assert found is not None
    manifest.verify(directory, found)
    assert {p.name for p in (directory / "logits").iterdir()} == {Path(name).name for name in found.files}


def test_a_replacement_that_does_not_fit_leaves_what_was_there(run: RunDirectory) -> None:
    done(write(TRAIN))
    line = told(bring_in(write(TRAIN[1:], name="second"), "--replace"), exit_code=1)
    assert line.startswith("second.npz lacks 1 of 12 train samples")
    assert imported(run).shape == (12, 3)


def test_an_import_that_was_cut_off_is_made_again(run: RunDirectory) -> None:
    done(write(EVERYTHING))
    (run.teacher("theirs") / manifest.FILENAME).unlink()
    done(write(TRAIN))
    assert not (run.teacher("theirs") / "logits/test.safetensors").exists()


def test_a_trained_teacher_is_never_overwritten(run: RunDirectory) -> None:
    said = "is a teacher that is trained here; expected an id of its own for a teacher from elsewhere;"
    (teacher,) = small_run.experiment(run.root).teachers
    path = write(TRAIN)
    line = told(invoke("logits", "import", path, "run", "--as", teacher.id, "--replace"), exit_code=2)
    assert line.startswith(f"'{teacher.id}' {said}")

    manifest.write_atomically(run.teacher("theirs") / "checkpoint/epoch-0001/manifest.json", b"{}")
    assert refused(path, "--replace", exit_code=2).startswith(f"'theirs' {said}")

    manifest.commit(run.teacher("theirs"), "teacher", resolved(teacher.settings), {}, [])
    assert told(bring_in(path, "--replace"), exit_code=2).startswith(f"'theirs' {said}")


def test_a_root_that_another_process_holds_is_left_alone(run: RunDirectory) -> None:
    with coordinating(small_run.experiment(run.root)):
        assert "is held by process" in refused(write(TRAIN))


# --- What is refused ---------------------------------------------------------------------------------------


def test_unknown_keys_are_counted_and_the_first_named(run: RunDirectory) -> None:
    line = refused(write([*TRAIN, *(f"{key}.avi" for key in TEST)]))
    assert line == (
        "out.npz names 6 of 18 samples that the shards lack, first 'Walk_2_0.avi', 'Wave_2_0.avi', "
        f"'Jump_2_0.avi'; expected keys as in {run.shards}/samples.csv: 'Walk_1_0', 'Wave_1_0', 'Jump_1_0', "
        "...; correct the keys, or leave these samples out"
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (TRAIN[1:], "1 of 12 train samples, first 'Walk_1_0'; expected logits of every train sample"),
        (
            [*TRAIN, *TEST[:1]],
            "5 of 6 test samples, first 'Wave_2_0', 'Jump_2_0', 'Walk_2_1'; expected logits of",
        ),
    ],
    ids=["train", "test"],
)
def test_missing_keys_are_counted_and_the_first_named(run: RunDirectory, keys: list[str], said: str) -> None:
    line = refused(write(keys))
    assert line.startswith(f"out.npz lacks {said}")
    assert line.endswith("; add them, or give --partial: the teacher then has no say on them")


@pytest.mark.parametrize("options", [[], ["--partial"]], ids=["whole", "partial"])
def test_a_file_without_training_samples_makes_no_teacher(run: RunDirectory, options: list[str]) -> None:
    assert refused(write(TEST), *options) == (
        "out.npz lacks 12 of 12 train samples, first 'Walk_1_0', 'Wave_1_0', 'Jump_1_0'; expected logits of "
        "every train sample; add training samples: targets are made of them"
    )


def test_other_classes_are_named(run: RunDirectory) -> None:
    assert refused(write(TRAIN, classes=("Walk", "Swim", "Jump"))) == (
        "out.npz lacks 1 classes, first 'Wave', and has others, first 'Swim'; expected the classes Walk, "
        "Wave, Jump; rename its classes"
    )


@pytest.mark.parametrize("classes", [None, ("Walk", "Wave")])
def test_another_class_count_is_told(run: RunDirectory, classes: tuple[str, ...] | None) -> None:
    WRITERS[".csv"](Path("out.csv"), TRAIN, np.array([opinion(key) for key in TRAIN])[:, :2], classes)
    assert refused(Path("out.csv")) == (
        "out.csv has 2 classes; expected 3: Walk, Wave, Jump; give one column for each of these classes"
    )


def test_a_file_that_cannot_be_read_leaves_nothing(run: RunDirectory) -> None:
    Path("out.npz").write_bytes(b"")
    assert refused(Path("out.npz")).startswith("out.npz cannot be read (")
    assert refused(Path("absent.npz"), exit_code=2).startswith("absent.npz is no file")
    assert refused(Path("out.pkl"), exit_code=2).startswith("out.pkl has suffix '.pkl'")


@pytest.mark.parametrize("teacher", ["", "a b", "../x", ".x", "a.b"])
def test_an_id_that_is_no_name_is_wrong_usage(run: RunDirectory, teacher: str) -> None:
    line = told(invoke("logits", "import", write(TRAIN), "run", "--as", teacher), exit_code=2)
    assert line == f"'{teacher}' is no id; expected letters, digits, '-' and '_'; give --as another"
    assert not (run.root / "teachers").exists()


def test_training_rows_that_are_none_are_named(run: RunDirectory) -> None:
    Path("keys.txt").write_text("\n".join([*TRAIN, *TEST[:2]]))
    assert refused(write(TRAIN), "--trained-on", "keys.txt") == (
        "keys.txt names 2 keys of no training sample, first 'Walk_2_0', 'Wave_2_0'; expected keys of the "
        f"training samples in {run.shards}/samples.csv; correct them"
    )
    line = refused(write(TRAIN), "--trained-on", "some", exit_code=2)
    assert line.startswith("--trained-on some cannot be read (")
    assert line.endswith("; expected all, none, or a file with a key a line; correct it")


def test_an_import_without_shards_says_which_command_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(small_run.EXPERIMENT.format(root="run"))
    line = told(invoke("logits", "import", write(TRAIN), "small.yaml", "--as", "theirs"), exit_code=2)
    assert line.endswith(
        "run/shards holds no finished shards; expected a manifest; make them with `ukd shard`"
    )


# --- What the reduction hears ------------------------------------------------------------------------------


def test_a_partial_teacher_counts_where_it_has_a_say_and_nowhere_else(run: RunDirectory) -> None:
    done(write(TRAIN[2:]), "--partial")
    theirs = imported(run)
    assert invoke("logits", "import", write(TRAIN), "run", "--as", "others").exit_code == 0
    shards = small_run.shards(run)
    name = "logits/train.safetensors"
    others = open_finished(run.teacher("others"), name, LOGITS, shards.rows["train"], "train", 3)
    block = Block(0, torch.from_numpy(shards.rows["train"].labels))

    def target_of(*teachers: RowArray) -> torch.Tensor:
        opinions = tuple(Opinion(logits) for logits in teachers)
        work = Work(Weighting(method="pkd"), 3, 1, opinions, (), Path("sums"), "", keep=False)
        return assemble(work, block)[0].finish()

    both_nc, alone_nc, agreed_nc = target_of(theirs, others), target_of(others), target_of(others, others)
    assert torch.equal(both_nc[:2], alone_nc[:2])
    assert torch.equal(both_nc[2:], agreed_nc[2:])


@pytest.mark.cluster
def test_targets_can_come_from_imported_teachers_alone(run: RunDirectory) -> None:
    done(write(TRAIN, suffix=".csv"))
    overrides = ["teachers.fleet=[]", "cluster.cpus_per_node=1"]
    study = small_run.experiment(run.root, *overrides)
    pipeline.run(study, ["teach", "reduce"], progress=Progress())
    (target,) = study.targets
    rows = small_run.shards(run).rows["train"]
    found = open_finished(run.target(target.id), TARGET_FILE, TARGET, rows, "train", len(CLASSES))
    assert torch.equal(found.read(), torch.tensor([opinion(key) for key in TRAIN]))


def test_the_reduction_says_how_to_bring_in_a_teacher(run: RunDirectory) -> None:
    Path("small.yaml").write_text(small_run.EXPERIMENT.format(root="run"))
    line = told(invoke("reduce", "small.yaml", "teachers.fleet=[]", "root=run"), exit_code=1)
    assert line == (
        "target 'ukd' needs teacher theirs, which is not finished; expected every teacher that it "
        "selects; bring it in with `ukd logits import`, or take it out of the experiment"
    )


def test_an_imported_teacher_is_bound_to_its_shards(run: RunDirectory, tmp_path: Path) -> None:
    directory, shards = run.teacher("theirs"), small_run.shards(run).digest
    assert read_imported(directory, shards) is None
    done(write(TRAIN))
    found = read_imported(directory, shards)
    assert found is not None
    assert found.settings["imported"]
    other = small_run.shards(small_run.build(tmp_path / "other", prefix="x")).digest
    with pytest.raises(
        MismatchError, match=rf"{directory} was made with inputs.shards = {shards}; expected {other}"
    ):
        read_imported(directory, other)
    manifest.commit(directory, "teacher", {"arch": "x3d_tiny"}, {"shards": shards}, [])
    with pytest.raises(
        MismatchError, match=f"{directory} was made with settings.imported = nothing; expected True"
    ):
        read_imported(directory, shards)


# --- ukd logits list, ukd status, ukd verify ---------------------------------------------------------------


def listed() -> list[dict[str, Any]]:
    result = invoke("logits", "list", "run", "--json")
    assert result.exit_code == 0, result.stderr
    return list(json.loads(result.stdout))


def test_the_logits_of_a_run_are_listed(run: RunDirectory) -> None:
    assert listed() == []
    Path("keys.txt").write_text(TRAIN[0])
    done(write([*TRAIN[1:], *TEST]), "--partial", "--trained-on", "keys.txt")
    train, test = sorted(listed(), key=lambda holding: holding["split"], reverse=True)
    assert train == {
        "kind": "teacher",
        "id": "theirs",
        "imported": True,
        "split": "train",
        "rows": 12,
        "covered": 11,
        "trained_on": 1,
        "classes": 3,
        "dtype": "float32",
        "view": "unknown",
        "bytes": (run.teacher("theirs") / "logits/train.safetensors").stat().st_size,
    }
    assert (test["split"], test["rows"], test["covered"], test["trained_on"]) == ("test", 6, 6, 0)


def test_logits_of_several_views_are_listed_with_their_view(run: RunDirectory) -> None:
    rows = small_run.shards(run).rows["train"]
    directory, name = run.teacher("several"), logits_name("train")
    logits_nvc, trained_on = torch.zeros(len(rows), 4, len(CLASSES)), torch.ones(len(rows), dtype=torch.bool)
    write_logits(directory / name, logits_nvc, rows, "train", view="random-4-s0", trained_on=trained_on)
    manifest.commit(directory, "teacher", {}, {}, [name])
    (holding,) = listed()
    assert (holding["rows"], holding["classes"], holding["view"]) == (12, 3, "random-4-s0")


def test_people_are_told_the_same(run: RunDirectory) -> None:
    done(write(TRAIN))
    header, line = invoke("logits", "list", "run").stdout.splitlines()
    assert header.split()[:4] == ["kind", "id", "imported", "split"]
    assert line.split()[:7] == ["teacher", "theirs", "True", "train", "12", "12", "12"]


def test_damaged_logits_are_not_listed_but_named(run: RunDirectory) -> None:
    done(write(TRAIN))
    path = run.teacher("theirs") / "logits/train.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    line = told(invoke("logits", "list", "run"), exit_code=1)
    assert line.startswith(
        f"{run.root}/teachers/theirs/logits/train.safetensors was altered in rows 0 to 11 of '"
    )


def test_an_imported_teacher_has_a_state(run: RunDirectory) -> None:
    def state() -> str:
        (found,) = (m for m in json.loads(invoke("status", "run", "--json").stdout) if m["id"] == "theirs")
        return str(found["state"])

    assert state() == "pending"
    done(write(TRAIN))
    assert state() == "done"


def test_verify_tells_every_finished_directory(run: RunDirectory) -> None:
    done(write(EVERYTHING))
    run.teacher("begun").mkdir()
    result = invoke("verify", "run")
    assert result.exit_code == 0, result.stderr
    shards, theirs = result.stdout.splitlines()
    assert shards.startswith("shards: ok, 6 files, ")
    assert theirs.startswith("teachers/theirs: ok, 2 files, ")


@pytest.mark.parametrize("name", ["shards/train-000000.tar", "teachers/theirs/logits/test.safetensors"])
def test_verify_names_what_is_damaged(run: RunDirectory, name: str) -> None:
    done(write(EVERYTHING))
    path, directory = run.root / name, "shards" if "shards" in name else "teachers/theirs"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    result = invoke("verify", "run")

    assert result.exit_code == 1
    assert f"{directory}: {path} was altered" in result.stdout.splitlines()
    assert result.stderr == (
        f"ukd: 1 of 2 directories are damaged: {directory}; expected every file as its manifest says; "
        "remove these directories and run again to make them again\n"
    )
    verdicts = json.loads(invoke("verify", "run", "--json").stdout)
    assert [v["directory"] for v in verdicts if v["problem"]] == [directory]


def test_verify_names_a_damaged_manifest(run: RunDirectory) -> None:
    done(write(EVERYTHING))
    path = run.teacher("theirs") / manifest.FILENAME
    path.write_bytes(path.read_bytes()[:-3])
    result = invoke("verify", "run")
    assert result.exit_code == 1
    assert f"teachers/theirs: manifest {path} is damaged" in result.stdout


def test_the_reduction_checks_an_imported_teacher_as_it_reads(run: RunDirectory) -> None:
    done(write(TRAIN))
    array = imported(run)
    with array.path.open("r+b") as file:
        file.seek(array.place(5))
        file.write(b"\xff")
    with pytest.raises(DataError, match=f"{array.path} was altered in rows 0 to 11 of 'logits'"):
        array.read()
