"""A miniature ARID of the least size."""

from __future__ import annotations

from pathlib import Path

import pytest

from ukd_dist.data.synthetic import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video a class and split."""
    dest = tmp_path_factory.mktemp("synthetic")
    assert write_dataset(dest, seed=0, train_clips=1, test_clips=1, workers=2) == (11, 11)
    return dest
