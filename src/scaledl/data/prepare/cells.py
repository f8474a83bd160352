"""Cells of a table, read in blocks of rows and kept by column: numbers as float64, texts as codes. None keeps its text
but once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float | None
CellFn = Callable[[int, int], Cell]

NUMBER = -1  # the code of a number that has no text
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"}
_WHOLE = re.compile(r"([+-]?\d+)\.0")
_BLOCK_CELLS = 1 << 16
_LEAST_ROOM = 1 << 14  # values of a column, from which on the system moves an array without a copy
_LEAST_ROWS = 256  # of a block, where rows are wide


def is_missing(cell: Cell) -> bool:
    """Whether a cell says nothing.

    >>> is_missing(" n/a "), is_missing("0"), is_missing(float("nan"))
    (True, False, True)
    """
    return cell is None or (cell != cell if isinstance(cell, float) else text_of(cell).lower() in _MISSING)


def text_of(cell: Cell) -> str:
    return "" if cell is None else str(cell).strip()


def number_of(text: str) -> float | None:
    if "_" in text:  # Python reads 1_000 as a number
        return None
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that follow one another. `numbers`: of each in its file; `cells`: of each column."""

    numbers: Sequence[int]
    cells: Sequence[Sequence[Cell]]


def block_rows(width: int) -> int:
    """How many rows of so many cells a block has."""
    return max(_LEAST_ROWS, _BLOCK_CELLS // max(width, 1))


def blocks_of(rows: Iterable[tuple[int, Sequence[Cell]]], width: int) -> Iterator[Block]:
    """Of rows with their numbers."""
    rows = iter(rows)
    while block := list(islice(rows, block_rows(width))):
        numbers, cells = zip(*block, strict=True)
        yield Block(numbers, list(zip(*cells, strict=True)))


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of one column. `codes`: int32 [N], 0 where missing; `names`: the text of each code."""

    codes: NDArray[np.int32]
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A column with texts that may all be numbers.

    Attributes:
        numbers: float64 [N], NaN for what is none.
        texts: with NUMBER for numbers of which no text is kept.
        strange: bool, which of the texts' names are no numbers.
    """

    numbers: NDArray[np.float64]
    texts: Texts
    strange: NDArray[np.bool_]


class Cells:
    """All cells of some columns.

    Args:
        categorical: of each column whether it has texts, whatever they look like.
        cell_fn: a row and a column -> the cell as it was read; asked for one in a message.
    """

    def __init__(self, categorical: Sequence[bool], cell_fn: CellFn) -> None:
        self._columns: list[_Column | None] = [_Column(whole) for whole in categorical]
        self.cell = cell_fn

    def append(self, cells: Sequence[Sequence[Cell]]) -> None:
        """Of each column some more."""
        for column, more in zip(self._columns, cells, strict=True):
            assert column is not None
            column.append(more)

    def take(self, place: int, rows: NDArray[np.int64]) -> NDArray[np.float64] | Texts | Mixture:
        """These rows of a column: numbers, NaN where missing; texts of a categorical one; else both. The column is
        forgotten, so that one at a time is there twice."""
        column, self._columns[place] = self._columns[place], None
        assert column is not None
        return column.take(rows)

    def missing(self, place: int, rows: NDArray[np.int64]) -> int:
        """How many of these rows have nothing in a column."""
        column = self._columns[place]
        assert column is not None
        return column.missing(rows)


class _Growing:
    """An array to append to, which moves as a whole: many small ones would leave their room in pieces."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._values: NDArray[Any] = np.empty(0, kind)
        self._count = 0

    def append(self, more: NDArray[Any]) -> None:
        count = self._count + len(more)
        if count > len(self._values):
            room = max(count, len(self._values) * 9 // 8)
            if self._count:
                self._values.resize(room, refcheck=False)
            else:
                self._values = np.empty(max(room, _LEAST_ROOM), self._values.dtype)
        self._values[self._count : count] = more
        self._count = count

    def values(self) -> NDArray[Any]:
        """All of them; then nothing is appended any more."""
        if self._count < len(self._values):
            self._values.resize(self._count, refcheck=False)
        return self._values


class _Column:
    """Blocks of numbers and gaps only, and blocks of codes of texts."""

    def __init__(self, categorical: bool) -> None:
        self._categorical = categorical
        self._blocks: list[tuple[bool, int]] = []  # whether it has texts, and its rows
        self._numbers, self._texts = _Growing(np.float64), _Growing(np.int32)
        self._codes = {"": 0}  # of texts, also as they were before they were stripped
        self._names = [""]

    def append(self, cells: Sequence[Cell]) -> None:
        numbers = None if self._categorical else _numbers(cells)
        self._blocks.append((numbers is None, len(cells)))
        if numbers is None:
            self._texts.append(self._encoded(cells))
        else:
            self._numbers.append(numbers)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | Texts | Mixture:
        numbers, codes = self._numbers.values(), self._texts.values()
        if self._categorical:
            return Texts(_chosen(codes, rows), self._names)
        if not len(codes):
            return _chosen(numbers, rows)
        read = [number_of(name) if name else np.nan for name in self._names]
        known = np.array(read, np.float64)  # None becomes NaN
        all_numbers, all_codes = self._joined(numbers, known[codes]), self._joined(_codes_of(numbers), codes)
        strange = np.array([number is None for number in read], bool)
        return Mixture(_chosen(all_numbers, rows), Texts(_chosen(all_codes, rows), self._names), strange)

    def missing(self, rows: NDArray[np.int64]) -> int:
        codes = self._joined(_codes_of(self._numbers.values()), self._texts.values())
        return int((codes[rows] == 0).sum())

    def _joined(self, of_numbers: NDArray[Any], of_texts: NDArray[Any]) -> NDArray[Any]:
        """Values of all rows, from those of either kind of blocks."""
        if not len(of_numbers):
            return of_texts
        kinds, counts = zip(*self._blocks, strict=True)
        has_texts = np.repeat(np.array(kinds, bool), counts)
        found = np.empty(len(has_texts), of_texts.dtype)
        found[~has_texts], found[has_texts] = of_numbers, of_texts
        return found

    def _encoded(self, cells: Sequence[Cell]) -> NDArray[np.int32]:
        texts = [cell if type(cell) is str else "" if is_missing(cell) else str(cell) for cell in cells]
        for text in dict.fromkeys(texts):
            if text not in self._codes:
                self._codes[text] = self._code("" if is_missing(text) else text.strip())
        return np.fromiter(map(self._codes.__getitem__, texts), np.int32, len(texts))

    def _code(self, text: str) -> int:
        text = _whole(text) if self._categorical else text
        if text not in self._codes:
            self._codes[text] = len(self._names)
            self._names.append(text)
        return self._codes[text]


def _numbers(cells: Sequence[Cell]) -> NDArray[np.float64] | None:
    """NaN where there is nothing; None where there is anything else."""
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        try:
            known = [np.nan if cell == "" or is_missing(cell) else float(cell) for cell in cells]  # type: ignore[arg-type]
        except ValueError:
            return None
        numbers = np.array(known, np.float64)
    if not all(is_missing(cells[row]) for row in np.flatnonzero(np.isnan(numbers)).tolist()):  # +nan is a number
        return None
    return None if "_" in "".join(cell for cell in cells if isinstance(cell, str)) else numbers


def _chosen(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """The same array where that is all of it, as each row is there at most once and in order."""
    return values if len(rows) == len(values) else values[rows]


def _codes_of(numbers: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.where(np.isnan(numbers), 0, NUMBER).astype(np.int32)


def _whole(text: str) -> str:
    """1 for 1.0: a Parquet column of whole numbers with gaps holds floats. As text: 02139 and long ids stay apart."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text
