"""What the stages' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stages import fake_run, taught_run
from ukd_dist.data.shards import ShardSet
from ukd_dist.experiment import Experiment


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests only read it."""
    path = tmp_path_factory.mktemp("finished")
    fake_run.build(path)
    return path


@pytest.fixture(scope="session")
def taught(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run whose teachers were really trained; tests only read it."""
    torch.set_num_threads(1)
    return taught_run.build(tmp_path_factory.mktemp("taught") / "run", shards)
