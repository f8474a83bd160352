"""CSV and TSV files: UTF-8, a header, and as many fields in every row."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from scaledl.errors import UsageError

MAX_FIELD = 1 << 20  # characters: a quote that is never closed must not take the rest of the file
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED = 50  # rows
_BLOCK = 1 << 20  # bytes
_WIDE = (b"\xff\xfe", b"\xfe\xff")


def read_delimited(path: Path, delimiter: str = "auto") -> tuple[list[str], list[tuple[int, list[str]]]]:
    """As `open_delimited`, with all rows at once."""
    with open_delimited(path, delimiter) as (columns, rows):
        return columns, list(rows)


@contextmanager
def open_delimited(path: Path, delimiter: str = "auto") -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """Column names, and the rows with their numbers; the header is row 1, and empty lines are no rows.

    Raises:
        UsageError: the file is empty or no UTF-8, has one column only, a row of another length, or a broken quote.
    """
    _check_encoding(path)
    with _limited(), path.open(encoding="utf-8-sig", newline="") as file:
        chosen = _sniff(path, file) if delimiter == "auto" else {"tab": "\t"}.get(delimiter, delimiter)
        file.seek(0)
        rows = _rows(path, file, chosen)
        columns = _header(path, next(rows, (1, []))[1], chosen)
        yield columns, _even(path, rows, len(columns))


def _check_encoding(path: Path) -> None:
    """In blocks, as a file may be a large part of the memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        before = lines = 0  # bytes and line ends in front of the block
        while True:
            block = file.read(_BLOCK)
            if not before and block.startswith(_WIDE):
                raise UsageError(f"{path}: is UTF-16; allowed: UTF-8; fix: save it as UTF-8")
            held = decoder.getstate()[0]  # the beginning of a character that the block before ended in
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place, bad = before - len(held) + error.start, (held + block)[error.start]
                row = lines + (held + block).count(b"\n", 0, error.start) + 1
                raise UsageError(
                    f"{path}: byte {place}, in line {row}, is {bad:#04x}, which is no UTF-8; "
                    "fix: save the file as UTF-8"
                ) from None
            if not block:
                return
            before, lines = before + len(block), lines + block.count(b"\n")


def _rows(path: Path, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    row = 0
    try:
        for row, cells in enumerate(reader, 1):
            if cells:
                yield row, cells
    except csv.Error as error:
        raise UsageError(f"{path}: row {row + 1}, which ends in line {reader.line_num}: {error}") from error


def _header(path: Path, columns: list[str], delimiter: str) -> list[str]:
    names = [name.strip() for name in columns]
    if not names:
        raise UsageError(f"{path}: is empty; expected a header and rows")
    if len(names) == 1:
        raise UsageError(
            f"{path}: one column found with the delimiter {delimiter!r}: {names[0][:60]!r}; "
            "fix: name the right one with data.prepare.delimiter"
        )
    if all(_is_number(name) for name in names):
        raise UsageError(
            f"{path}: row 1 has numbers only ({', '.join(names[:3])}, …); expected the names of the columns; "
            "fix: add a header"
        )
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    check_names(path, names)
    return names


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raises UsageError where two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{path}: several columns are named {twice[0]!r}; fix: rename all but one")


def _even(path: Path, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for row, cells in rows:
        if len(cells) != width:
            raise UsageError(
                f"{path}: row {row} has {len(cells)} fields and the header {width}; fix: correct the row, or name the "
                "delimiter with data.prepare.delimiter"
            )
        yield row, cells


def _sniff(path: Path, file: TextIO) -> str:
    """The delimiter with which most of the first rows have as many fields as the header, more than one."""
    first = ("\t", *_DELIMITERS) if path.suffix.lower() == ".tsv" else _DELIMITERS
    best, chosen = (0, 0), first[0]
    for delimiter in dict.fromkeys(first):
        file.seek(0)
        widths = _widths(file, delimiter)
        score = (sum(width == widths[0] for width in widths), widths[0]) if widths and widths[0] > 1 else (0, 0)
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _widths(file: TextIO, delimiter: str) -> list[int]:
    widths: list[int] = []
    try:
        for cells in csv.reader(file, delimiter=delimiter, strict=True):
            if cells:
                widths.append(len(cells))
            if len(widths) == _SNIFFED:
                break
    except csv.Error:  # with another delimiter it may be sound; if not, reading it tells where it is broken
        pass
    return widths


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def _limited() -> Iterator[None]:
    before = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
