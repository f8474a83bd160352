"""Categories of a table as columns of zeros and ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scaledl.errors import UsageError

MOST_COLUMNS = 16_384
MOST_VALUES = 4 << 30


def one_hot(features: Tensor, columns: Sequence[dict[str, Any]]) -> Tensor:
    """A column for each category, in the place of the one with its number; unknown ones (0) are zeros everywhere.

    Args:
        features: float32 [N, F], as a table is stored.
        columns: of each of the F what `dataset.json` says: its kind, and its categories.

    Returns:
        float32 [N, F'], or `features` itself where no column holds categories.

    Raises:
        UsageError: more than 16,384 columns would be needed, or more than 16 GiB.
    """
    if all(column["kind"] == "numeric" for column in columns):
        return features
    widths = [1 if column["kind"] == "numeric" else len(column["categories"]) for column in columns]
    if sum(widths) > MOST_COLUMNS:
        widest = columns[widths.index(max(widths))]
        raise UsageError(
            f"data.source: the table's categories take {sum(widths):,} columns of zeros and ones; allowed: "
            f"{MOST_COLUMNS:,}; fix: prepare it again with data.prepare.exclude=[{widest['name']}], which has "
            f"{max(widths):,} of them"
        )
    if len(features) * sum(widths) > MOST_VALUES:
        raise UsageError(
            f"data.source: {len(features):,} rows of {sum(widths):,} columns, most of them zeros and ones for "
            f"categories, take {len(features) * sum(widths) * 4 / 2**30:,.0f} GiB; allowed: {MOST_VALUES * 4 >> 30}; "
            "fix: prepare it again without the widest (data.prepare.exclude), or with fewer rows"
        )
    result = torch.zeros(len(features), sum(widths))
    start = 0
    for values, width, column in zip(features.unbind(1), widths, columns, strict=True):
        if column["kind"] == "numeric":
            result[:, start] = values
        else:
            rows = torch.nonzero((values > 0) & (values <= width)).squeeze(1)
            result[rows, start + values[rows].long() - 1] = 1
        start += width
    return result
