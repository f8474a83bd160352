"""Data sets of Hugging Face's `datasets` on the disk: of `save_to_disk`, its cache, or Parquet files as of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.arrow_files import RowGroups, Shard, is_image_type
from scaledl.data.prepare.delimited import check_names
from scaledl.data.prepare.hf_layout import class_names, descriptions, find_files
from scaledl.data.prepare.items import Collected
from scaledl.data.prepare.sources import column, label_columns, listed, named_columns, stamp_of_times
from scaledl.data.prepare.table import Row, cells_of, rows_of, table_of
from scaledl.data.prepare.text import collected_texts
from scaledl.errors import UsageError, require_extra

_USUAL = ("image", "img")


class _Set:
    """The files of one data set, and which of their columns say what. Raises UsageError."""

    def __init__(self, source: Path, config: PrepareConfig) -> None:
        self.source = source
        self.files = find_files(source)
        self.shards = [Shard(*file) for file in self.files]
        self.schema = self.shards[0].schema
        self.columns = self.shards[0].columns
        self._check_columns()
        named = class_names(self.files, [shard.schema for shard in self.shards])
        self._names = {shard.name: names for shard, names in zip(self.shards, named, strict=True)}
        self._check_classes()
        self.classes = list(named[0])
        unsaid = config.label is None and not config.targets and config.target != "none"
        only = self.classes[0] if unsaid and len(self.classes) == 1 else config.label
        self.config = config.model_copy(update={"label": only})

    def labels(self) -> list[str]:
        return [self.columns[place] for place in label_columns(self.source, self.columns, self.config)]

    def named(self) -> dict[str, str]:
        """Columns of group, time and split, by what they are."""
        if self.config.split is not None and any(shard.split for shard in self.shards):
            raise UsageError(
                f"data.prepare.split: got {self.config.split!r}, but the files' names say the split already"
            )
        labels = label_columns(self.source, self.columns, self.config)
        places = named_columns(self.source, self.columns, self.config, labels)
        return {key: self.columns[place] for key, place in places.items()}

    def rows(self, shard: Shard, columns: Sequence[str]) -> list[Row]:
        """Keys FILE:ROW, from 1 on, and the cells; of the numbers of classes their names."""
        table = shard.table(columns)
        cells = [self._cells(shard, name, table.column(name)) for name in columns]
        found = zip(*cells, strict=True)
        return [(f"{shard.name}:{row}", shard.split, list(values)) for row, values in enumerate(found, 1)]

    def _cells(self, shard: Shard, name: str, values: Any) -> list[Any]:
        names = self._names[shard.name].get(name)  # two files may number the same classes otherwise
        if names is None:
            return cells_of(self.source / shard.name, name, values)
        return [_class_name(cell, names) for cell in values.to_pylist()]

    def _check_columns(self) -> None:
        check_names(self.source, self.columns)
        for shard in self.shards:
            mine, first = ({(field.name, str(field.type)) for field in one.schema} for one in (shard, self.shards[0]))
            if mine != first:
                odd = listed(sorted({name for name, _ in mine ^ first}))
                raise UsageError(f"{self.source}: {shard.name} and {self.shards[0].name} differ in columns: {odd}")

    def _check_classes(self) -> None:
        first = self.shards[0].name
        for name, classes in self._names.items():
            if odd := classes.keys() ^ self._names[first].keys():
                raise UsageError(
                    f"{self.source}: only one of {name} and {first} says what the classes are called in columns "
                    f"{listed(sorted(odd))}; fix: save both with the same features"
                )

    def stamp(self) -> str:
        """Changes when a file does, or what the classes are called."""
        described = [(path.name, path) for path in descriptions(self.source, self.files)]
        return stamp_of_times([*described, *((name, path) for name, _, path in self.files)])


def _class_name(cell: Any, names: Sequence[str]) -> str | None:
    """None where there is no label: also -1 stands for that."""
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None


def collect_huggingface(source: Path, config: PrepareConfig) -> Collected:
    """Images where a column has such, else texts or rows. Raises UsageError for what cannot be used."""
    require_extra("pyarrow", "tune")
    data = _Set(source, config)
    images = [name for name in data.columns if is_image_type(data.schema.field(name).type)]
    if images and config.text is None:
        found = _images(data, _image_column(source, images))
    else:
        text = config.text or _text_column(data)
        found = _table(data) if text is None else _texts(data, text)
    return replace(found, kind="huggingface", stamp=data.stamp())


def _table(data: _Set) -> Collected:
    kept = [name for name in data.columns if name not in data.config.exclude]
    for name in data.config.exclude:
        column(data.source, data.columns, name, "exclude")
    data.named()
    rows = [row for shard in data.shards for row in data.rows(shard, kept)]
    return table_of(data.source, kept, rows, data.config.model_copy(update={"exclude": []}), "")


def _texts(data: _Set, text: str) -> Collected:
    column(data.source, data.columns, text, "text")
    labels, named = data.labels(), data.named()
    kept = list(dict.fromkeys([text, *labels, *named.values()]))
    rows = [row for shard in data.shards for row in data.rows(shard, kept)]
    places = {key: kept.index(name) for key, name in named.items()}
    items, dropped = rows_of(
        rows, [kept.index(name) for name in labels], places, lambda cells: "" if cells[0] is None else str(cells[0])
    )
    return replace(collected_texts(data.source, items, dropped, ""), label_names=labels)


def _images(data: _Set, image: str) -> Collected:
    require_extra("PIL", "vision")
    for key in ("group", "time"):
        if getattr(data.config, key) is not None:
            raise UsageError(
                f"data.prepare.{key}: got {getattr(data.config, key)!r}, but {data.source} has images, which are not "
                "split by it; allowed: data.prepare.split, or none of them"
            )
    labels, named = data.labels(), data.named()
    kept = list(dict.fromkeys([*labels, *named.values()]))
    groups = RowGroups(image)
    rows: list[Any] = []
    for shard in data.shards:
        found = zip(data.rows(shard, kept), shard.images(image, groups), strict=True)
        rows += [(key, split, [*cells, stored]) for (key, split, cells), stored in found]
    places = {key: kept.index(name) for key, name in named.items()}
    items, dropped = rows_of(rows, [kept.index(name) for name in labels], places, lambda cells: cells[-1])
    return Collected("huggingface", items, dropped, label_names=labels)


def _image_column(source: Path, images: Sequence[str]) -> str:
    usual = [name for name in images if name.lower() in _USUAL]
    if len(images) > 1 and len(usual) != 1:
        raise UsageError(f"{source}: several columns hold images: {listed(images)}; fix: keep one of them")
    return usual[0] if usual else images[0]


def _text_column(data: _Set) -> str | None:
    """The one column of texts beside the label; None where there are other features, which make a table."""
    import pyarrow

    apart = {*data.labels(), *data.named().values(), *data.config.exclude}
    left = [name for name in data.columns if name not in apart]
    if len(left) != 1 or left[0] in data.config.categorical or left[0] in data.classes:
        return None
    kind = data.schema.field(left[0]).type
    return left[0] if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) else None
