"""docs/models.md says what families accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl.models.accepts import ACCEPTS

pytestmark = pytest.mark.unit
PAGE = Path(__file__).parents[3] / "docs/models.md"


def test_the_page_says_what_each_family_accepts() -> None:
    lines = PAGE.read_text().splitlines()
    start = lines.index("|---|---|---|---|---|") + 1
    rows = {cells[1].strip(" `"): [cell.strip() for cell in cells[2:6]] for cells in _rows(lines[start:])}
    assert rows == {
        family: [", ".join(kinds.get(kind, ())) for kind in ("image", "series", "table", "text")]
        for family, kinds in ACCEPTS.items()
    }


def _rows(lines: list[str]) -> list[list[str]]:
    end = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return [line.split("|") for line in lines[:end]]
