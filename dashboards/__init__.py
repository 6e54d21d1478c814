"""Grafana's dashboards of a run, as code; `python -m dashboards.make` writes the JSON files that lie here."""
