"""`ukd verify`: whatever is damaged in a finished directory is found and named, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.damage import damaged, spoiled
from tests.stages import small_run
from ukd_dist import manifest
from ukd_dist.errors import DataError
from ukd_dist.rundir import RunDirectory
from ukd_dist.stages.verify import refuse_damage, verify

DIRECTORIES = ("shards", "teachers/theirs", "targets/ukd", "students/ukd", "students/ukd/logits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """One finished directory of every kind; but for the shards each holds two files of any bytes."""
    run = small_run.build(tmp_path_factory.mktemp("verified"))
    for name in DIRECTORIES[1:]:
        for file in ("train.safetensors", "more/part.bin"):
            manifest.write_atomically(run.root / name / file, f"{file} of {name}".encode() * 40)
        files = ["train.safetensors", "more/part.bin"]
        manifest.commit(run.root / name, "any", {"lr": 0.1}, {"shards": "aa"}, files, {"seconds": 1.5})
    return run


def finished_files(run: RunDirectory) -> list[tuple[str, Path]]:
    """Every file of every finished directory, its manifest included, with the directory's name."""
    return [
        (name, run.root / name / file)
        for name in DIRECTORIES
        for file in (manifest.FILENAME, *manifest_of(run, name).files)
    ]


def manifest_of(run: RunDirectory, name: str) -> manifest.Manifest:
    found = manifest.read(run.root / name)
    assert found is not None
    return found


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_flipped_or_missing_byte_of_any_finished_file_is_found_and_named(
    run: RunDirectory, data: st.DataObject
) -> None:
    sound = list(verify(run))
    directory, path = data.draw(st.sampled_from(finished_files(run)))
    written = manifest_of(run, directory)
    with spoiled(path, data.draw(damaged(path.read_bytes()))):
        verdicts = list(verify(run))
        if verdicts == sound:
            assert path.name == manifest.FILENAME
            assert manifest_of(run, directory) == written
            return
    (problem,) = (verdict.problem for verdict in verdicts if verdict.problem)
    assert str(path) in problem
    assert [verdict.directory for verdict in verdicts if verdict not in sound] == [directory]
    with pytest.raises(DataError, match=f"^1 of {len(DIRECTORIES)} directories are damaged: {directory};"):
        refuse_damage(verdicts)


def test_a_missing_file_of_any_directory_is_named(run: RunDirectory) -> None:
    for directory, path in finished_files(run):
        if path.name == manifest.FILENAME:
            continue
        intact = path.read_bytes()
        path.unlink()
        found = [verdict.problem for verdict in verify(run) if verdict.problem]
        path.write_bytes(intact)
        assert found == [f"{path} is missing"], directory


def test_an_undamaged_run_has_no_problem(run: RunDirectory) -> None:
    verdicts = list(verify(run))
    assert [(verdict.directory, verdict.problem) for verdict in verdicts] == [(d, "") for d in DIRECTORIES]
    refuse_damage(verdicts)
