"""Tables: CSV, TSV and Parquet files, one or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.delimited import check_names, read_delimited
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.sources import column, find_files, given_split, label_columns, named_columns, stamp
from scaledl.data.prepare.times import read_times
from scaledl.errors import UsageError, require_extra

SUFFIXES = (".csv", ".tsv", ".parquet")
Cell = str | int | float | None
Row = tuple[str, str, Sequence[Cell]]  # key, split by the file's name, cells
Rows = tuple[list[str], Sequence[tuple[int, Sequence[Cell]]]]
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"}
_NO_LABEL = {"", "nan", "null", "<na>", "?"}


def collect_table(source: Path, config: PrepareConfig) -> Collected:
    """Every row; its cells are those of the features. Raises UsageError for files that cannot be used."""
    if config.text is not None:
        raise UsageError(f"data.prepare.text: got {config.text!r} with kind table; allowed: kind text, or leave it out")
    files = find_files(source, SUFFIXES)
    columns: list[str] = []
    rows: list[Row] = []
    for split, path in files:
        names, found = _read(path, config)
        columns = columns or names
        rows += _same_order(path, names, files[0][1], columns, found, split)
    if not rows:
        raise UsageError(f"{source}: has a header and no rows")
    return table_of(source, columns, rows, config, stamp([path for _, path in files]))


def table_of(path: Path, columns: list[str], rows: Sequence[Row], config: PrepareConfig, stamp: str) -> Collected:
    """Tell the columns that say something of the row from its features."""
    labels = label_columns(path, columns, config)
    named = named_columns(path, columns, config)
    for key in ("categorical", "exclude"):
        for name in getattr(config, key):
            column(path, columns, name, key)
    if "split" in named and any(split for _, split, _ in rows):
        raise UsageError(f"data.prepare.split: got {config.split!r}, but the files' names say the split already")
    apart = {*labels, *named.values()} | {columns.index(name) for name in config.exclude}
    features = [place for place in range(len(columns)) if place not in apart]
    items, dropped = rows_of(rows, labels, named, lambda cells: tuple(cells[place] for place in features))
    names, label_names = ([columns[place] for place in places] for places in (features, labels))
    return Collected("table", items, dropped, (), stamp, "table", names, label_names=label_names)


def rows_of(
    rows: Iterable[Row], labels: Sequence[int], named: dict[str, int], content_fn: Callable[[Sequence[Any]], Any]
) -> tuple[list[Item], list[Dropped]]:
    """Items with what their columns say of them; `labels`: places of the columns with labels; `named`: of the group,
    time and split columns."""
    rows = list(rows)
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


def is_missing(cell: Cell) -> bool:
    """Whether a cell says nothing.

    >>> is_missing(" n/a "), is_missing("0"), is_missing(float("nan"))
    (True, False, True)
    """
    return cell is None or (cell != cell if isinstance(cell, float) else text_of(cell).lower() in _MISSING)


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


def text_of(cell: Cell) -> str:
    return "" if cell is None else str(cell).strip()


def _read(path: Path, config: PrepareConfig) -> Rows:
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    columns, rows = read_delimited(path, config.delimiter)
    return columns, rows


def _read_parquet(path: Path) -> Rows:
    require_extra("pyarrow", "tune")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read(use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    check_names(path, table.column_names)
    cells = [cells_of(path, name, table.column(name)) for name in table.column_names]
    return list(table.column_names), [(row, list(found)) for row, found in enumerate(zip(*cells, strict=True), 1)]


def cells_of(path: Path, name: str, values: Any) -> list[Cell]:
    """The values of pyarrow's column. Raises UsageError for such as no cell can hold."""
    import pyarrow

    kind = values.type.value_type if pyarrow.types.is_dictionary(values.type) else values.type
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        raise UsageError(
            f"{path}: column {name!r} has values of type {kind}; allowed: numbers, texts, dates and true or false; "
            "fix: split or remove the column"
        )
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


def _same_order(
    path: Path,
    names: list[str],
    first: Path,
    columns: list[str],
    rows: Sequence[tuple[int, Sequence[Cell]]],
    split: str,
) -> Iterator[Row]:
    if sorted(names) != sorted(columns):
        odd = sorted({*names} ^ {*columns})
        raise UsageError(f"{path}: its columns are not those of {first}: {', '.join(map(repr, odd[:5]))} in one only")
    places = [names.index(name) for name in columns]
    same = places == list(range(len(places)))
    return ((f"{path.name}:{row}", split, cells if same else [cells[i] for i in places]) for row, cells in rows)
