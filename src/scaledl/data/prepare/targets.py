"""What is to be learned of each item: its label as the source has it becomes a target of one kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import IGNORED, NO_CLASS, Target
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.label_kinds import (
    NO,
    READERS,
    YES,
    Read,
    Reader,
    counted_classes,
    is_number,
    names_as_they_are,
    with_numbers,
)
from scaledl.data.prepare.labels import are_quantities, class_names, natural
from scaledl.errors import UsageError

_NONE = str(NO_CLASS)
_NO_LABEL_SAID = {
    "webdataset": "a sample without cls, json and txt has no label",
    "python": "None says that there is no label",
    "image_folder": "what lies in a folder named unlabeled has no label",
}
NO_TAG = str(IGNORED)  # stands for no tag, where tags are numbers


@dataclass(frozen=True)
class Labelled:
    """Items whose labels are all of one kind, and those that have none.

    Attributes:
        given: names of the classes or numbers, where the source says them apart from the items.
        classes: of each number, names of the classes that it counts; none where it is a quantity.
        notes: on what labels stand for.
    """

    target: Target
    given: tuple[str, ...]
    items: Sequence[Item]
    dropped: Sequence[Dropped]
    classes: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def names(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Of the classes, tags or numbers of these of the items."""
        return _names(self.target, items, self.given)

    def array(self, items: Sequence[Item], names: Sequence[str]) -> NDArray[Any]:
        """The targets of these of the items, as `Target` says; those of masks are made elsewhere, and 0 here."""
        return _ARRAYS[self.target](items, names)


def labelled(collected: Collected, config: PrepareConfig) -> Labelled:
    """The items with labels of the kind that the config or the source says. Raises UsageError for other labels."""
    target = _target(collected, config)
    as_they_are = target == "class" and collected.modality == "image"
    reader = names_as_they_are if as_they_are else READERS[target]
    keeps = target == "class" and config.unlabeled == "keep"
    classes = counted_classes(collected.items, config) if target == "numbers" else ()
    given = with_numbers(collected.items, classes)
    absent: list[Dropped] = []
    notes: tuple[str, ...] = ()
    if target == "class":
        given, absent, notes = _without_minus_one(given, collected.kind, keeps=keeps)
    items, dropped = (_with_unlabeled if keeps else _read)(reader, given, config)
    if not items:
        raise UsageError(f"data.prepare.label: none of {len(collected.items)} items has a label")
    return Labelled(target, tuple(collected.label_names), items, [*absent, *dropped], classes, notes)


def _without_minus_one(
    items: Sequence[Item], kind: str, *, keeps: bool
) -> tuple[Sequence[Item], list[Dropped], tuple[str, ...]]:
    """-1 says that there is no label in arrays of whole numbers, which cannot say it otherwise. Elsewhere it is a class
    like any other, and so it is beside one other number alone, as in -1 and 1.

    Returns the items, of which those have no label if they are kept; what goes if they are not; and what to say of it.
    """
    count = sum(item.label == _NONE for item in items)
    if not count:
        return items, [], ()
    labels = {item.label for item in items if item.label is not None}
    if kind != "npz" or len(labels) <= 2:
        otherwise = _NO_LABEL_SAID.get(kind, "an empty cell says that there is no label")
        why = f"{otherwise} (data.prepare.unlabeled)" if kind != "npz" else "there is one other number alone"
        return items, [], (f"{count:,} labels are -1, which is a class of its own here: {why}",)
    said = f"{count:,} labels are -1, which stands for no label (data.prepare.unlabeled)"
    if keeps:
        return [replace(item, label=None) if item.label == _NONE else item for item in items], [], (said,)
    dropped = [Dropped(item.key, "no label: -1 stands for none") for item in items if item.label == _NONE]
    return [item for item in items if item.label != _NONE], dropped, (said,)


def _read(reader: Reader, items: Sequence[Item], config: PrepareConfig) -> Read:
    return reader(items, config)


