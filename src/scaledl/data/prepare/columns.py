"""Columns of a table: what they hold, which of them are no features, and the numbers that they become."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.cells import NUMBER, Cells, Mixture, Texts, block_rows, blocks_of, text_of
from scaledl.data.prepare.items import Item
from scaledl.errors import UsageError

_MOST = float(np.finfo(np.float32).max)
_EXACT = 1 << 24  # whole numbers up to here are exact as float32
_ROW_NUMBER = re.compile(r"id|index|unnamed: 0|column \d+", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True, eq=False)
class Column:
    """One feature.

    Attributes:
        values: float64 [N], NaN where missing; or texts [N].
    """

    name: str
    values: NDArray[np.float64] | Texts

    @property
    def missing(self) -> NDArray[np.bool_]:
        """bool [N]."""
        return self.values.codes == 0 if isinstance(self.values, Texts) else np.isnan(self.values)

    def select(self, rows: NDArray[np.int64]) -> Column:
        if isinstance(self.values, Texts):
            return Column(self.name, Texts(self.values.codes[rows], self.values.names))
        return Column(self.name, self.values[rows])

    def distinct(self) -> int:
        """How many values it has, missing ones aside."""
        if isinstance(self.values, Texts):
            return int((_counts(self.values) > 0)[1:].sum())
        return len(np.unique(self.values[~self.missing]))


def read_columns(
    items: Sequence[Item], names: Sequence[str], config: PrepareConfig, cells: Cells | None = None
) -> tuple[list[Column], list[str]]:
    """The features, and notes on columns that are none: constant ones, and those that number or name the rows.

    Args:
        cells: where the items' contents are numbers of its rows; else they are the cells themselves.

    Raises UsageError for a column that mixes numbers and texts.
    """
    columns: list[Column] = []
    notes: list[str] = []
    source = _Source(items, *_by_column(items, names, config, cells))
    for place, name in enumerate(names):
        column = _read(source, place, name, notes)
        reason = _useless(column, len(items), asked=name in config.categorical)
        if reason:
            notes.append(f"column {name!r} is left out: {reason}")
        else:
            columns.append(column)
    return columns, notes


def missing_counts(
    items: Sequence[Item], names: Sequence[str], config: PrepareConfig, cells: Cells | None
) -> list[int]:
    """How many of the items have nothing in each column."""
    cells, rows = _by_column(items, names, config, cells)
    return [cells.missing(place, rows) for place in range(len(names))]


def digest_rows(columns: Sequence[Column], count: int) -> NDArray[np.uint8]:
    """uint8 [N, 32]: equal for rows whose features are equal, however they are written."""
    numbers = [column.values for column in columns if not isinstance(column.values, Texts)]
    texts = [column.values for column in columns if isinstance(column.values, Texts)]
    quoted = [[json.dumps(name) for name in values.names] for values in texts]
    found = np.empty((count, 32), np.uint8)
    step = block_rows(len(columns))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        size = rows.stop - start
        matrix = np.stack([values[rows] + 0.0 for values in numbers], axis=1) if numbers else np.zeros((size, 0))
        matrix[np.isnan(matrix)] = np.nan  # one kind of NaN, and no negative zeros
        listed = _lists(
            [[names[code] for code in one.codes[rows].tolist()] for names, one in zip(quoted, texts, strict=True)], size
        )
        digests = [
            hashlib.sha256(row.tobytes() + text.encode()).digest() for row, text in zip(matrix, listed, strict=True)
        ]
        found[rows] = np.frombuffer(b"".join(digests), np.uint8).reshape(size, 32)
    return found


def _lists(columns: Sequence[Sequence[str]], count: int) -> Iterator[str]:
    """JSON lists of each row's texts, which are quoted already."""
    rows = zip(*columns, strict=True) if columns else repeat((), count)
    return (f"[{', '.join(row)}]" for row in rows)


