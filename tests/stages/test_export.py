"""An ONNX file that gives the logits of the network that it was made of, and says what clips it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.stages import trained_member
from ukd_dist import load_network, manifest
from ukd_dist.data.shards import ShardSet
from ukd_dist.errors import ResourceError, TrainingError
from ukd_dist.stages import export
from ukd_dist.stages.export import Exported, export_onnx
from ukd_dist.training.inference import WEIGHTS


@pytest.fixture(scope="module")
def root(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("run") / "root"
    trained_member.build(path, shards)
    return path


def student(root: Path, name: str) -> Path:
    (directory,) = root.glob(f"students/{name}-*")
    return directory


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Both students' files, each of another network and modality."""
    folder = tmp_path_factory.mktemp("onnx")
    return {n: export_onnx(student(root, n), folder / "new" / f"{n}.onnx") for n in ("rgb", "flow")}


@pytest.mark.parametrize(("name", "channels"), [("rgb", 3), ("flow", 2)])
def test_onnx_runtime_gives_the_logits_of_torch_for_any_batch(
    root: Path, exported: dict[str, Exported], name: str, channels: int
) -> None:
    session = onnxruntime.InferenceSession(exported[name].file, providers=["CPUExecutionProvider"])
    network = load_network(student(root, name))
    for batch in (1, 2, 5):
        generator = torch.Generator().manual_seed(100 + batch)
        clips = torch.randn(batch, channels, 8, 32, 32, generator=generator)
        with torch.inference_mode():
            wanted_bc = network(clips).numpy()
        (found_bc,) = session.run(["logits"], {"clips": clips.numpy()})
        assert found_bc.shape == (batch, 11)
        assert np.abs(found_bc - wanted_bc).max() <= 1e-4 * np.abs(wanted_bc).max()


def test_the_file_says_what_it_takes_and_where_it_is_from(
    root: Path, exported: dict[str, Exported], shards: ShardSet
) -> None:
    told = {name: metadata(exported[name]) for name in exported}
    directory = student(root, "rgb")
    found = manifest.read(directory)
    assert found is not None
    assert json.loads(told["rgb"]["classes"]) == list(shards.classes)
    assert (told["rgb"]["member"], told["rgb"]["arch"]) == (directory.name, "slowfast_tiny")
    assert (told["rgb"]["modality"], told["flow"]["modality"]) == ("rgb", "flow")
    clip = json.loads(told["rgb"]["clip"])
    assert (clip["frames"], clip["stride"], clip["size"], clip["short_side"]) == (8, 2, 32, [32, 40])
    assert [json.loads(told["rgb"][name]) for name in ("gamma", "mean", "std")] == [3.0, 0.45, 0.225]
    assert (told["flow"]["flow"], json.loads(told["flow"]["flow_bound"])) == ("dis_medium", 20.0)
    assert json.loads(told["rgb"]["digests"]) == {
        "member": found.digest(),
        "weights": manifest.sha256_of(directory / WEIGHTS),
        "shards": shards.digest,
    }


def test_what_is_told_of_the_file_is_so(exported: dict[str, Exported]) -> None:
    made = exported["flow"]
    assert made.bytes == Path(made.file).stat().st_size
    assert (made.clips, made.classes) == (("batch", 2, 8, 32, 32), 11)
    assert made.opset == onnx.load(made.file).opset_import[0].version
    assert 0 < made.difference <= made.tolerance == 1e-4


def test_without_a_name_the_file_lies_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = student(root, "flow")
    assert export_onnx(directory).file == f"{directory.name}.onnx"
    assert [path.name for path in tmp_path.iterdir()] == [f"{directory.name}.onnx"]
    assert capfd.readouterr().out == ""


def test_other_logits_than_torchs_are_refused_and_nothing_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No difference at all is more than float32 allows."""
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(
        TrainingError, match=r"^ONNX Runtime gives other logits of flow-.*; nothing was written$"
    ):
        export_onnx(student(root, "flow"), tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_named_with_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError) as caught:
        export_onnx(student(root, "flow"), tmp_path / "out.onnx")
    assert str(caught.value) == (
        "onnxruntime is not installed; expected onnx, onnxscript, onnxruntime, "
        "which an ONNX file is made and checked with; install them: pip install 'ukd-dist[export]'"
    )


def metadata(made: Exported) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(made.file).metadata_props}
