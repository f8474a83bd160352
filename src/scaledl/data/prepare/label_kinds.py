"""Labels as a source has them, read as targets of each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare.items import Dropped, Item
from scaledl.data.prepare.labels import natural, with_labels
from scaledl.errors import UsageError

Read = tuple[list[Item], list[Dropped]]
Reader = Callable[[Sequence[Item], PrepareConfig], Read]

_MOST = float(np.finfo(np.float32).max)
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_NO_LABEL = "no label"


def _classes_of(items: Sequence[Item], config: PrepareConfig) -> Read:
    """The names of each item's classes, in a set order; none is as good as some."""
    separator = config.labels_separator
    if separator is not None:
        return [replace(item, label=_split(item.label, separator)) for item in items], []
    if config.targets:
        return [replace(item, label=_marked(item, config.targets)) for item in items], []
    return [replace(item, label=tuple(sorted(set(_several(item.label))))) for item in items], []


def _split(label: Any, separator: str) -> tuple[str, ...]:
    return tuple(sorted({part.strip() for name in _several(label) for part in name.split(separator)} - {""}))


def _marked(item: Item, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns in which 1 stands."""
    found = []
    for name, cell in zip(columns, item.label if isinstance(item.label, tuple) else (item.label,), strict=True):
        word = "" if cell is None else str(cell).strip().lower()
        if word not in (*YES, *NO):
            raise UsageError(
                f"data.prepare.targets: {item.key} has {cell!r} in {name!r}; allowed for several classes: 0 and 1 "
                "(data.prepare.target=numbers for others)"
            )
        if word in YES:
            found.append(name)
    return tuple(sorted(found))


def _several(label: Any) -> tuple[str, ...]:
    """Of one label, several, or none."""
    return () if label is None else tuple(map(str, label)) if isinstance(label, tuple) else (str(label),)


def _numbers_of(items: Sequence[Item], config: PrepareConfig) -> Read:
    found: list[Item] = []
    dropped: list[Dropped] = []
    for item in items:
        cells = item.label if isinstance(item.label, tuple) else (item.label,)
        lacking = [cell is None for cell in cells]
        if all(lacking) or (any(lacking) and config.unlabeled == "drop"):
            dropped.append(Dropped(item.key, _NO_LABEL))
            continue
        if found and len(cells) != len(found[0].label):
            raise UsageError(
                f"data.prepare.target: got numbers, and {item.key} has {len(cells)} of them, {found[0].key} "
                f"{len(found[0].label)}; allowed: as many in each; fix: correct it, or another target"
            )
        numbers = tuple(math.nan if cell is None else _number(cell) for cell in cells)
        odd = next((cell for cell, number in zip(cells, numbers, strict=True) if number is None), None)
        if odd is not None:
            raise UsageError(
                f"data.prepare.target: got numbers, and the label of {item.key} is {str(odd)[:60]!r}; allowed: numbers "
                "that float32 can hold; fix: correct it, or another target"
            )
        found.append(replace(item, label=numbers))
    return found, dropped


def counted_classes(items: Sequence[Item], config: PrepareConfig) -> tuple[tuple[str, ...], ...]:
    """Of each column of `data.prepare.targets` the names of its classes, where it holds names or is said to be
    categorical, and none of a column of numbers; nothing where no column has classes."""
    labels = [item.label for item in items if isinstance(item.label, tuple)]
    if not config.targets or not labels:
        return ()
    found = []
    for name, cells in zip(dict.fromkeys(config.targets), zip(*labels, strict=True), strict=True):
        names = {str(cell) for cell in cells if cell is not None}
        counted = name in config.categorical or not all(map(is_number, names))
        found.append(tuple(sorted(names, key=natural)) if counted else ())
    return tuple(found) if any(found) else ()


def with_numbers(items: Sequence[Item], classes: Sequence[Sequence[str]]) -> Sequence[Item]:
    """The same, where a name of a class is its number."""
    if not classes:
        return items
    codes = [{name: number for number, name in enumerate(names)} for names in classes]
    return [
        replace(item, label=tuple(code.get(cell, cell) for code, cell in zip(codes, item.label, strict=True)))
        for item in items
    ]


def _number(cell: Any) -> float | None:
    try:
        value = float(cell) if "_" not in str(cell) else math.nan  # Python reads 1_000 as a number
    except ValueError:
        return None
    return value if abs(value) <= _MOST else None


def is_number(text: str) -> bool:
    return _number(text) is not None


def _tags_of(items: Sequence[Item], config: PrepareConfig) -> Read:
    """A tag for each word of a text, or each step of a series."""
    found: list[Item] = []
    dropped: list[Dropped] = []
    for item in items:
        tags = tuple(item.label.split()) if isinstance(item.label, str) else tuple(map(str, item.label or ()))
        content, places = item.content, 0
        if isinstance(content, str):
            content, what = " ".join(content.split()), "words"
            places = content.count(" ") + 1
        else:
            places, what = len(content[0]), "steps"
        if not tags:
            dropped.append(Dropped(item.key, _NO_LABEL))
        elif len(tags) != places:
            dropped.append(Dropped(item.key, f"not a tag for each: {places} {what} and {len(tags)} tags"))
        else:
            found.append(replace(item, label=tags, content=content))
    return found, dropped


def _class_of(items: Sequence[Item], config: PrepareConfig) -> Read:
    several = next((item for item in items if isinstance(item.label, tuple)), None)
    if several is not None:
        raise UsageError(
            f"data.prepare.target: got class, and {several.key} has several labels; allowed: auto, classes, numbers"
        )
    return with_labels(items)


def names_as_they_are(items: Sequence[Item], config: PrepareConfig) -> Read:
    """Of images: folders 01 and 1 are two classes."""
    dropped = [Dropped(item.key, _NO_LABEL) for item in items if item.label is None]
    return [item for item in items if item.label is not None], dropped


def _nothing_of(items: Sequence[Item], config: PrepareConfig) -> Read:
    return [replace(item, label=None) for item in items], []


def _unchanged(items: Sequence[Item], config: PrepareConfig) -> Read:
    return list(items), []


READERS: dict[Target, Reader] = {
    "class": _class_of,
    "classes": _classes_of,
    "numbers": _numbers_of,
    "tags": _tags_of,
    "mask": _unchanged,
    "none": _nothing_of,
}
