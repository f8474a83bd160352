"""What every kind of data set has: classes, splits, ids, and lists of what is in it and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import SPLITS, Dropped, Item
from scaledl.data.prepare.labels import class_names
from scaledl.data.prepare.split import counts
from scaledl.data.prepare.store import write_array, write_lists
from scaledl.errors import UsageError

SplitFn = Callable[[NDArray[np.int64], Sequence[Item], tuple[str, ...]], NDArray[np.str_]]


@dataclass(frozen=True, eq=False)
class Layout:
    """Who is where.

    Attributes:
        items: those that stay, in the order of the source.
        names: of the classes.
        labels: int64 [N], numbers of the items' classes.
        splits: [N], train, val or test.
        order: int64 [N], the items by id: train, then val, then test.
    """

    items: Sequence[Item]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    order: NDArray[np.int64]

    def members(self, split: str) -> NDArray[np.int64]:
        """Numbers of a split's items, by id."""
        found: NDArray[np.int64] = self.order[self.splits[self.order] == split]
        return found

    def ids(self, split: str) -> NDArray[np.int64]:
        """Of a split's items, int64."""
        return np.flatnonzero(self.splits[self.order] == split).astype(np.int64)

    @property
    def rows(self) -> dict[str, int]:
        return counts(self.splits)


def lay_out(items: Sequence[Item], split_fn: SplitFn) -> Layout:
    """Number the classes and split. Raises UsageError for fewer than two classes."""
    names = class_names(items)
    if len(names) < 2:
        raise UsageError(f"one class only ({names[0] if names else 'none'}); a classifier needs at least two")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[str(item.label)] for item in items], np.int64)
    splits = split_fn(labels, items, names)
    order = np.argsort([SPLITS.index(split) for split in splits], kind="stable")
    return Layout(items, names, labels, splits, order)


def write_layout(out: Path, layout: Layout, dropped: Sequence[Dropped], arrays_of: Sequence[str] = SPLITS) -> None:
    """Labels and ids of some splits, and lists of all."""
    for split in arrays_of:
        write_array(out, split, "labels", layout.labels[layout.members(split)])
        write_array(out, split, "ids", layout.ids(split))
    listed = [(id, str(layout.splits[i]), layout.items[i]) for id, i in enumerate(layout.order.tolist())]
    write_lists(out, listed, dropped)


def class_counts(layout: Layout) -> dict[str, list[int]]:
    return {
        split: np.bincount(layout.labels[layout.splits == split], minlength=len(layout.names)).tolist()
        for split in SPLITS
    }


def dropped_counts(dropped: Sequence[Dropped]) -> dict[str, int]:
    return dict(sorted(Counter(one.reason.partition(":")[0] for one in dropped).items()))


def check_dropped(dropped: Sequence[Dropped], total: int, config: PrepareConfig) -> None:
    """Raises UsageError where more had to be dropped than the config allows."""
    if len(dropped) <= config.max_dropped * total:
        return
    common = Counter(one.reason.partition(":")[0] for one in dropped).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in common)
    first = sorted(dropped, key=lambda one: one.key)[0]
    copies = any("copy" in reason or "several labels" in reason for reason, _ in common)
    hint = ", or keep copies with data.prepare.duplicates=keep" if copies else ""
    raise UsageError(
        f"data.prepare.max_dropped: {len(dropped)} of {total} items would be dropped ({listed}; the first: "
        f"{first.key}: {first.reason}); allowed: {config.max_dropped:g} of them; fix the source, or raise it{hint}"
    )