def encode(column: Column, train: NDArray[np.bool_], missing: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """float32 [N] and what the document says of the column, from its training rows; None where these are constant."""
    if isinstance(column.values, Texts):
        return _encode_texts(column, column.values, train)
    return _encode_numbers(column, column.values, train, missing)


def _encode_texts(
    column: Column, values: Texts, train: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    seen = np.flatnonzero(_counts(values, train)[1:]) + 1
    order = sorted(seen.tolist(), key=values.names.__getitem__)
    if len(order) < 2:
        return None
    codes = np.zeros(len(values.names), np.float32)
    codes[order] = np.arange(1, len(order) + 1)
    categories = [values.names[code] for code in order]
    count = int(column.missing.sum())
    return codes[values.codes], {"name": column.name, "kind": "category", "categories": categories, "missing": count}


def _counts(values: Texts, rows: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """How often each of the texts is there."""
    return np.bincount(values.codes if rows is None else values.codes[rows], minlength=len(values.names))


def _encode_numbers(
    column: Column, values: NDArray[np.float64], train: NDArray[np.bool_], missing: str
) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    known = values[train & ~column.missing]
    if len(np.unique(known)) < 2:
        return None
    fill = {"mean": float(known.mean()), "median": float(np.median(known)), "zero": 0.0}.get(missing)
    filled = np.where(column.missing, 0.0 if fill is None else fill, values)
    described = {"mean": known.mean(), "std": known.std() or 1.0, "min": known.min(), "max": known.max()}
    return filled.astype(np.float32), {
        "name": column.name,
        "kind": "numeric",
        **{key: float(value) for key, value in described.items()},
        "missing": int(column.missing.sum()),
        **({} if fill is None else {"fill": fill}),
    }


@dataclass(frozen=True, eq=False)
class _Source:
    """Cells of the items. `rows`: int64 [N], each one's among the cells."""

    items: Sequence[Item]
    cells: Cells
    rows: NDArray[np.int64]

    def text(self, place: int, item: int) -> str:
        return text_of(self.cells.cell(int(self.rows[item]), place))


def _by_column(
    items: Sequence[Item], names: Sequence[str], config: PrepareConfig, cells: Cells | None
) -> tuple[Cells, NDArray[np.int64]]:
    """The items' cells, and each one's row among them."""
    if cells is not None:
        return cells, np.fromiter((item.content for item in items), np.int64, len(items))
    made = Cells([name in config.categorical for name in names], lambda row, place: items[row].content[place])
    for block in blocks_of(((row, item.content) for row, item in enumerate(items)), len(names)):
        made.append(block.cells)
    return made, np.arange(len(items))


def _read(source: _Source, place: int, name: str, notes: list[str]) -> Column:
    found = source.cells.take(place, source.rows)
    if isinstance(found, Texts):
        return Column(name, found)
    if not isinstance(found, Mixture):
        return Column(name, _finite(name, found, notes))
    codes, names = found.texts.codes, found.texts.names
    strange = np.flatnonzero(found.strange[codes] & (codes > 0))
    if not len(strange):
        return Column(name, _finite(name, found.numbers, notes))
    numbers = np.flatnonzero((codes == NUMBER) | ((codes > 0) & ~found.strange[codes]))
    if len(numbers):
        raise UsageError(_mixed(name, source, place, int(numbers[0]), int(strange[0])))
    if all(_COMMA.fullmatch(names[code]) for code in np.unique(codes[strange]).tolist()):
        raise UsageError(
            f"column {name!r}: got {names[codes[strange[0]]]!r} at {source.items[strange[0]].key}; allowed: numbers "
            "with a decimal point; fix: replace the decimal commas, or name the column in data.prepare.categorical"
        )
    return Column(name, found.texts)


def _mixed(name: str, source: _Source, place: int, number: int, text: int) -> str:
    return (
        f"column {name!r}: mixes numbers and texts: got {source.text(place, text)!r} at {source.items[text].key}, and "
        f"{source.text(place, number)!r} at {source.items[number].key}; allowed: one or the other; fix: correct or "
        "empty the cell, or name the column in data.prepare.categorical or data.prepare.exclude"
    )


def _finite(name: str, values: NDArray[np.float64], notes: list[str]) -> NDArray[np.float64]:
    """The same array, NaN where float32 holds no such number."""
    beyond = np.abs(values) > _MOST
    if beyond.any():
        notes.append(f"column {name!r}: {int(beyond.sum())} values that are infinite as float32 count as missing")
        values[beyond] = np.nan
    whole = values[~np.isnan(values)]
    if len(whole) and (whole == np.round(whole)).all() and np.abs(whole).max() > _EXACT:
        notes.append(f"column {name!r}: whole numbers above {_EXACT:,} lose digits as float32")
    return values


def _useless(column: Column, rows: int, *, asked: bool) -> str:
    """Why a column is no feature, or an empty text. `asked`: the config names it."""
    distinct = column.distinct()
    if distinct < 2:
        return "constant" if distinct else "no values"
    all_distinct = distinct == rows - int(column.missing.sum())
    if asked or not all_distinct:
        return ""
    if isinstance(column.values, Texts):
        return "all its texts are different, as those of an id are"
    whole = (column.values == np.round(column.values)).all()
    return "it numbers the rows" if whole and _ROW_NUMBER.fullmatch(column.name) else ""
