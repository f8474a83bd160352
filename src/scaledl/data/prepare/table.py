"""Tables: CSV, TSV and Parquet files, one or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.cells import Block, Cell, Cells, block_rows, blocks_of, is_missing, text_of
from scaledl.data.prepare.delimited import check_names, open_delimited
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.sources import column, find_files, given_split, label_columns, named_columns, stamp
from scaledl.data.prepare.times import read_times
from scaledl.errors import UsageError, require_extra

SUFFIXES = (".csv", ".tsv", ".parquet")
Row = tuple[str, str, Sequence[Cell]]  # key, split by the file's name, cells
_NO_LABEL = {"", "nan", "null", "<na>", "?"}
_MOST_SHARED = 10_000  # different texts of the columns that are no features


@dataclass(frozen=True)
class _Roles:
    """Places of the columns that say something of the row, and of its features."""

    labels: tuple[int, ...]
    named: dict[str, int]
    features: list[int]


def collect_table(source: Path, config: PrepareConfig) -> Collected:
    """Every row; its cells are those of the features. Raises UsageError for files that cannot be used."""
    if config.text is not None:
        raise UsageError(f"data.prepare.text: got {config.text!r} with kind table; allowed: kind text, or leave it out")
    files = find_files(source, SUFFIXES)
    table: _Table | None = None
    for split, path in files:
        with _open(path, config) as (names, blocks):
            table = table or _Table(source, names, files, config)
            table.read(path, split, names, blocks)
    assert table is not None
    return table.collected(stamp([path for _, path in files]))


class _Table:
    """Rows of files, read in blocks: the features by column, and of the others the cells."""

    def __init__(
        self, source: Path, columns: list[str], files: Sequence[tuple[str, Path]], config: PrepareConfig
    ) -> None:
        self._source, self._columns, self._files, self._config = source, columns, files, config
        self._broken: UsageError | None = None
        self._parts: list[tuple[Path, str, NDArray[np.int64]]] = []
        try:
            self._roles = _roles(source, columns, config, has_splits=any(split for split, _ in files))
        except UsageError as error:  # a damaged file is told first: it may be why a column is missing
            self._broken, self._roles = error, _Roles((), {}, [])
        self._names = [columns[place] for place in self._roles.features]
        self._cells = Cells([name in config.categorical for name in self._names], self._cell)
        self._apart: dict[int, list[Cell]] = {place: [] for place in (*self._roles.labels, *self._roles.named.values())}
        self._shared: dict[str, str] = {}

    def read(self, path: Path, split: str, names: list[str], blocks: Iterator[Block]) -> None:
        """Add the rows of a file, whose columns may have another order."""
        places = _places(path, names, self._files[0][1], self._columns)
        for block in blocks:
            self._parts.append((path, split, np.array(block.numbers, np.int64)))
            self._cells.append([block.cells[places[place]] for place in self._roles.features])
            for place, cells in self._apart.items():
                cells += self._share(block.cells[places[place]])

    def collected(self, stamp: str) -> Collected:
        """Raises UsageError where there is no row, or for columns that are not as the config says."""
        if not self._parts:
            raise UsageError(f"{self._source}: has a header and no rows")
        if self._broken is not None:
            raise self._broken
        roles, places = self._roles, list(self._apart)
        named = {key: places.index(place) for key, place in roles.named.items()}
        items, dropped = rows_of(
            self._rows(), [places.index(place) for place in roles.labels], named, lambda cells: cells[-1]
        )
        self._apart.clear()  # which lies in the items now
        label_names = [self._columns[place] for place in roles.labels]
        return Collected(
            "table", items, dropped, (), stamp, "table", self._names, label_names=label_names, cells=self._cells
        )

    def _rows(self) -> Iterator[Row]:
        """With the cells of those apart, and the row's number among all."""
        cells = zip(*self._apart.values(), range(sum(len(numbers) for *_, numbers in self._parts)), strict=True)
        for path, split, numbers in self._parts:
            name = path.name
            for number, mine in zip(numbers.tolist(), cells, strict=False):
                yield f"{name}:{number}", split, mine

    def _share(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same, in which texts that are equal are one: of classes and groups there are few."""
        if len(self._shared) > _MOST_SHARED:
            return cells
        return [self._shared.setdefault(cell, cell) if isinstance(cell, str) else cell for cell in cells]

    def _cell(self, row: int, column: int) -> Cell:
        """Read anew, as its text is needed in a message only."""
        ends = np.cumsum([len(numbers) for *_, numbers in self._parts])
        part = int(np.searchsorted(ends, row, side="right"))
        path, _, numbers = self._parts[part]
        number = int(numbers[row - int(ends[part])])  # from the end
        with _open(path, self._config) as (names, blocks):
            place = names.index(self._names[column])
            for block in blocks:
                if number in block.numbers:
                    return block.cells[place][block.numbers.index(number)]
        return None


def table_of(path: Path, columns: list[str], rows: Sequence[Row], config: PrepareConfig, stamp: str) -> Collected:
    """Of rows that are in memory. Tells the columns that say something of the row from its features."""
    roles = _roles(path, columns, config, has_splits=any(split for _, split, _ in rows))
    items, dropped = rows_of(
        rows, roles.labels, roles.named, lambda cells: tuple(cells[place] for place in roles.features)
    )
    names, label_names = ([columns[place] for place in places] for places in (roles.features, roles.labels))
    return Collected("table", items, dropped, (), stamp, "table", names, label_names=label_names)


def _roles(path: Path, columns: list[str], config: PrepareConfig, *, has_splits: bool) -> _Roles:
    """`has_splits`: the files' names say them. Raises UsageError for columns that are not there."""
    labels = label_columns(path, columns, config)
    named = named_columns(path, columns, config, labels)
    for key in ("categorical", "exclude"):
        for name in getattr(config, key):
            column(path, columns, name, key)
    if "split" in named and has_splits:
        raise UsageError(f"data.prepare.split: got {config.split!r}, but the files' names say the split already")
    apart = {*labels, *named.values()} | {columns.index(name) for name in config.exclude}
    return _Roles(labels, named, [place for place in range(len(columns)) if place not in apart])


def rows_of(
    rows: Iterable[Row], labels: Sequence[int], named: dict[str, int], content_fn: Callable[[Sequence[Any]], Any]
) -> tuple[list[Item], list[Dropped]]:
    """Items with what their columns say of them; `labels`: places of the columns with labels; `named`: of the group,
    time and split columns."""
    rows = list(rows) if "time" in named else rows
    times = read_times([(key, cells[named["time"]]) for key, _, cells in rows]) if "time" in named else {}
    items: list[Item] = []
    dropped: list[Dropped] = []
    for key, split, cells in rows:
        group = text_of(cells[named["group"]]) if "group" in named else None
        if group is not None and is_missing(group):
            dropped.append(Dropped(key, "no value in the group column"))
        elif "time" in named and key not in times:
            dropped.append(Dropped(key, "no value in the time column"))
        else:
            if "split" in named:
                split = given_split(text_of(cells[named["split"]]), key)
            items.append(
                Item(key, _label([cells[place] for place in labels]), split, content_fn(cells), group, times.get(key))
            )
    return items, dropped


def _label(cells: Sequence[Any]) -> Any:
    """Of one column its label, of several one of each."""
    if len(cells) != 1:
        return tuple(map(label_of, cells)) if cells else None
    return label_of(cells[0])


def label_of(cell: Any) -> Any:
    """None where there is none; of a list a tuple of texts."""
    if isinstance(cell, list):
        return tuple(map(text_of, cell))
    name = text_of(cell)
    return None if name.lower() in _NO_LABEL else name


@contextmanager
def _open(path: Path, config: PrepareConfig) -> Iterator[tuple[list[str], Iterator[Block]]]:
    """Names of a file's columns, and its rows."""
    if path.suffix.lower() == ".parquet":
        with _open_parquet(path) as found:
            yield found
    else:
        with open_delimited(path, config.delimiter) as (names, rows):
            yield names, blocks_of(rows, len(names))


@contextmanager
def _open_parquet(path: Path) -> Iterator[tuple[list[str], Iterator[Block]]]:
    require_extra("pyarrow", "tune")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            check_names(path, names)
            for field in file.schema_arrow:
                _check_kind(path, field.name, field.type)
            yield names, _batches(path, file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _batches(path: Path, file: Any) -> Iterator[Block]:
    first = 1
    size = block_rows(len(file.schema_arrow.names))
    for batch in file.iter_batches(size, use_threads=False):
        numbers = range(first, first + batch.num_rows)
        yield Block(numbers, [cells_of(path, name, batch.column(name)) for name in batch.schema.names])
        first = numbers.stop


def cells_of(path: Path, name: str, values: Any) -> list[Cell]:
    """The values of pyarrow's column. Raises UsageError for such as no cell can hold."""
    import pyarrow

    kind = _check_kind(path, name, values.type)
    try:
        found = values.to_pylist()
    except (ArithmeticError, LookupError, ValueError, pyarrow.ArrowException) as error:
        raise UsageError(
            f"{path}: column {name!r} of type {kind} cannot be read ({' '.join(str(error).split())[:200]}); "
            "fix: correct or remove the column"
        ) from error
    if pyarrow.types.is_temporal(kind):
        return [value.isoformat() if hasattr(value, "isoformat") else str(value or "") for value in found]
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return [float(value) if isinstance(value, float) else value for value in found]
    return ["" if value is None else str(value) for value in found]


def _check_kind(path: Path, name: str, kind: Any) -> Any:
    """pyarrow's type of the values, in a dictionary or not."""
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        raise UsageError(
            f"{path}: column {name!r} has values of type {kind}; allowed: numbers, texts, dates and true or false; "
            "fix: split or remove the column"
        )
    return kind


def _places(path: Path, names: list[str], first: Path, columns: list[str]) -> list[int]:
    """Where each of the columns is in a file."""
    if sorted(names) != sorted(columns):
        odd = sorted({*names} ^ {*columns})
        raise UsageError(f"{path}: its columns are not those of {first}: {', '.join(map(repr, odd[:5]))} in one only")
    return [names.index(name) for name in columns]
