"""Writes the dashboards' JSON files beside this one: `python -m dashboards.make`."""

from __future__ import annotations

from pathlib import Path

from dashboards.data_and_cluster import DATA_AND_CLUSTER
from dashboards.fleet import FLEET
from dashboards.grafana import to_json
from dashboards.student import STUDENT

DASHBOARDS = (FLEET, STUDENT, DATA_AND_CLUSTER)
FOLDER = Path(__file__).parent

if __name__ == "__main__":
    for page in DASHBOARDS:
        (FOLDER / f"{page.name}.json").write_text(to_json(page), encoding="utf-8")
