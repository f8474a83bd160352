"""Class names of rows, texts and series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scaledl.data.prepare.items import Dropped, Item
from scaledl.errors import UsageError

_MOST_DIGITS = 300  # of a number; a longer one is a name, as no float would hold it
_MOST_FRACTIONS = 50  # distinct values of a label that is no whole number, above which it is a quantity


def with_labels(items: Sequence[Item]) -> tuple[list[Item], list[Dropped]]:
    """Items that have a label, and those without. Where all are whole numbers, 1, 1.0 and 01 are one class.

    Raises UsageError where there is no label at all, or where labels are quantities.
    """
    dropped = [Dropped(item.key, "no label") for item in items if item.label is None]
    labelled = [item for item in items if item.label is not None]
    if not labelled:
        raise UsageError(f"data.prepare.label: none of {len(items)} items has a label")
    names = {label: _number(label) for label in sorted({item.label for item in labelled})}
    numbers = [number for number in names.values() if number is not None]
    if len(numbers) < len(names):
        return labelled, dropped
    _check_classes(numbers)
    if any(isinstance(number, float) for number in numbers):
        names = {label: float(number or 0) for label, number in names.items()}
    texts = {label: str(number) for label, number in names.items()}
    return [_named(item, texts[item.label]) for item in labelled], dropped


def _named(item: Item, label: str) -> Item:
    """The same item, not a copy, where it has this label already: there may be millions."""
    return item if item.label == label else replace(item, label=label)


def class_names(items: Sequence[Item]) -> tuple[str, ...]:
    """Each label once: numbers by their value, then names."""
    return tuple(sorted({str(item.label) for item in items if item.label is not None}, key=natural))


def are_quantities(labels: Sequence[Any]) -> bool:
    """Whether labels are numbers, more of them with fractions than classes have."""
    numbers = [_number(str(label)) for label in set(labels)]
    if any(number is None for number in numbers):
        return False
    return any(isinstance(number, float) for number in numbers) and len(set(numbers)) > _MOST_FRACTIONS


def natural(name: str) -> tuple[int, int, str]:
    """Sorts numbers by their value, then names."""
    return (0, int(name), name) if name.isdecimal() and len(name) <= _MOST_DIGITS else (1, 0, name)


def _number(label: str) -> int | float | None:
    """A whole number, any other finite one, or None."""
    if "_" in label or len(label) > _MOST_DIGITS:  # Python reads 1_000 as a number
        return None
    try:
        return int(label)
    except ValueError:
        pass
    try:
        value = float(label)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _check_classes(numbers: Sequence[int | float]) -> None:
    fractions = [number for number in numbers if isinstance(number, float)]
    if fractions and len(set(numbers)) > _MOST_FRACTIONS:
        raise UsageError(
            f"data.prepare.label: got {len(set(numbers))} different numbers such as {fractions[0]:g}, which are "
            f"quantities; allowed: classes (texts, whole numbers, or at most {_MOST_FRACTIONS} different numbers); "
            "fix: data.prepare.target=numbers, to predict them"
        )
