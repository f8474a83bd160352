"""Rows of a table by the names of their columns, as the numbers that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scaledl.errors import UsageError

_MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?")  # as when a set is prepared


@dataclass(frozen=True)
class TableColumn:
    """One column of a table.

    Attributes:
        categories: the values that it may have, in the order of their codes from 1 on; none of a column of numbers.
        fill: of numbers, what stands for a missing one; None where none may be missing.
    """

    name: str
    categories: tuple[str, ...] = ()
    fill: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TableColumn:
        """The reverse of `to_dict`. Raises KeyError, TypeError or ValueError when it is damaged."""
        fill = value.get("fill")
        categories = tuple(str(name) for name in value.get("categories", ()))
        return cls(str(value["name"]), categories, None if fill is None else float(fill))

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.categories, 1)}

    def code(self, cell: Any) -> float:
        """Of a category its number, 0 of an unknown or missing one; of a number itself. UsageError for what is none."""
        text = "" if cell is None else str(cell).strip()
        if self.categories:
            whole = text.removesuffix(".0")  # a column of whole numbers with gaps holds floats
            return float(self._codes.get(text, self._codes.get(whole, 0)))
        if text.lower() in _MISSING:
            if self.fill is None:
                raise UsageError(f"column {self.name!r} has no value; wanted a number, as none was missing in training")
            return self.fill
        try:
            number = math.nan if "_" in text else float(text)  # Python reads 1_000 as a number
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"column {self.name!r} has {text[:60]!r}; wanted a number")
        return number


def encode_rows(rows: Any, columns: Sequence[TableColumn], *, codes: bool) -> Tensor:
    """float32 [N, F] from mappings of column names to values, or one mapping of them to lists of values.

    Args:
        codes: whether categories are codes behind the numbers, instead of columns of zeros and ones in their places.

    Raises:
        UsageError: a column is missing, unknown, shorter than others, or holds what it cannot.
    """
    if not columns:
        raise UsageError("inputs: rows by name, but the file does not say what its columns are; give numbers [N, F]")
    values = _by_column(rows, columns)
    encoded = [
        torch.tensor([_coded(column, cell, row) for row, cell in enumerate(cells)], dtype=torch.float32)
        for column, cells in zip(columns, values, strict=True)
    ]
    return joined(torch.stack(encoded, 1), columns, codes=codes)


def joined(coded: Tensor, columns: Sequence[TableColumn], *, codes: bool) -> Tensor:
    """Columns as they are stored, float32 [N, columns], as a model takes them: [N, F]."""
    if codes:
        return coded[:, order_of(columns)].contiguous()
    return one_hot(coded, [len(column.categories) for column in columns])


def one_hot(coded: Tensor, counts: Sequence[int]) -> Tensor:
    """A column for each category, in the place of the one with its number; unknown ones (0) are zeros everywhere.

    Args:
        coded: float32 [N, F].
        counts: of each of the F how many categories it has; 0 of numbers.

    Returns:
        float32 [N, F'], or `coded` itself where no column holds categories.
    """
    if not any(counts):
        return coded
    result = torch.zeros(len(coded), sum(count or 1 for count in counts))
    start = 0
    for values, count in zip(coded.unbind(1), counts, strict=True):
        if count:
            rows = torch.nonzero((values > 0) & (values <= count)).squeeze(1)
            result[rows, start + values[rows].long() - 1] = 1
        else:
            result[:, start] = values
        start += count or 1
    return result


def order_of(columns: Sequence[TableColumn]) -> list[int]:
    """Numbers first, then categories, each in the table's order."""
    return sorted(range(len(columns)), key=lambda place: bool(columns[place].categories))


def _coded(column: TableColumn, cell: Any, row: int) -> float:
    try:
        return column.code(cell)
    except UsageError as error:
        raise UsageError(f"inputs: row {row}: {error}") from None


def _by_column(rows: Any, columns: Sequence[TableColumn]) -> list[list[Any]]:
    if isinstance(rows, Mapping):
        _check_names(rows, columns, "")
        values = [list(rows[column.name]) for column in columns]
        lengths = {len(cells) for cells in values}
        if len(lengths) > 1:
            raise UsageError(f"inputs: columns of {min(lengths)} and of {max(lengths)} values; wanted as many in each")
        return values
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UsageError(f"inputs: row {number} is a {type(row).__name__}; wanted a mapping of column names")
        _check_names(row, columns, f"row {number}: ")
    return [[row[column.name] for row in rows] for column in columns]


def _check_names(row: Mapping[str, Any], columns: Sequence[TableColumn], where: str) -> None:
    """Columns that the model does not use may be there: a label, an id."""
    missing = [column.name for column in columns if column.name not in row]
    if missing:
        raise UsageError(
            f"inputs: {where}column {missing[0]!r} is missing; there are {', '.join(map(repr, list(row)[:20]))}"
        )
