"""Draws the metrics of a run as an image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from clipcap.data.cache.atomic import write_file
from clipcap.data.metrics import METRICS

_PANEL = (760, 300)
_MARGIN = 64
_INK, _PALE = (40, 40, 46), (222, 222, 228)
_SCORES = tuple(f"val_{metric}" for metric in METRICS)
_COLOURS = {
    "train_loss": (46, 110, 180),
    "val_loss": (200, 80, 40),
    **dict.fromkeys(_SCORES, (180, 60, 120)),
    "image_gap": (60, 140, 80),
    "lr": (120, 90, 160),
}
# The panels from top to bottom: the names in metrics.jsonl of the values that each shows.
_PANELS = (("train_loss", "val_loss"), *((score,) for score in _SCORES), ("image_gap",), ("lr",))

Point = tuple[float, float]


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels: the range of both axes, and the top of the panel in pixels."""

    left: float
    right: float
    low: float
    high: float
    top: int

    def at(self, point: Point) -> Point:
        width, height = _PANEL[0] - 2 * _MARGIN, _PANEL[1] - _MARGIN
        x = (point[0] - self.left) / max(self.right - self.left, 1e-12)
        y = (point[1] - self.low) / max(self.high - self.low, 1e-12)
        return _MARGIN + x * width, self.top + _MARGIN / 2 + (1 - y) * height


def draw_curves(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw losses, scores of captions, image gap and learning rate over the steps.

    Args:
        lines: the lines of metrics.jsonl.
        file: the PNG to write; an older one is replaced.

    Raises:
        ClipCapError: the file cannot be written.
    """
    series = {name: _points(lines, name) for name in _COLOURS}
    panels = [names for names in _PANELS if any(series[name] for name in names)]
    sheet = Image.new("RGB", (_PANEL[0], _PANEL[1] * max(1, len(panels))), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    steps = [point[0] for points in series.values() for point in points] or [0.0]
    for number, names in enumerate(panels):
        values = [value for name in names for _, value in series[name]]
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or max(abs(high), 1e-6) * 0.1
        scale = _Scale(min(steps), max(steps), low - room, high + room, number * _PANEL[1])
        _draw_axes(draw, font, scale)
        for position, name in enumerate(names):
            points = [scale.at(point) for point in series[name]]
            if len(points) > 1:
                draw.line(points, fill=_COLOURS[name], width=2, joint="curve")
            for x, y in points if len(points) < 40 else points[-1:]:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_COLOURS[name])
            label = name.replace("_", " ") + (f" {series[name][-1][1]:.4g}" if series[name] else "")
            draw.text((_MARGIN + 160 * position, scale.top + 8), label, fill=_COLOURS[name], font=font)
    write_file(file, _png(sheet))


def _points(lines: Sequence[dict[str, Any]], name: str) -> list[Point]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None and "step" in line]
    return [(float(step), float(value)) for step, value in found if math.isfinite(value)]


def _draw_axes(draw: ImageDraw.ImageDraw, font: Any, scale: _Scale) -> None:
    for tick in _ticks(scale.low, scale.high):
        (x, y), (end, _) = scale.at((scale.left, tick)), scale.at((scale.right, tick))
        draw.line((x, y, end, y), fill=_PALE)
        draw.text((x - 8, y), f"{tick:.4g}", fill=_INK, font=font, anchor="rm")
    for tick in _ticks(scale.left, scale.right):
        x, y = scale.at((tick, scale.low))
        draw.text((x, y + 6), f"{tick:,.0f}", fill=_INK, font=font, anchor="ma")


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between `low` and `high`."""
    span = max(high - low, 1e-12)
    unit = 10.0 ** math.floor(math.log10(span / 5))
    step = next(factor * unit for factor in (1, 2, 5, 10) if span / (factor * unit) <= 6)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _png(image: Image.Image) -> bytes:
    import io

    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()
