"""What the report draws: scales with round ticks, and line charts as inline SVG.

The SVG is written by hand: its colours are the page's CSS variables, so one chart serves light, dark and
print, it stays small, and the same numbers give the same bytes. Figures for papers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 26, 34
_COLOURS, _DASHES = 7, 4


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`, both of which are ticks.

    Attributes:
        low: Value of the first tick.
        high: Value of the last tick.
        steps: Equal steps between them.
    """

    low: float
    high: float
    steps: int

    @classmethod
    def over(cls, values: Iterable[float], *, symmetric: bool = False) -> Scale:
        """The axis with round ticks from zero, or from minus to plus, that holds all `values`."""
        reach = max((abs(value) for value in values), default=0.0) or 1.0
        magnitude, most = 10.0 ** math.floor(math.log10(reach)), 2 if symmetric else 4
        step = next(m * magnitude for m in (0.25, 0.5, 1, 2, 2.5, 5) if m * magnitude * most >= reach - 1e-9)
        steps = math.ceil(reach / step - 1e-9)
        return cls(-steps * step, steps * step, 2 * steps) if symmetric else cls(0.0, steps * step, steps)

    @property
    def ticks(self) -> list[float]:
        """The values that are labelled."""
        return [self.low + (self.high - self.low) * i / self.steps for i in range(self.steps + 1)]

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`; what lies outside is drawn at the edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def at(self, value: float) -> str:
        """`share` as a CSS percentage."""
        return f"{100 * self.share(value):.2f}%"


SHARE = Scale(0.0, 1.0, 4)


@dataclass(frozen=True)
class Curve:
    """Trainings that differ by their seed: thin lines, and their mean as a bold one.

    Attributes:
        label: Name in the legend.
        style: CSS classes of colour and dash, see `style`.
        runs: One value an epoch of each training.
        margins: Half of the interval about each mean, where one is to be drawn.
        places: Number of each value's place on the axis, from 1; by default one after the other.
    """

    label: str
    style: str
    runs: Sequence[Sequence[float]]
    margins: Sequence[float] = ()
    places: Sequence[int] = ()

    def at(self, values: Sequence[float]) -> list[tuple[int, float]]:
        """Values with their places."""
        return list(zip(self.places or range(1, len(values) + 1), values, strict=False))

    @property
    def mean(self) -> list[float]:
        """Mean over the trainings, as far as all of them have come."""
        return [sum(values) / len(values) for values in zip(*self.runs, strict=False)]

    @property
    def upper(self) -> list[float]:
        """Upper ends of the intervals."""
        return [mean + margin for mean, margin in zip(self.mean, self.margins, strict=False)]


def style(index: int, *, neutral: bool = False) -> str:
    """CSS classes of the n-th curve; a neutral one is grey. Dashes help where colours do not."""
    colour = "n" if neutral else str(index % _COLOURS)
    return f"c{colour} d{index % _DASHES}"


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    percent: bool = False,
    reference: float | None = None,
    over: str = "epoch",
    marks: Sequence[str] = (),
) -> Markup:
    """Values over epochs, or over a few settings at equal distances.

    Args:
        title: What the vertical axis shows, with its unit.
        curves: Each with at least one value.
        percent: Values are shares, shown from 0 to 100.
        reference: Where a dashed line is drawn across.
        over: What the horizontal axis shows.
        marks: What stands under each value; by default the numbers of epochs.
    """
    epochs = max(place for curve in curves for run in curve.runs for place, _ in curve.at(run))
    epochs = max(epochs, len(marks))
    reach = [v for curve in curves for values in (*curve.runs, curve.upper) for v in values]
    y = SHARE if percent else Scale.over([*reach, reference or 0.0])
    svg = ElementTree.Element("svg", {"class": "chart", "viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img"})
    ElementTree.SubElement(svg, "title").text = f"{title}, by {over}"
    _axes(svg, title, y, 100 if percent else 1)
    _marks(svg, over, dict(enumerate(marks, start=1)) or _epoch_marks(epochs), epochs)
    if reference is not None:
        _line(svg, "ref", [(_LEFT, _y(y, reference)), (_WIDTH - _RIGHT, _y(y, reference))])
    for curve in curves:
        for run in curve.runs if len(curve.runs) > 1 else []:
            _line(svg, f"line seed {curve.style}", _points(curve.at(run), y, epochs))
    for curve in curves:
        means = curve.at(curve.mean)
        _line(svg, f"line {curve.style}", _points(means, y, epochs), curve.label)
        for (place, mean), margin in zip(means, curve.margins, strict=False):
            x = _x(place, epochs)
            _line(svg, f"margin {curve.style}", [(x, _y(y, mean - margin)), (x, _y(y, mean + margin))])
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # ElementTree has escaped


def _axes(svg: ElementTree.Element, title: str, y: Scale, factor: int) -> None:
    _text(svg, 0, 12, title, "axis")
    for tick in y.ticks:
        _line(svg, "grid", [(_LEFT, _y(y, tick)), (_WIDTH - _RIGHT, _y(y, tick))])
        _text(svg, _LEFT - 6, _y(y, tick) + 4, f"{tick * factor:g}", "tick end")


def _epoch_marks(epochs: int) -> dict[int, str]:
    step = math.ceil(epochs / 10)
    return {epoch: str(epoch) for epoch in sorted({1, *range(step, epochs + 1, step)})}


def _marks(svg: ElementTree.Element, over: str, marks: Mapping[int, str], places: int) -> None:
    for place, mark in marks.items():
        _text(svg, _x(place, places), _HEIGHT - _BOTTOM + 16, mark, "tick middle")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, over, "axis middle")


def _points(values: Sequence[tuple[int, float]], y: Scale, epochs: int) -> list[tuple[float, float]]:
    return [(_x(place, epochs), _y(y, value)) for place, value in values]


def _x(epoch: int, epochs: int) -> float:
    inner = _WIDTH - _LEFT - _RIGHT - 16
    return _LEFT + 8 + inner * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)


def _y(scale: Scale, value: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * scale.share(value)


def _line(
    svg: ElementTree.Element, css: str, points: Sequence[tuple[float, float]], title: str | None = None
) -> None:
    if len(points) == 1:  # drawn by the round ends of a line that goes nowhere
        css, points = f"{css} point", [*points, *points]
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = ElementTree.SubElement(svg, "path", {"class": css, "d": path})
    if title is not None:
        ElementTree.SubElement(line, "title").text = title


def _text(svg: ElementTree.Element, x: float, y: float, text: str, css: str) -> None:
    ElementTree.SubElement(svg, "text", {"class": css, "x": f"{x:.1f}", "y": f"{y:.1f}"}).text = text
