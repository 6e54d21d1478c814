"""Writes the files beside this one that are made of others: `python -m dashboards.make`.

The dashboards' JSON is made by their code, and the alerts as an object of Kubernetes of alerts.yaml.
"""

from __future__ import annotations

from pathlib import Path

from dashboards.data_and_cluster import DATA_AND_CLUSTER
from dashboards.fleet import FLEET
from dashboards.grafana import to_json
from dashboards.student import STUDENT

DASHBOARDS = (FLEET, STUDENT, DATA_AND_CLUSTER)
FOLDER = Path(__file__).parent
ALERTS = "alerts.yaml"
_RULE = """\
# alerts.yaml as the Prometheus Operator takes it; made by `python -m dashboards.make`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ukd
spec:
"""


def alerts_rule() -> str:
    """The alerts as a PrometheusRule: their file, indented below `spec`, without the comment at its top."""
    lines = (FOLDER / ALERTS).read_text(encoding="utf-8").splitlines()
    return _RULE + "".join(f"  {line}\n" if line else "\n" for line in lines if not line.startswith("#"))


if __name__ == "__main__":
    for page in DASHBOARDS:
        (FOLDER / f"{page.name}.json").write_text(to_json(page), encoding="utf-8")
    (FOLDER / "prometheus_rule.yaml").write_text(alerts_rule(), encoding="utf-8")
