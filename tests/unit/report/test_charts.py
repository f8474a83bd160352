from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.report.charts import HEIGHT, WIDTH, line_chart, thin, ticks

pytestmark = pytest.mark.unit

finite = st.floats(min_value=-1e9, max_value=1e9)


def chart(series: dict[str, list[tuple[float, float]]], title: str = "t") -> str:
    return str(line_chart(series, title=title, x_label="step", y_label="loss"))


def drawn(svg: str) -> list[tuple[float, float]]:
    """Every place that a line goes through, in the units of the picture."""
    return [
        tuple(map(float, place.split(","))) for line in re.findall(r"points='([^']*)'", svg) for place in line.split()
    ]


def test_lines_follow_the_values() -> None:
    places = drawn(chart({"a": [(0, 1.0), (5, 3.0), (10, 2.0)]}))
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    (_, low), (_, high), (_, middle) = places
    assert high < middle < low  # up is smaller in SVG
    assert middle == pytest.approx((high + low) / 2, abs=0.2)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40))
def test_every_chart_is_well_formed_and_stays_inside_the_picture(points: list[tuple[float, float]]) -> None:
    svg = chart({"a": points})
    ElementTree.fromstring(svg)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn(svg))


def test_values_that_are_not_finite_are_left_out() -> None:
    assert len(drawn(chart({"a": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]}))) == 2
    assert "No finite values" in chart({"a": [(0, math.nan)]})


def test_one_point_is_a_dot() -> None:
    assert "<circle" in chart({"a": [(3, 0.5)]})


def test_legend_names_the_lines_only_when_there_are_several() -> None:
    one = {"training": [(0, 1.0), (1, 2.0)]}
    assert "legend" not in chart(one)
    assert "validation" in chart(one | {"validation": [(0, 2.0), (1, 1.0)]})


def test_texts_are_escaped() -> None:
    two = {"<b>": [(0, 1.0), (1, 2.0)], "c": [(0, 1.0), (1, 2.0)]}
    page = chart(two, title="'><script>")
    assert "<script>" not in page
    assert "<b>" not in page


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=500), st.integers(min_value=2, max_value=50))
def test_thinning_keeps_the_extremes(points: list[tuple[float, float]], limit: int) -> None:
    points = [(float(i), y) for i, (_, y) in enumerate(points)]
    kept = thin(points, limit)
    assert len(kept) <= limit + 1
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    assert {min(y for _, y in kept), max(y for _, y in kept)} == {min(y for _, y in points), max(y for _, y in points)}


@given(finite, finite)
def test_ticks_enclose_the_range_at_equal_distances(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    marks = ticks(low, high)
    tolerance = 1e-6 * max(1.0, abs(low), abs(high))
    assert marks[0] <= low + tolerance
    assert marks[-1] >= high - tolerance
    assert 2 <= len(marks) <= 9
    assert marks == sorted(set(marks))
