"""Arrow and Parquet files as the `datasets` library writes them, read with pyarrow alone, a column at a time.

Encoded images stay in their files: Arrow's are mapped, of Parquet's a few row groups are in memory at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledl.data.prepare.items import Stored
from scaledl.errors import UsageError

_MAX_IMAGE = 256 << 20  # bytes of one image
_MAX_GROUP = 4 << 30  # bytes of the images of one row group, which is read as a whole
_KEPT_BYTES = 512 << 20  # of row groups in memory; two are kept whatever their size


@dataclass(frozen=True, eq=False)
class Cell:
    """An image in a mapped column. `values`: pyarrow's binary array."""

    values: Any
    row: int

    def read(self) -> bytes:
        """Raises OSError where there are no bytes, but a path perhaps, or far too many."""
        buffer = self.values[self.row].as_buffer()
        if buffer is None:
            raise OSError(0, "the data set has no bytes of it")
        if buffer.size > _MAX_IMAGE:
            raise OSError(0, f"too large: {buffer.size:,} bytes, allowed: {_MAX_IMAGE:,}")
        found: bytes = buffer.to_pybytes()
        return found


@dataclass(frozen=True, eq=False)
class GroupCell:
    """An image in a row group of a Parquet file."""

    groups: RowGroups
    path: Path
    group: int
    row: int

    def read(self) -> bytes:
        """Raises OSError as `Cell` does, or where the file cannot be read."""
        return Cell(self.groups.values(self.path, self.group), self.row).read()


class RowGroups:
    """The images of the row groups that were asked for last."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def values(self, path: Path, group: int) -> Any:
        """Binary array of one row group."""
        with self._lock:
            if (path, group) not in self._kept:
                self._kept[path, group] = self._read(path, group)
                while len(self._kept) > 2 and sum(one.nbytes for one in self._kept.values()) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((path, group))
            return self._kept[path, group]

    def _read(self, path: Path, group: int) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                return _encoded(file.read_row_group(group, columns=[self._column], use_threads=False)[self._column])
        except pyarrow.ArrowException as error:
            raise OSError(0, f"its row group is damaged ({' '.join(str(error).split())[:100]})") from error


class Shard:
    """One file. Raises UsageError where it is damaged, or is none of Arrow's or Parquet's."""

    def __init__(self, name: str, split: str, path: Path) -> None:
        self.name, self.split, self._path = name, split, path
        self._is_parquet = path.suffix.lower() == ".parquet"
        with _readable(path):
            self.schema = _parquet_schema(path) if self._is_parquet else _mapped(path).schema
            self.columns: list[str] = list(self.schema.names)

    def table(self, columns: Sequence[str]) -> Any:
        """pyarrow's table of these columns."""
        with _readable(self._path):
            if self._is_parquet:
                import pyarrow.parquet

                with pyarrow.parquet.ParquetFile(self._path) as file:
                    return file.read(columns=list(columns), use_threads=False)
            found = _mapped(self._path).select(list(columns))
            found.validate(full=True)  # a damaged offset would end the process
            return found

    def images(self, column: str, groups: RowGroups) -> list[Stored]:
        """The encoded images of a column, none of which is read."""
        if self._is_parquet:
            return self._grouped(column, groups)
        chunks = [_encoded(chunk) for chunk in self.table([column])[column].chunks]
        return [Cell(chunk, row) for chunk in chunks for row in range(len(chunk))]

    def _grouped(self, column: str, groups: RowGroups) -> list[Stored]:
        import pyarrow.parquet

        cells: list[Stored] = []
        with _readable(self._path), pyarrow.parquet.ParquetFile(self._path) as file:
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                if group.total_byte_size > _MAX_GROUP:
                    raise UsageError(
                        f"{self._path}: row group {number} has {group.total_byte_size:,} bytes; allowed: "
                        f"{_MAX_GROUP:,}; fix: write it with smaller row groups"
                    )
                cells += [GroupCell(groups, self._path, number, row) for row in range(group.num_rows)]
        return cells


def is_image_type(kind: Any) -> bool:
    """Whether values of this Arrow type hold encoded images: binary ones, or structs with such `bytes`."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_image_type(kind.field("bytes").type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _encoded(column: Any) -> Any:
    """Binary array of a column of binary values, or of structs with `bytes`."""
    import pyarrow

    whole = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if isinstance(whole, pyarrow.ChunkedArray):  # more than one array can hold
        return pyarrow.chunked_array([_encoded(chunk) for chunk in whole.chunks])
    return whole.flatten()[whole.type.get_field_index("bytes")] if pyarrow.types.is_struct(whole.type) else whole


def _parquet_schema(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_schema(path)


def _mapped(path: Path) -> Any:
    """The table of a stream, as `datasets` writes it, or of Arrow's file format. Nothing of it is in memory."""
    import pyarrow
    import pyarrow.ipc

    source = pyarrow.memory_map(str(path))
    magic = source.read(6)
    source.seek(0)
    open_fn = pyarrow.ipc.open_file if magic == b"ARROW1" else pyarrow.ipc.open_stream
    return open_fn(source).read_all()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # also names that are no UTF-8
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
