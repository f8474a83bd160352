"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

from scaledl.config.figures import difference, figure_of, written

MISSING = "–"


def count(value: float | None) -> str:
    """
    >>> count(78_042), count(40_551_424), count(None)
    ('78.0 k', '40.6 M', '–')
    """
    if value is None:
        return MISSING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{_decimals(value / size)}f} {unit}"
    return f"{value:g}"


def size(value: float | None) -> str:
    """Bytes, in decimal units.

    >>> size(113_500), size(999)
    ('114 kB', '999 B')
    """
    return MISSING if value is None else f"{count(value)}B" if abs(value) >= 1000 else f"{value:g} B"


def milliseconds(value: float | None) -> str:
    """
    >>> milliseconds(0.2149), milliseconds(37.84)
    ('0.215 ms', '37.8 ms')
    """
    return MISSING if value is None else f"{value:.{_decimals(value)}f} ms"


def seconds(value: float) -> str:
    """
    >>> seconds(3.21), seconds(75), seconds(7384)
    ('3.2 s', '1 min 15 s', '2 h 3 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(text: str) -> str:
    """An ISO 8601 time, to the second.

    >>> moment("2026-11-24T00:05:03.996570+00:00")
    '2026-11-24 00:05:03 UTC'
    """
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(value: float | None) -> str:
    """
    >>> percent(0.98333)
    '98.33 %'
    """
    return MISSING if value is None else f"{100 * value:.2f} %"


def times_less(start: float | None, now: float | None) -> str:
    """How many times smaller than the start; nothing where that says nothing.

    >>> times_less(100, 8), times_less(100, 100), times_less(None, 8)
    ('12.5× less', '', '')
    >>> times_less(10, 15)
    '1.50× more'
    """
    if not start or not now or start == now:
        return ""
    ratio, word = (start / now, "less") if now < start else (now / start, "more")
    return f"{ratio:.{_decimals(ratio)}f}× {word}"


def change(name: str, start: float | None, now: float | None) -> str:
    """What came of a figure: percentage points of a share, the plain difference of others.

    >>> change("accuracy", 0.98, 0.9755), change("accuracy", 0.98, 0.98), change("rmse", 53.1, 52.0)
    ('−0.45 points', '', '−1.1')
    """
    if start is None or now is None or start == now:
        return ""
    found = figure_of(name)
    unit = " points" if found is not None and found.is_share else ""
    return f"{difference(name, start, now)}{unit}".replace("-", "−")


def metric(name: str, value: float | None) -> str:
    """
    >>> metric("val_accuracy", 0.5), metric("size_bytes", 5300), metric("val_loss", 0.123456), metric("val_loss", None)
    ('50.00 %', '5.30 kB', '0.1235', '–')
    """
    if value is None:
        return MISSING
    if figure_of(name) is not None:
        return written(name, value)
    if name.endswith("_bytes"):
        return size(value)
    if name in ("params", "macs"):
        return count(value)
    return f"{value:.4g}"


def _decimals(value: float) -> int:
    """Decimals that leave three digits that mean something."""
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
