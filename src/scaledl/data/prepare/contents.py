"""What a table, a set of texts and a set of series become on the disk, and what is known of them."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.cells import Cells, block_rows
from scaledl.data.prepare.columns import digest_rows, encode, read_columns
from scaledl.data.prepare.items import Dropped, Item
from scaledl.data.prepare.layout import Layout
from scaledl.data.prepare.store import write_array, write_blocks, write_padded
from scaledl.data.stored import BYTES, OFFSETS
from scaledl.errors import UsageError

_MOST_PADDED = 4 << 30  # bytes of series, above which one far longer than the others must be meant
_MUCH_LONGER = 100  # times the median


class TableContent:
    """Rows: float32 [N, F] `features`, categories as whole numbers from 1 with 0 for unknown ones."""

    what = "row"

    def __init__(
        self, items: Sequence[Item], names: Sequence[str], config: PrepareConfig, cells: Cells | None = None
    ) -> None:
        self.items = items
        self.dropped: list[Dropped] = []
        self._missing = config.missing
        self._columns, self.notes = read_columns(items, names, config, cells)
        self._features: list[NDArray[np.float32]] = []
        self._check_left(self._columns)
        self._without_missing()

    def digests(self) -> NDArray[np.uint8]:
        return digest_rows(self._columns, len(self.items))

    def measure(self, layout: Layout, numbers: NDArray[np.int64]) -> dict[str, Any]:
        train = layout.splits == "train"
        described: list[dict[str, Any]] = []
        while self._columns:  # each goes when its feature is there, as both may be large
            column = self._columns.pop(0)
            found = encode(column.select(numbers), train, self._missing)
            if found is None:
                self.notes.append(f"column {column.name!r} is left out: constant in the training split")
                continue
            self._features.append(found[0])
            described.append(found[1])
            self.notes += _filled(found[1], self._missing)
        self._check_left(described)
        return {"in_shape": [len(described)], "columns": described}

    def parts(self, layout: Layout, members: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"features": np.stack([values[members] for values in self._features], axis=1)}

    def sizes(self, layout: Layout, members: NDArray[np.int64]) -> None:
        return None

    def write(self, out: Path, split: str, layout: Layout) -> None:
        members = layout.members(split)
        step = block_rows(len(self._features))
        blocks = (
            self.parts(layout, members[start : start + step])["features"] for start in range(0, len(members), step)
        )
        write_blocks(out, split, "features", blocks, (len(members), len(self._features)))

    def _check_left(self, columns: Sequence[Any]) -> None:
        if not columns:
            raise UsageError(f"no column is left to learn from: {'; '.join(self.notes) or 'none but the label'}")

    def _without_missing(self) -> None:
        """Under `drop` and `error`, what becomes of rows in which a value is missing."""
        if self._missing not in ("drop", "error"):
            return
        missing = np.stack([column.missing for column in self._columns], axis=1)
        rows = np.flatnonzero(missing.any(axis=1))
        names = [self._columns[int(missing[row].argmax())].name for row in rows]
        if len(rows) and self._missing == "error":
            raise UsageError(
                f"data.prepare.missing: got error, and {self.items[rows[0]].key} has no value in column {names[0]!r} "
                f"({len(rows)} rows in all have gaps); allowed: mean, median, zero, drop; fix: fill them, or choose one"
            )
        self.dropped = [
            Dropped(self.items[row].key, f"a missing value: column {name!r}")
            for row, name in zip(rows.tolist(), names, strict=True)
        ]
        kept = np.flatnonzero(~missing.any(axis=1))
        self.items = [self.items[row] for row in kept.tolist()]
        self._columns = [column.select(kept) for column in self._columns]


def _filled(column: dict[str, Any], missing: str) -> list[str]:
    """What stands for the missing values of a column, if it has any."""
    if not column["missing"]:
        return []
    one = column["missing"] == 1
    gaps = f"column {column['name']!r}: {column['missing']:,} missing value{'' if one else 's'}"
    if "fill" not in column:
        return [f"{gaps} {'is' if one else 'are'} of no category"]
    what = "0" if missing == "zero" else f"the training split's {missing}, {column['fill']:.4g}"
    return [f"{gaps} {'becomes' if one else 'become'} {what}"]


class TextContent:
    """Texts: their UTF-8 one after another, uint8 `bytes`, and int64 [N + 1] `offsets` of where each begins."""

    what = "text"
    dropped: Sequence[Dropped] = ()
    notes: Sequence[str] = ()

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def digests(self) -> NDArray[np.uint8]:
        return _joined(hashlib.sha256(item.content.encode()).digest() for item in self.items)

    def measure(self, layout: Layout, numbers: NDArray[np.int64]) -> dict[str, Any]:
        return {"lengths": {"unit": "bytes", **_lengths([len(item.content.encode()) for item in layout.items])}}

    def parts(self, layout: Layout, members: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        texts = [layout.items[i].content.encode() for i in members.tolist()]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return {BYTES: np.frombuffer(b"".join(texts), np.uint8), OFFSETS: ends}

    def sizes(self, layout: Layout, members: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([len(layout.items[i].content.encode()) for i in members.tolist()], np.int64)

    def write(self, out: Path, split: str, layout: Layout) -> None:
        _write(out, split, self.parts(layout, layout.members(split)))


class SeriesContent:
    """Series: float32 [N, C, T] `series`, zeros behind shorter ones, and int64 `lengths`."""

    what = "series"
    dropped: Sequence[Dropped] = ()
    notes: Sequence[str] = ()

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self._shape = (0, 0)

    def digests(self) -> NDArray[np.uint8]:
        return _joined(hashlib.sha256((_values(item) + np.float32(0)).tobytes()).digest() for item in self.items)

    def measure(self, layout: Layout, numbers: NDArray[np.int64]) -> dict[str, Any]:
        lengths = [len(item.content[0]) for item in layout.items]
        self._shape = (len(layout.items[0].content), max(lengths))
        self._check_padded(layout.items, lengths)
        train = [layout.items[i].content for i in layout.members("train").tolist()]
        columns = [_describe(channel, np.concatenate([c[channel] for c in train])) for channel in range(self._shape[0])]
        return {
            "in_shape": list(self._shape),
            "columns": columns,
            "lengths": {"unit": "steps", **_lengths(lengths)},
        }

    def parts(self, layout: Layout, members: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        items = [layout.items[i] for i in members.tolist()]
        padded = np.zeros((len(items), *self._shape), np.float32)
        for row, item in zip(padded, items, strict=True):
            row[:, : len(item.content[0])] = _values(item)
        return {"series": padded, "lengths": _lengths_of(items)}

    def sizes(self, layout: Layout, members: NDArray[np.int64]) -> None:
        return None

    def write(self, out: Path, split: str, layout: Layout) -> None:
        items = [layout.items[i] for i in layout.members(split).tolist()]
        write_padded(out, split, map(_values, items), (len(items), *self._shape))
        write_array(out, split, "lengths", _lengths_of(items))

    def _check_padded(self, items: Sequence[Item], lengths: Sequence[int]) -> None:
        """One long series makes all others as long."""
        size = 4 * len(items) * self._shape[0] * self._shape[1]
        median = statistics.median(lengths)
        if size > _MOST_PADDED and max(lengths) > _MUCH_LONGER * median:
            longest = items[int(np.argmax(lengths))].key
            raise UsageError(
                f"data.prepare: got {longest} with {max(lengths):,} steps, where the median is {median:,.0f}: padded "
                f"to it, the {len(items):,} series take {size / (1 << 30):,.1f} GiB; allowed: {_MOST_PADDED >> 30} "
                f"GiB, or at most {_MUCH_LONGER} times the median; fix: crop or drop it"
            )


def _write(out: Path, split: str, parts: Mapping[str, NDArray[Any]]) -> None:
    for part, values in parts.items():
        write_array(out, split, part, values)


def _joined(digests: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _lengths_of(items: Sequence[Item]) -> NDArray[np.int64]:
    return np.array([len(item.content[0]) for item in items], np.int64)


def _values(item: Item) -> NDArray[np.float32]:
    """float32 [C, T]."""
    return np.stack(item.content).astype(np.float32)


def _describe(channel: int, values: NDArray[np.float64]) -> dict[str, Any]:
    described = {"mean": values.mean(), "std": values.std() or 1.0, "min": values.min(), "max": values.max()}
    numbers = {key: float(value) for key, value in described.items()}
    return {"name": f"dimension {channel + 1}", "kind": "numeric", **numbers, "missing": 0}


def _lengths(lengths: Sequence[int]) -> dict[str, int]:
    return {"min": min(lengths), "median": round(statistics.median(lengths)), "max": max(lengths)}
