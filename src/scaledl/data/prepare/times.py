"""When samples were taken, as numbers that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from scaledl.errors import UsageError


def read_times(cells: Sequence[tuple[str, str | int | float | None]]) -> dict[str, float]:
    """Times by key; those without one are left out. All are numbers, or all are ISO dates (UTC where they say nothing).

    Raises UsageError for anything else, and for a mixture.
    """
    present = [(key, str(cell).strip()) for key, cell in cells if cell is not None and str(cell).strip()]
    for read_fn in (_number, _date):
        found = {key: time for key, cell in present if (time := read_fn(cell)) is not None}
        if len(found) == len(present):
            return {key: time for key, time in found.items() if not math.isnan(time)}
    numbers = _number(present[0][1]) is not None
    read_fn, what = (_number, "numbers") if numbers else (_date, "ISO dates")
    key, odd = next((key, cell) for key, cell in present if read_fn(cell) is None)
    raise UsageError(
        f"data.prepare.time: got {odd!r} at {key}; allowed: numbers only, or ISO dates only (2024-05-31, "
        f"2024-05-31T12:00:00){'' if odd == present[0][1] else f', and the first value is one of {what}'}"
    )


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if not math.isinf(value) else None


def _date(cell: str) -> float | None:
    try:
        found = datetime.fromisoformat(cell)
    except ValueError:
        return math.nan if cell.lower() == "nat" else None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