def _with_unlabeled(reader: Reader, items: Sequence[Item], config: PrepareConfig) -> Read:
    """Those without a label stay where they are, but that nothing can be judged by them in validation and test."""
    known = [item for item in items if item.label is not None]
    read, dropped = reader(known, config) if known else ([], [])
    found = {item.key: item for item in read}
    kept = []
    for item in items:
        if item.label is None and item.split in ("val", "test"):
            dropped.append(Dropped(item.key, f"no label: and it is in the {item.split} split"))
        elif item.label is None or item.key in found:
            kept.append(found.get(item.key, item))
    return (kept if found else []), dropped


def _target(collected: Collected, config: PrepareConfig) -> Target:
    found = collected.target or _guessed(collected, config)
    asked = found if config.target == "auto" else config.target
    if asked == found or asked == "none":
        return asked
    fixed = {"mask", "tags"} & {asked, found} and not (asked == "tags" and collected.modality == "text")
    if fixed:
        raise UsageError(
            f"data.prepare.target: got {asked}, and the source has {_WHAT[found]}; allowed: auto, {found} or none"
        )
    return asked


_WHAT = {"mask": "masks", "tags": "a tag for each step", "class": "a class for each item"} | {
    "classes": "several classes for each item",
    "numbers": "numbers",
    "none": "no labels",
}


def _guessed(collected: Collected, config: PrepareConfig) -> Target:
    labels = [item.label for item in collected.items if item.label is not None]
    if config.labels_separator is not None:
        return "classes"
    if not labels:
        return "class"
    if any(isinstance(label, tuple) for label in labels):
        found = {cell for label in labels for cell in (label if isinstance(label, tuple) else (label,))}
        cells = {str(cell).strip().lower() for cell in found - {None}}
        lacking = None in found and config.unlabeled == "keep"
        if cells <= {*YES, *NO}:
            return "numbers" if lacking else "classes"
        return "numbers" if config.targets or all(map(is_number, cells)) else "classes"
    quantities = collected.kind != "image_folder" and are_quantities(labels)
    return "numbers" if quantities else "class"


def _names(target: Target, items: Sequence[Item], given: tuple[str, ...]) -> tuple[str, ...]:
    if target == "none":
        return ()
    if target == "class":
        return class_names(items)
    if target == "mask" or (target == "classes" and len(given) > 1):
        return given
    if target == "numbers":
        count = len(items[0].label)
        made = tuple(f"value {i}" for i in range(1, count + 1)) if count > 1 else ("value",)
        return given if len(given) == count else made
    return tuple(sorted({name for item in items for name in item.label} - {NO_TAG}, key=natural))


def _class_array(items: Sequence[Item], names: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([NO_CLASS if item.label is None else numbers[str(item.label)] for item in items], np.int64)


def _classes_array(items: Sequence[Item], names: Sequence[str]) -> NDArray[np.float32]:
    numbers = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(items), len(names)), np.float32)
    for row, item in zip(found, items, strict=True):
        row[[numbers[name] for name in item.label]] = 1
    return found


def _numbers_array(items: Sequence[Item], names: Sequence[str]) -> NDArray[np.float32]:
    return np.array([item.label for item in items], np.float32).reshape(len(items), len(names))


def _tags_array(items: Sequence[Item], names: Sequence[str]) -> NDArray[np.int64]:
    """As long as the longest; IGNORED behind the others."""
    numbers = {NO_TAG: IGNORED} | {name: number for number, name in enumerate(names)}
    found = np.full((len(items), max((len(item.label) for item in items), default=0)), IGNORED, np.int64)
    for row, item in zip(found, items, strict=True):
        row[: len(item.label)] = [numbers[tag] for tag in item.label]
    return found


def _zeros(items: Sequence[Item], names: Sequence[str]) -> NDArray[np.int64]:
    return np.zeros(len(items), np.int64)


_ARRAYS: dict[Target, Callable[[Sequence[Item], Sequence[str]], NDArray[Any]]] = {
    "class": _class_array,
    "classes": _classes_array,
    "numbers": _numbers_array,
    "tags": _tags_array,
    "mask": _zeros,
    "none": _zeros,
}
