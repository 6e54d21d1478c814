"""From what a dashboard says to the JSON that Grafana loads."""

from __future__ import annotations

import json
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards.panels import Dashboard, Panel, Query, Variable

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUN = Variable("run", "Run", "label_values(ukd_member_epochs_asked, run)")
_HEIGHT, _NUMBER_HEIGHT = 8, 5


def to_json(page: Dashboard) -> str:
    """The JSON of a dashboard, the same for the same content."""
    made = (
        build.Dashboard(page.title)
        .uid(f"ukd-{page.name.replace('_', '-')}")
        .description(page.description)
        .tags(["ukd"])
        .time("now-3h", "now")
        .refresh("15s")
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in (_RUN, *page.variables):
        made.with_variable(_variable(variable))
    for number, panel in enumerate(page.panels, start=1):
        made.with_panel(_panel(panel).id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(variable: Variable) -> build.QueryVariable:
    made = (
        build.QueryVariable(variable.name)
        .label(variable.title)
        .datasource(_SOURCE)
        .query(variable.values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_DESC if variable.last else VariableSort.ALPHABETICAL_ASC)
    )
    if variable.several:
        everyone = VariableOption(selected=True, text="All", value="$__all")
        made.multi(True).include_all(True).all_value(".+").current(everyone)
    return made


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made = _number() if panel.kind == "number" else _lines(panel)
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    made.span(panel.width).min(0)
    if panel.most is not None:
        made.max(panel.most)
    for name, query in zip(ascii_uppercase, panel.queries, strict=False):
        made.with_target(_query(query).ref_id(name))
    return made


def _number() -> stat.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().height(_NUMBER_HEIGHT).graph_mode(BigValueGraphMode.AREA).reduce_options(newest)


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)
    made = timeseries.Panel().height(_HEIGHT).legend(legend)
    made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if panel.kind == "stacked":
        made.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return made


def _query(query: Query) -> Dataquery:
    return Dataquery().expr(query.expression).legend_format(query.legend).datasource(_SOURCE)
