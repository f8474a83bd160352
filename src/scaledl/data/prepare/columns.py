"""Columns of a table: what they hold, which of them are no features, and the numbers that they become."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import Item
from scaledl.data.prepare.table import Cell, is_missing, text_of
from scaledl.errors import UsageError

_MOST = float(np.finfo(np.float32).max)
_EXACT = 1 << 24  # whole numbers up to here are exact as float32
_ROW_NUMBER = re.compile(r"id|index|unnamed: 0|column \d+", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d+,\d+")
_WHOLE = re.compile(r"([+-]?\d+)\.0")


@dataclass(frozen=True, eq=False)
class Column:
    """One feature.

    Attributes:
        values: float64 [N], NaN where missing; or texts [N], empty where missing.
    """

    name: str
    values: NDArray[np.float64] | list[str]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """bool [N]."""
        if isinstance(self.values, list):
            return np.array([not value for value in self.values], dtype=bool)
        return np.isnan(self.values)

    def select(self, rows: NDArray[np.int64]) -> Column:
        if isinstance(self.values, list):
            return Column(self.name, [self.values[row] for row in rows.tolist()])
        return Column(self.name, self.values[rows])

    def distinct(self) -> int:
        """How many values it has, missing ones aside."""
        if isinstance(self.values, list):
            return len({*self.values} - {""})
        return len(np.unique(self.values[~self.missing]))


def read_columns(items: Sequence[Item], names: Sequence[str], config: PrepareConfig) -> tuple[list[Column], list[str]]:
    """The features, and notes on columns that are none: constant ones, and those that number or name the rows.

    Raises UsageError for a column that mixes numbers and texts.
    """
    columns: list[Column] = []
    notes: list[str] = []
    for place, name in enumerate(names):
        column = _read(items, place, name, config, notes)
        reason = _useless(column, len(items), asked=name in config.categorical)
        if reason:
            notes.append(f"column {name!r} is left out: {reason}")
        else:
            columns.append(column)
    return columns, notes


def digest_rows(columns: Sequence[Column], count: int) -> list[bytes]:
    """Equal for rows whose features are equal, however they are written."""
    numbers = [column.values + 0.0 for column in columns if not isinstance(column.values, list)]  # no negative zeros
    matrix = np.stack(numbers, axis=1) if numbers else np.zeros((count, 0))
    matrix[np.isnan(matrix)] = np.nan
    texts = [column.values for column in columns if isinstance(column.values, list)]
    return [
        hashlib.sha256(matrix[row].tobytes() + json.dumps([values[row] for values in texts]).encode()).digest()
        for row in range(count)
    ]


def encode(column: Column, train: NDArray[np.bool_], missing: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """float32 [N] and what the document says of the column, from its training rows; None where these are constant."""
    if isinstance(column.values, list):
        return _encode_texts(column, column.values, train)
    return _encode_numbers(column, column.values, train, missing)


def _encode_texts(
    column: Column, values: list[str], train: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    categories = sorted({value for value, mine in zip(values, train.tolist(), strict=True) if mine and value})
    if len(categories) < 2:
        return None
    codes = {value: code for code, value in enumerate(categories, 1)}
    encoded = np.array([codes.get(value, 0) for value in values], np.float32)
    count = int(column.missing.sum())
    return encoded, {"name": column.name, "kind": "category", "categories": categories, "missing": count}


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


def _read(items: Sequence[Item], place: int, name: str, config: PrepareConfig, notes: list[str]) -> Column:
    cells: list[Cell] = [item.content[place] for item in items]
    quick = None if name in config.categorical else _all_numbers(cells)
    if quick is not None:
        return Column(name, _finite(name, quick, notes))
    texts = ["" if is_missing(cell) else text_of(cell) for cell in cells]
    if name in config.categorical:
        return Column(name, [_whole(text) for text in texts])
    numbers = [_number(text) if text else None for text in texts]
    strange = [row for row, (text, number) in enumerate(zip(texts, numbers, strict=True)) if text and number is None]
    if not strange:
        return Column(name, _finite(name, [np.nan if number is None else number for number in numbers], notes))
    first = next((row for row, number in enumerate(numbers) if number is not None), None)
    if first is not None:
        raise UsageError(_mixed(name, items, texts, first, strange[0]))
    if all(_COMMA.fullmatch(texts[row]) for row in strange):
        raise UsageError(
            f"column {name!r}: got {texts[strange[0]]!r} at {items[strange[0]].key}; allowed: numbers with a decimal "
            "point; fix: replace the decimal commas, or name the column in data.prepare.categorical"
        )
    return Column(name, texts)


def _all_numbers(cells: Sequence[Cell]) -> list[float] | None:
    """The cells of a column without a gap or a text, which most are; None for another."""
    try:
        numbers = [float(cell) for cell in cells]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if "_" in "".join(cell for cell in cells if isinstance(cell, str)) else numbers


def _mixed(name: str, items: Sequence[Item], texts: Sequence[str], number: int, text: int) -> str:
    return (
        f"column {name!r}: mixes numbers and texts: got {texts[text]!r} at {items[text].key}, and {texts[number]!r} at "
        f"{items[number].key}; allowed: one or the other; fix: correct or empty the cell, or name the column in "
        "data.prepare.categorical or data.prepare.exclude"
    )


def _number(text: str) -> float | None:
    if "_" in text:  # Python reads 1_000 as a number
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str) -> str:
    """1 for 1.0: a Parquet column of whole numbers with gaps holds floats. As text: 02139 and long ids stay apart."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def _finite(name: str, numbers: Sequence[float], notes: list[str]) -> NDArray[np.float64]:
    values = np.array(numbers, np.float64)
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
    if isinstance(column.values, list):
        return "all its texts are different, as those of an id are"
    whole = (column.values == np.round(column.values)).all()
    return "it numbers the rows" if whole and _ROW_NUMBER.fullmatch(column.name) else ""
