"""Categories of a table as a model takes them: columns of zeros and ones, or codes behind the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from scaledl.errors import UsageError
from scaledl.runtime.columns import TableColumn, joined

MOST_COLUMNS = 16_384
MOST_VALUES = 4 << 30


def features_of(stored: Tensor, columns: Sequence[TableColumn], *, codes: bool) -> Tensor:
    """float32 [N, F] of a table as it is stored, float32 [N, columns]: see `joined`.

    Raises:
        UsageError: more than 16,384 columns of zeros and ones would be needed, or more than 16 GiB.
    """
    if not codes:
        _check_widths(len(stored), columns)
    return joined(stored, columns, codes=codes)


def _check_widths(rows: int, columns: Sequence[TableColumn]) -> None:
    if not any(column.categories for column in columns):
        return
    widths = [len(column.categories) or 1 for column in columns]
    if sum(widths) > MOST_COLUMNS:
        widest = columns[widths.index(max(widths))]
        raise UsageError(
            f"data.source: the table's categories take {sum(widths):,} columns of zeros and ones; allowed: "
            f"{MOST_COLUMNS:,}; fix: data.categories=embed, or prepare it again with "
            f"data.prepare.exclude=[{widest.name}], which has {max(widths):,} of them"
        )
    if rows * sum(widths) > MOST_VALUES:
        raise UsageError(
            f"data.source: {rows:,} rows of {sum(widths):,} columns, most of them zeros and ones for categories, take "
            f"{rows * sum(widths) * 4 / 2**30:,.0f} GiB; allowed: {MOST_VALUES * 4 >> 30}; fix: data.categories=embed, "
            "or prepare it again without the widest (data.prepare.exclude), or with fewer rows"
        )
