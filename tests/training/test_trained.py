"""A finished member's network, from its directory alone and in three lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.stages import trained_member
from ukd_dist import load_network, manifest
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.training.inference import WEIGHTS, load_weights
from ukd_dist.training.setup import build_network


@pytest.fixture
def root(tmp_path: Path, shards: ShardSet) -> Path:
    trained_member.build(tmp_path / "run", shards)
    return tmp_path / "run"


def student(root: Path, name: str = "rgb") -> Path:
    (directory,) = root.glob(f"students/{name}-*")
    return directory


@pytest.mark.parametrize(("name", "modality", "channels"), [("rgb", "rgb", 3), ("flow", "flow", 2)])
def test_a_student_is_loaded_as_it_was_saved(
    root: Path, shards: ShardSet, name: str, modality: str, channels: int
) -> None:
    directory = student(root, name)
    network = load_network(str(directory))
    plain = build_network(network.trained.settings, len(shards.classes)).eval()
    load_weights(plain, directory / WEIGHTS)
    clips = torch.randn(2, channels, 8, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        assert torch.equal(network(clips), plain(clips))
    assert not network.training
    assert (network.classes, network.modality) == (shards.classes, modality)
    assert (network.clip.frames, network.clip.size) == (8, 32)
    assert network.trained.views.name == "centre"


def test_a_teacher_is_loaded_with_the_views_of_its_logits(root: Path) -> None:
    (directory,) = root.glob("teachers/*")
    assert load_network(directory).trained.views.name == "mean-2x3"


def test_three_lines_of_python_are_enough(root: Path) -> None:
    code = (
        "import torch\n"
        "from ukd_dist import load_network\n"
        f"network = load_network({str(student(root))!r}); print(network(torch.zeros(1, 3, 8, 32, 32)).shape)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "torch.Size([1, 11])\n"


def test_a_member_is_found_through_a_link_and_from_inside_its_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best").symlink_to(student(root))
    assert load_network(tmp_path / "best").trained.id == student(root).name
    monkeypatch.chdir(student(root))
    assert load_network(".").trained.id == student(root).name


def test_beside_the_shards_manifest_nothing_of_the_run_is_needed(root: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    shutil.copytree(student(root), taken / "students" / "mine")
    (taken / "shards").mkdir()
    shutil.copy(root / "shards" / manifest.FILENAME, taken / "shards")
    wanted, found = load_network(student(root)), load_network(taken / "students" / "mine")
    for value, same in zip(wanted.state_dict().values(), found.state_dict().values(), strict=True):
        assert torch.equal(value, same)


def test_a_root_is_told_which_members_it_holds(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_network(root)
    assert str(caught.value).startswith(
        f"{root} holds no finished student or teacher; expected one of {root}/"
    )
    assert str(student(root)) in str(caught.value)


@pytest.mark.parametrize("place", ["nowhere", "shards"])
def test_what_is_no_member_is_refused(root: Path, place: str) -> None:
    with pytest.raises(
        UsageError, match="holds no finished student or teacher; expected ROOT/students/ID or"
    ):
        load_network(root / place)


def test_an_imported_teacher_has_no_network(root: Path, shards: ShardSet) -> None:
    manifest.commit(root / "teachers/theirs", "teacher", {"imported": True}, {"shards": shards.digest}, [])
    with pytest.raises(UsageError, match="theirs holds imported logits and no network"):
        load_network(root / "teachers/theirs")


def test_a_member_without_shards_is_told_what_it_lacks(root: Path) -> None:
    (root / "shards").unlink()
    with pytest.raises(
        UsageError, match=r"shards holds no finished shards; expected the manifest\.json of those"
    ):
        load_network(student(root))


def test_a_member_of_other_shards_is_refused(root: Path) -> None:
    directory = student(root)
    found = manifest.read(directory)
    assert found is not None
    manifest.commit(directory, "student", found.settings, {"shards": "0" * 64}, [WEIGHTS])
    with pytest.raises(MismatchError, match=r"was trained on shards 000000000000\.\.\."):
        load_network(directory)


def test_a_member_of_flow_that_would_be_computed_otherwise_is_refused(root: Path) -> None:
    shards = manifest.read(root / "shards")
    assert shards is not None
    (root / "shards").unlink()
    old = {**shards.settings, "modalities": ["rgb", "flow"]}
    made = manifest.commit(root / "shards", "shards", old, shards.inputs, [])
    for directory in (student(root), student(root, "flow")):
        found = manifest.read(directory)
        assert found is not None
        manifest.commit(directory, "student", found.settings, {"shards": made.digest()}, [WEIGHTS])
    load_network(student(root))
    with pytest.raises(
        DataError, match="holds flow whose levels are spread otherwise: even; expected arcsinh"
    ):
        load_network(student(root, "flow"))


def test_settings_of_another_version_are_told(root: Path) -> None:
    directory = student(root)
    found = manifest.read(directory)
    assert found is not None
    manifest.commit(directory, "student", {**found.settings, "sharpness": 3}, found.inputs, [WEIGHTS])
    with pytest.raises(
        DataError,
        match=r"manifest\.json: unknown key 'sharpness'; .*; use the version of ukd-dist that trained it",
    ):
        load_network(directory)


def test_a_flipped_byte_of_the_weights_is_found(root: Path) -> None:
    path = student(root) / WEIGHTS
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)
    with pytest.raises(DataError, match=r"model\.safetensors was altered"):
        load_network(student(root))
