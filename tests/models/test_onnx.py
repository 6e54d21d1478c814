"""Networks as ONNX files; SlowFast and X3D are exported in tests/stages/test_export.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.test_networks import smallest
from tests.stages.trained_member import telling
from ukd_dist import manifest
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import resolved
from ukd_dist.models.catalogue import NETWORKS
from ukd_dist.stages.export import export_onnx
from ukd_dist.training.inference import WEIGHTS, save_weights
from ukd_dist.training.setup import build_network
from ukd_dist.training_config import Student

# The cheapest of each family: bottlenecks with non-local blocks, (2+1)D, tokens.
FAMILIES = ("i3d_nl_r50", "r2plus1d_r50", "mvit_b_16x4")
COSTLY = sorted(NETWORKS.keys() - set(FAMILIES) - {"slowfast_tiny", "x3d_tiny"})


@pytest.mark.parametrize("arch", [*FAMILIES, *(pytest.param(a, marks=pytest.mark.slow) for a in COSTLY)])
def test_onnx_runtime_gives_the_logits_of_torch(arch: str, shards: ShardSet, tmp_path: Path) -> None:
    settings = Student(name="any", targets="none", arch=arch, modality="rgb", clip=smallest(arch))
    student = tmp_path / "students" / "any"
    (tmp_path / "shards").symlink_to(shards.directory)
    save_weights(telling(build_network(settings, len(shards.classes))), student / WEIGHTS)
    manifest.commit(student, "student", resolved(settings), {"shards": shards.digest}, [WEIGHTS])

    made = export_onnx(student, tmp_path / "network.onnx")

    assert 0 < made.difference <= made.tolerance
    assert made.classes == len(shards.classes)
