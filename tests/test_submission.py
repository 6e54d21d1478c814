"""What a submission is called, and what is said where nobody takes it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ukd_dist.cli import app
from ukd_dist.cluster.submission import submission_id
from ukd_dist.resolution import load

TINY = Path(__file__).parents[1] / "launch/experiments/tiny.yaml"


def test_an_experiment_has_one_submission_id_wherever_its_file_lies(tmp_path: Path) -> None:
    copy = tmp_path / "again.yaml"
    copy.write_text("# The same.\n" + TINY.read_text())
    assert submission_id(load(copy)) == submission_id(load(TINY))
    assert re.fullmatch(r"ukd-tiny-[0-9a-f]{8}", submission_id(load(TINY)))


@pytest.mark.parametrize("override", ["seed=1", "root=elsewhere", "cluster.max_failures=1"])
def test_another_experiment_has_another_submission_id(override: str) -> None:
    assert submission_id(load(TINY, [override])) != submission_id(load(TINY))


def test_a_submission_to_nobody_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://another.invalid:8265")  # what is given counts
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = CliRunner().invoke(app, ["submit", str(TINY), "--address", address])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"ukd: no job server at {address} (")
    assert done.stderr.endswith(
        "; expected the dashboard of a running cluster; "
        "start one (`ray start --head`), or give --address http://HEAD:8265\n"
    )
