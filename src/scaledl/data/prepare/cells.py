"""Cells of a table, read in blocks of rows and kept by column: numbers as float64, texts as codes. None keeps its text
but once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float | None
CellFn = Callable[[int, int], Cell]

NUMBER = -1  # the code of a number that has no text
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"}
_WHOLE = re.compile(r"([+-]?\d+)\.0")
_BLOCK_CELLS = 1 << 18
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


class _Column:
    """Blocks float64 or int32: of numbers and gaps only, or codes of texts."""

    def __init__(self, categorical: bool) -> None:
        self._categorical = categorical
        self._blocks: list[NDArray[np.float64] | NDArray[np.int32]] = []
        self._codes = {"": 0}  # of texts, also as they were before they were stripped
        self._names = [""]

    def append(self, cells: Sequence[Cell]) -> None:
        numbers = None if self._categorical else _numbers(cells)
        self._blocks.append(self._encoded(cells) if numbers is None else numbers)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | Texts | Mixture:
        if self._categorical:
            return Texts(self._codes_of(rows), self._names)
        if all(block.dtype == np.float64 for block in self._blocks):
            numbers = np.concatenate([np.zeros(0), *self._blocks])
            self._blocks.clear()
            return numbers if len(rows) == len(numbers) else numbers[rows]
        read = [number_of(name) if name else np.nan for name in self._names]
        known = np.array(read, np.float64)  # None becomes NaN
        numbers = np.concatenate([known[block] if block.dtype == np.int32 else block for block in self._blocks])[rows]
        strange = np.array([number is None for number in read], bool)
        return Mixture(numbers, Texts(self._codes_of(rows), self._names), strange)

    def missing(self, rows: NDArray[np.int64]) -> int:
        return int((self._codes_of(rows) == 0).sum())

    def _codes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 [N]: of these rows, NUMBER for those whose block has no texts."""
        found = np.zeros(sum(map(len, self._blocks)), np.int32)
        start = 0
        for block in self._blocks:
            stop = start + len(block)
            found[start:stop] = block if block.dtype == np.int32 else np.where(np.isnan(block), 0, NUMBER)
            start = stop
        return found[rows]

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


def _whole(text: str) -> str:
    """1 for 1.0: a Parquet column of whole numbers with gaps holds floats. As text: 02139 and long ids stay apart."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text
