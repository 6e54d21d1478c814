"""What the stages' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages import fake_run


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests only read it."""
    path = tmp_path_factory.mktemp("finished")
    fake_run.build(path)
    return path
