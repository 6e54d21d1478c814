"""What a dashboard says, without how Grafana wants it: questions, and the queries that answer them.

Gauges are joined by `max by`, rates by `sum by`: a run that was started again is served at another address,
which makes other series of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Of Ray's own metrics, which its nodes serve; launch/monitoring/prometheus.yml keeps these alone.
RAY_METRICS = (
    "ray_node_cpu_utilization",
    "ray_node_gpus_utilization",
    "ray_node_gram_available",
    "ray_node_gram_used",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_object_store_available_memory",
    "ray_object_store_memory",
)

# Without a GPU there is nothing to show in these, and in no others.
GPU_PANELS = ("How busy is each GPU?", "How full is each GPU's memory?")

RATE = "$__rate_interval"
Kind = Literal["lines", "stacked", "number"]


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL; `$run` and the dashboard's other variables are put in by Grafana.
        legend: Name of each series, `{{label}}` for a label's value.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One question and its answer over time.

    Attributes:
        title: The question.
        description: What is counted, and what to think of what is seen.
        unit: Grafana's id of it.
        queries: What answers it.
        kind: Lines, lines on top of each other, or the newest number alone.
        width: In columns, of which a dashboard has 24.
        most: Upper end of the axis; None: as the data have it.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = "lines"
    width: int = 12
    most: float | None = None


@dataclass(frozen=True)
class Variable:
    """A selector at a dashboard's top: the values of a label.

    Attributes:
        name: As queries have it, without `$`.
        title: As it is shown.
        values: `label_values(series, label)`.
        several: Whether more than one may be chosen; all are at first.
        last: Whether the last one is chosen at first, and not the first.
    """

    name: str
    title: str
    values: str
    several: bool = False
    last: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A page of panels.

    Attributes:
        name: Of its file, without `.json`.
        title: As Grafana lists it.
        description: What it is for.
        panels: From left to right, from top to bottom.
        variables: Selectors beside the data source and the run.
    """

    name: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = ()


def one(
    title: str,
    description: str,
    unit: str,
    expression: str,
    legend: str,
    *,
    kind: Kind = "lines",
    width: int = 12,
    most: float | None = None,
) -> Panel:
    """A panel of one query."""
    return Panel(title, description, unit, [Query(expression, legend)], kind, width, most)
