"""Parallel coordinates as inline SVG: one line for each trial, through its value on every searched axis."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from scaledl.config import Dimension
from scaledl.report.charts import polyline, ticks
from scaledl.report.findings import Findings, last_value, spread, value_text
from scaledl.report.search_charts import Clip, describe, style

STEP, LEFT, RIGHT = 112, 60, 56
HEIGHT, TOP, BOTTOM = 320, 34, 46
NOT_SEARCHED = HEIGHT - 18
MAX_PLACES = 12_000
_APART = 0.075  # heights of two texts


@dataclass(frozen=True)
class Axis:
    """`place`: a value -> 0 (bottom) to 1 (top); None where it has none. `marks`: places and their texts."""

    name: str
    title: str
    place: Callable[[Any], float | None]
    marks: Sequence[tuple[float, str]]


def parallel_coordinates(found: Findings) -> Markup | None:
    """The first objective is the last axis. None when no trial has a value yet."""
    valued = [trial for trial in found.ranked if last_value(trial) is not None]
    dimensions = found.space.dimensions
    if not valued or not dimensions:
        return None
    shown = spread(valued, max(100, MAX_PLACES // (len(dimensions) + 1)))
    axes = [key_axis(found, dimension) for dimension in dimensions]
    clip = Clip.of(found.first, [value for trial in valued if (value := last_value(trial)) is not None])
    last = _objective_axis(found, clip)
    lines = []
    for trial in reversed(shown):  # the best on top
        heights = [axis.place(trial.point.get(d.name, _ABSENT)) for axis, d in zip(axes, dimensions, strict=True)]
        places = [(_x(i), _y(height)) for i, height in enumerate([*heights, last.place(last_value(trial))])]
        lines.append(polyline(places, style(found, trial), text=describe(found, trial)))
    width = LEFT + RIGHT + STEP * len(axes)
    crowd = "many" if len(lines) > 100 else "few"
    size = f"style='min-width: {width * 3 // 4}px; max-width: {width * 5 // 4}px' viewBox='0 0 {width} {HEIGHT}'"
    drawn = [_drawn(axis, i) for i, axis in enumerate([*axes, last])]
    head = f"<svg class='{crowd}' {size} role='img' aria-label='Parallel coordinates'>"
    # Every number is formatted here and every text escaped, so the whole is safe.
    return Markup("".join([head, *lines, *drawn, "</svg>"]))  # noqa: S704


_ABSENT = object()


def key_axis(found: Findings, dimension: Dimension) -> Axis:
    """Of a searched key: logarithmic as it is searched, choices at equal distances."""
    if dimension.kind == "choice":
        return _choice_axis(found, dimension)
    low, high = dimension.low, dimension.high
    scale: Callable[[float], float] = math.log if dimension.is_log else float
    span = scale(high) - scale(low)

    def place(value: Any) -> float | None:
        if value is _ABSENT:
            return None
        return min(max((scale(value) - scale(low)) / span if span else 0.5, 0.0), 1.0)

    between = _decades(low, high) if dimension.is_log else [t for t in ticks(low, high) if low < t < high]
    marks = [(place(value) or 0.0, f"{value:.4g}") for value in (low, *between, high)]
    return Axis(found.short(dimension), dimension.name, place, _apart(marks))


def _choice_axis(found: Findings, dimension: Dimension) -> Axis:
    most = max(len(dimension.choices) - 1, 1)
    places = {_identity(choice): i / most for i, choice in enumerate(dimension.choices)}
    marks = [(i / most, value_text(choice)) for i, choice in enumerate(dimension.choices)]
    return Axis(found.short(dimension), dimension.name, lambda value: places.get(_identity(value)), _apart(marks))


def _identity(value: Any) -> str:
    """Tells true from 1, and knows lists."""
    return "" if value is _ABSENT else json.dumps(value, sort_keys=True, default=str)


def _objective_axis(found: Findings, clip: Clip) -> Axis:
    low, high = (found.first.shown(value) for value in clip.bounds)
    axis = ticks(low, high)

    def place(value: Any) -> float | None:
        shown = found.first.shown(clip.inside(value))
        return (shown - axis[0]) / (axis[-1] - axis[0])

    marks = [((value - axis[0]) / (axis[-1] - axis[0]), f"{value:g}") for value in axis]
    return Axis(found.first.label, found.first.label, place, marks)


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [10.0**power for power in powers if low < 10.0**power < high]


def _apart(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without those that would stand on another; the ends stay."""
    kept = list(marks[:1])
    for mark in marks[1:-1]:
        if min(mark[0] - kept[-1][0], marks[-1][0] - mark[0]) > _APART:
            kept.append(mark)
    return kept + list(marks[1:][-1:])


def _x(index: int) -> float:
    return LEFT + STEP * index


def _y(height: float | None) -> float:
    return NOT_SEARCHED if height is None else HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)


def _drawn(axis: Axis, index: int) -> str:
    x = _x(index)
    name = axis.name if len(axis.name) <= 17 else f"…{axis.name[-16:]}"
    parts = [
        f"<line class='axis' x1='{x}' x2='{x}' y1='{TOP}' y2='{HEIGHT - BOTTOM}'/>",
        f"<text class='name' x='{x}' y='{TOP - 16}' text-anchor='middle'>{escape(name)}"
        f"<title>{escape(axis.title)}</title></text>",
    ]
    for height, text in axis.marks:
        short = text if len(text) <= 12 else f"{text[:11]}…"
        parts.append(f"<line class='axis' x1='{x - 4}' x2='{x}' y1='{_y(height):.1f}' y2='{_y(height):.1f}'/>")
        parts.append(f"<text x='{x - 7}' y='{_y(height):.1f}' dy='.35em' text-anchor='end'>{escape(short)}</text>")
    return "".join(parts)
