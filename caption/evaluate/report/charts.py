r"""Charts as inline SVG: the curves of a run, and figures with their intervals.

A chart is 340 units wide, so that its text keeps its size on a phone. Colours are classes, `c0` to `c5`, to which the
page gives a colour for light and for dark screens. All text goes through ElementTree, which escapes it.

    +--------------------------------+        +--------------------------------+
    | - train 0.61   - validation .. |        | checkpoints/best         83.12 |
    | |\                             |        |                |-----o-----|   |
    | | \___                         |        | nearest image            20.45 |
    | |_____\___________________     |        |  |--o--|                       |
    | step    50     100    150      |        |  20     40     60     80       |
    +--------------------------------+        +--------------------------------+
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH = 340
COLOURS = 6  # the page defines c0 to c5
MOST_POINTS = 200  # of a curve; more are averaged, and keep their shape
NAME_LENGTH = 40  # letters of a name that fit above a whisker beside its figure

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart: its points (step, value), and whether each is drawn with a dot."""

    name: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One figure of a chart of figures.

    Attributes:
        name: what it is the figure of.
        value: the figure.
        interval: its 95 % interval, if it is known.
        text: the figure as it is written.
        colour: number of the colour; figures that were published elsewhere have none and are drawn hollow.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    text: str
    colour: int | None


def line_chart(title: str, curves: Sequence[Curve]) -> Markup:
    """Draw curves over the steps of a run.

    Args:
        title: what a screen reader says of the chart.
        curves: each with at least one point; all values are finite.
    """
    left, right, top, bottom, height = 46, 12, 30, 26, 200
    thinned = [thin(curve.points) for curve in curves]
    xs, ys = ([point[axis] for points in thinned for point in points] for axis in (0, 1))
    x = _Scale(min(xs), max(xs), left, WIDTH - right)
    room = 0.06 * (max(ys) - min(ys)) or 0.1 * max(abs(ys[0]), 1e-6)
    y = _Scale(min(ys) - room, max(ys) + room, height - bottom, top)
    last = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.4g}" for curve in curves)
    svg = _svg(height, f"{title}: {last}.")
    for tick in ticks(y.low, y.high):
        _line(svg, (left, y.at(tick)), (WIDTH - right, y.at(tick)), "grid")
        _text(svg, (left - 6, y.at(tick) + 4), number(tick), "tick end")
    _text(svg, (left - 6, height - 8), "step", "tick end")
    for tick in ticks(x.low, x.high, 4):
        place = "tick end" if x.at(tick) > WIDTH - right - 20 else "tick middle"
        _text(svg, (x.at(tick), height - 8), f"{tick:,.0f}", place)
    place_of_legend = float(left)
    for index, (curve, points) in enumerate(zip(curves, thinned, strict=True)):
        group = ET.SubElement(svg, "g", {"class": f"c{index % COLOURS}"})
        places = [(x.at(step), y.at(value)) for step, value in points]
        if len(places) > 1:
            joined = " ".join(f"{_round(a)},{_round(b)}" for a, b in places)
            ET.SubElement(group, "polyline", {"class": "curve", "points": joined})
        if curve.dots or len(places) == 1:
            for place_of_dot in places:
                _circle(group, place_of_dot, 3)
        legend = f"{curve.name} {curve.points[-1][1]:.4g}"
        _line(group, (place_of_legend, 12), (place_of_legend + 14, 12), "curve")
        _text(group, (place_of_legend + 19, 16), legend, "legend")
        place_of_legend += 40 + 6.4 * len(legend)
    return _markup(svg)


def dot_chart(title: str, dots: Sequence[Dot]) -> Markup:
    """Draw figures one below the other, each with its interval.

    Args:
        title: what a screen reader says of the chart.
        dots: at least one.
    """
    left, right, row, bottom = 8, 8, 34, 22
    ends = [end for dot in dots for end in (dot.value, *(dot.interval or ()))]
    room = 0.06 * (max(ends) - min(ends)) or 0.1 * max(abs(ends[0]), 1e-6)
    x = _Scale(min(ends) - room, max(ends) + room, left, WIDTH - right)
    height = row * len(dots) + bottom
    svg = _svg(height, f"{title}: " + "; ".join(f"{dot.name} {dot.text}" for dot in dots) + ".")
    for tick in ticks(x.low, x.high):
        _line(svg, (x.at(tick), 0), (x.at(tick), height - bottom), "grid")
        _text(svg, (x.at(tick), height - 6), number(tick), "tick middle")
    for index, dot in enumerate(dots):
        group = ET.SubElement(svg, "g", {"class": "published" if dot.colour is None else f"c{dot.colour % COLOURS}"})
        middle = row * index + 25.0
        _text(group, (left, middle - 11), shorten(dot.name, NAME_LENGTH), "label")
        _text(group, (WIDTH - right, middle - 11), dot.text, "label end")
        if dot.interval is not None:
            low, high = (x.at(end) for end in dot.interval)
            _line(group, (low, middle), (high, middle), "whisker")
            for end in (low, high):
                _line(group, (end, middle - 4), (end, middle + 4), "whisker")
        _circle(group, (x.at(dot.value), middle), 4)
    return _markup(svg)


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Average neighbouring points until at most `most` are left. The last point stays as it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 1) / (most - 1))
    kept = []
    for start in range(0, len(points) - 1, size):
        group = points[start : min(start + size, len(points) - 1)]
        kept.append((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)))
    return [*kept, points[-1]]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most about `most` round numbers from `low` to `high`."""
    span = max(high - low, 1e-12)
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * unit for factor in (1, 2, 5, 10, 20) if span / (factor * unit) <= most)
    return [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: float) -> str:
    """Write a number with no more digits than a tick needs."""
    return f"{value:.4g}" if value else "0"


def shorten(text: str, length: int) -> str:
    """Return the text, or its end behind an ellipsis: paths differ at their end."""
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= length else "…" + text[-length + 1 :]


@dataclass(frozen=True)
class _Scale:
    """Maps values from `low` to `high` to places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / max(self.high - self.low, 1e-12) * (self.end - self.start)


def _svg(height: int, description: str) -> ET.Element:
    svg = ET.Element("svg", {"class": "chart", "viewBox": f"0 0 {WIDTH} {height}", "role": "img"})
    svg.set("aria-label", description)
    return svg


def _round(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _line(parent: ET.Element, start: Point, end: Point, kind: str) -> None:
    names = ("x1", "y1", "x2", "y2")
    places = {name: _round(value) for name, value in zip(names, (*start, *end), strict=True)}
    ET.SubElement(parent, "line", {"class": kind, **places})


def _circle(parent: ET.Element, place: Point, radius: int) -> None:
    places = {"cx": _round(place[0]), "cy": _round(place[1]), "r": str(radius)}
    ET.SubElement(parent, "circle", {"class": "dot", **places})


def _text(parent: ET.Element, place: Point, text: str, kind: str) -> None:
    element = ET.SubElement(parent, "text", {"class": kind, "x": _round(place[0]), "y": _round(place[1])})
    element.text = text


def _markup(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode"))  # ElementTree escaped all text
