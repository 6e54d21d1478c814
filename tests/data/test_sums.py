"""Sums beside a target: which of them stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ukd_dist import manifest
from ukd_dist.data.sums import SUMS, drop_unnamed, write_sums


def blocks(target: Path) -> list[Path]:
    tensors = {"sum0": torch.zeros(4, 2, dtype=torch.int64)}
    return [write_sums(target / SUMS, begin, tensors, "work") for begin in (0, 4, 8)]


def test_all_stay_beside_a_target_that_is_not_finished(tmp_path: Path) -> None:
    written = blocks(tmp_path)
    drop_unnamed(tmp_path)
    assert sorted((tmp_path / SUMS).iterdir()) == written


@pytest.mark.parametrize("named", [0, 2, 3])
def test_those_that_a_finished_target_names_stay(tmp_path: Path, named: int) -> None:
    written = blocks(tmp_path)
    (tmp_path / SUMS / ".000000012-cut-off.partial").touch()
    kept = written[:named]
    manifest.commit(tmp_path, "target", {}, {}, [f"{SUMS}/{path.name}" for path in kept])
    for _ in range(2):
        drop_unnamed(tmp_path)
        assert sorted((tmp_path / SUMS).glob("*")) == kept
        assert (tmp_path / SUMS).exists() == bool(kept)
