"""`ukd models`: every network with its figures, and one counted for another clip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ukd_dist.cli import app
from ukd_dist.models.catalogue import NETWORKS


def models(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def test_every_network_is_a_line() -> None:
    head, *lines = models().stdout.splitlines()
    assert head.split()[:3] == ["name", "parameters", "GMACs"]
    assert [line.split()[0] for line in lines] == list(NETWORKS)
    (slowfast,) = (line for line in lines if line.startswith("slowfast_r50_4x16"))
    for figure in ("34.48 M", "36.1", "64 x 256 x 256", "1 in 16 + 1 in 2", "pytorchvideo", "4x16"):
        assert figure in slowfast


def test_as_json_a_network_has_all_that_is_known_of_it() -> None:
    (tpn,) = (found for found in json.loads(models("--json").stdout) if found["name"] == "tpn_r50")
    assert tpn == {
        "name": "tpn_r50",
        "parameters": 71_800_272,
        "gmacs": 198.2,
        "frames": 32,
        "size": 224,
        "every": [1],
        "builder": "pytorchvideo, ukd-dist",
        "source": "Yang et al. 2020, 32x2",
        "pretrained": "MMAction2",
    }


def test_one_network_is_counted_for_the_clip_that_is_named() -> None:
    (stated,) = json.loads(models("slow_r50", "--json").stdout)
    (shorter,) = json.loads(models("slow_r50", "--frames", "16", "--size", "128", "--json").stdout)
    assert stated["gmacs"] == pytest.approx(NETWORKS["slow_r50"].figures.gmacs, rel=1e-3)
    assert shorter["gmacs"] == pytest.approx(stated["gmacs"] / 8, rel=1e-3)
    assert (shorter["frames"], shorter["size"]) == (16, 128)


def test_a_network_of_the_users_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, channels, clip, dropout):\n"
        "    values = channels * clip.frames * clip.size**2\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(values, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = json.loads(models("flat:net", "--frames", "2", "--size", "16", "--json").stdout)
    assert found["parameters"] == (3 * 2 * 16 * 16 + 1) * 400
    assert found["gmacs"] == pytest.approx(3 * 2 * 16 * 16 * 400 / 1e9)
    assert found["builder"] == "flat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slow_r52"], "ukd: unknown network 'slow_r52'; expected one of c2d_r50"),
        (["slow_r50", "--frames", "6"], "ukd: slow_r50 cannot sample its pathways from clips of 6 frames"),
        (["--frames", "8"], "ukd: --frames or --size of no network; expected a NAME"),
    ],
)
def test_what_cannot_be_counted_is_told_in_a_line(arguments: list[str], message: str) -> None:
    result = models(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from ukd_dist.models.overview import overview; overview(); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
