"""A teacher whose network is a function of the user's, trained on a Ray worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ukd_dist import load_network, pipeline
from ukd_dist.data.shards import ShardSet
from ukd_dist.rundir import RunDirectory

pytestmark = pytest.mark.cluster

MODULE = """
from torch import nn

def network(num_classes, channels, clip, dropout):
    values = channels * clip.frames * clip.size**2
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(values, num_classes))
"""
EXPERIMENT = """
name: own
root: {folder}/root
data:
  shards: {shards}
  modalities: [rgb]
  clip: {{frames: 4, stride: 2, size: 16, short_side: [32, 48]}}
teachers:
  defaults: {{modality: rgb, epochs: 1, batch_size: 4, lr: 0.001}}
  fleet: [{{arch: "ownnets.flat:network"}}, {{arch: "ownnets.flat:networks"}}]
students:
  runs: [{{name: nobody, arch: slowfast_tiny, modality: rgb, targets: none}}]
cluster: {{local_nodes: 1, cpus_per_node: 2, metrics_port: null}}
"""


def test_a_worker_trains_the_users_network_and_names_a_function_that_is_not_there(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownnets").mkdir()
    (tmp_path / "ownnets" / "flat.py").write_text(MODULE)
    file = tmp_path / "own.yaml"
    file.write_text(EXPERIMENT.format(folder=tmp_path, shards=shards.directory))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    _, result = (
        subprocess.run(
            [sys.executable, "-m", "ukd_dist.cli", stage, str(file)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for stage in ("shard", "teach")
    )

    monkeypatch.syspath_prepend(tmp_path)
    good, bad = pipeline.load(file).teachers
    run = RunDirectory(tmp_path / "root")
    assert load_network(run.teacher(good.id)).network.arch == "ownnets.flat:network"
    assert result.returncode == 1
    assert not (run.teacher(bad.id) / "manifest.json").exists()
    assert "module ownnets.flat has no networks; expected a function" in result.stderr
