"""Line charts as inline SVG: text in, text out, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from scaledl.report.units import count

Point = tuple[float, float]

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 22, 12, 42
MAX_POINTS = 600
SERIES_CLASSES = 4
EMPTY = Markup("<p class='empty'>No finite values were recorded.</p>")


def line_chart(series: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str) -> Markup:
    """One SVG with a line for each series; points that are not finite are left out.

    `title` is read by screen readers. A series of one point is drawn as a dot, none at all as a sentence.
    """
    lines = {name: thin(finite(points)) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return EMPTY
    frame = Frame.around([point for points in lines.values() for point in points])
    parts = [frame.line(points, f"s{i % SERIES_CLASSES}") for i, points in enumerate(lines.values())]
    picture = frame.svg(parts, title=title, x_label=x_label, y_label=y_label)
    return picture + _legend(list(lines)) if len(lines) > 1 else picture


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: the lowest and the highest of each stretch, so that no spike is hidden.

    >>> thin([(0, 1), (1, 9), (2, 0), (3, 5)], limit=2)
    [(1, 9), (2, 0)]
    """
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose low and high.

    >>> ticks(0, 9)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    scale = max(1.0, abs(low), abs(high))
    if high - low < 1e-9 * scale:  # one value, as far as a picture can show
        low, high = low - scale / 200, high + scale / 200
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class Frame:
    """A picture with two axes: where a value lies in it, and the grid around what is drawn."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    @classmethod
    def around(cls, points: Sequence[Point]) -> Frame:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return cls(ticks(min(xs), max(xs)), ticks(min(ys), max(ys)))

    def place(self, point: Point) -> Point:
        return _x(point[0], self.x_ticks), _y(point[1], self.y_ticks)

    def line(self, points: Sequence[Point], style: str, *, text: str = "") -> str:
        """A line through the points; of one point a dot. `style`: classes of the page's style sheet."""
        if len(points) == 1:
            return self.dot(points[0], style, text=text)
        return polyline([self.place(point) for point in points], style, text=text)

    def dot(self, point: Point, style: str, *, text: str = "") -> str:
        x, y = self.place(point)
        return _element("circle", f"class='dot {style}' cx='{x:.1f}' cy='{y:.1f}' r='3'", text)

    def svg(self, parts: Sequence[str], *, title: str, x_label: str, y_label: str) -> Markup:
        """The whole picture. `parts` come from this class: every number in them is formatted, every text escaped."""
        head = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(title)}'>"
        grid = [*_grid(self.x_ticks, self.y_ticks), *_labels(x_label, y_label)]
        return Markup("".join([head, *grid, *parts, "</svg>"]))  # noqa: S704


def polyline(places: Sequence[Point], style: str, *, text: str = "") -> str:
    """A line through places of a picture; `text` appears under the pointer."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return _element("polyline", f"class='line {style}' points='{path}'", text)


def _element(tag: str, attributes: str, text: str) -> str:
    return f"<{tag} {attributes}><title>{escape(text)}</title></{tag}>" if text else f"<{tag} {attributes}/>"


def _x(value: float, axis: Sequence[float]) -> float:
    return LEFT + (value - axis[0]) / (axis[-1] - axis[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - axis[0]) / (axis[-1] - axis[0]) * (HEIGHT - TOP - BOTTOM)


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in y_ticks:
        y = f"{_y(value, y_ticks):.1f}"
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{right}' y1='{y}' y2='{y}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y}' dy='.35em' text-anchor='end'>{_short(value)}</text>")
    for value in x_ticks:
        x = f"{_x(value, x_ticks):.1f}"
        parts.append(f"<line class='grid' x1='{x}' x2='{x}' y1='{bottom}' y2='{bottom + 4}'/>")
        parts.append(f"<text x='{x}' y='{bottom + 17}' text-anchor='middle'>{value:g}</text>")
    return parts


def _short(value: float) -> str:
    """Of six digits and more there is no room beside the axis."""
    return f"{value:g}" if abs(value) < 1e5 else count(value)


def _labels(x_label: str, y_label: str) -> list[str]:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return [
        f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 6}' text-anchor='middle'>{escape(x_label)}</text>",
        f"<text transform='translate(13 {middle}) rotate(-90)' text-anchor='middle'>{escape(y_label)}</text>",
    ]


def _legend(names: Sequence[str]) -> Markup:
    items = (Markup("<span class='key s{}'>{}</span>").format(i % SERIES_CLASSES, name) for i, name in enumerate(names))
    return Markup("<p class='legend'>{}</p>").format(Markup("").join(items))
