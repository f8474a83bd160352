"""What every kind of data set has: targets, splits, ids, and lists of what is in it and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import NO_CLASS, Target
from scaledl.data.prepare.items import SPLITS, Dropped, Item
from scaledl.data.prepare.split import counts
from scaledl.data.prepare.store import write_array, write_lists
from scaledl.data.prepare.targets import Labelled
from scaledl.data.stored import INDEX
from scaledl.errors import UsageError

SplitFn = Callable[[NDArray[np.int64], Sequence[Item], tuple[str, ...]], NDArray[np.str_]]

_RARE = "of a rare class"
_ALL = ("all items",)  # where there are no classes to split by


@dataclass(frozen=True, eq=False)
class Layout:
    """Who is where.

    Attributes:
        items: those that stay, in the order of the source.
        target: what the labels are.
        names: of the classes, tags or numbers.
        labels: [N, ...], the items' targets.
        splits: [N], train, val or test.
        order: int64 [N], the items by id: train, then val, then test.
        kept: bool [M], which of the items that were to be laid out these are.
        dropped: the others: without a label, where one is needed, or of a rare class.
        classes: of each number the names of the classes that it counts, where there are such.
    """

    items: Sequence[Item]
    target: Target
    names: tuple[str, ...]
    labels: NDArray[Any]
    splits: NDArray[np.str_]
    order: NDArray[np.int64]
    kept: NDArray[np.bool_]
    dropped: Sequence[Dropped] = ()
    classes: tuple[tuple[str, ...], ...] = ()

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

    @property
    def unlabeled(self) -> int:
        """How many training samples have no class, or not all of their numbers."""
        labels = self.labels[self.splits == "train"]
        if self.target == "class":
            return int((labels == NO_CLASS).sum())
        return int(np.isnan(labels).any(axis=1).sum()) if self.target == "numbers" else 0


def lay_out(labelled: Labelled, items: Sequence[Item], split_fn: SplitFn, min_per_class: int = 1) -> Layout:
    """Make targets of the items' labels, and split; without classes of fewer items than `min_per_class`.

    Raises UsageError for fewer than two classes.
    """
    target, rare = labelled.target, _rare(labelled, items, min_per_class)
    found = [replace(item, label=None) if rare[i] else item for i, item in enumerate(items)]
    names = labelled.names(found)
    if len(names) < 2 and target in ("class", "tags", "mask"):
        raise UsageError(f"one class only ({names[0] if names else 'none'}); a classifier needs at least two")
    labels = labelled.array(found, names)
    strata, classes = (labels, names) if target == "class" else (np.zeros(len(items), np.int64), _ALL)
    splits = split_fn(strata, found, classes)
    kept = ((strata != NO_CLASS) | (splits == "train")) & ~rare
    dropped = [
        Dropped(
            items[i].key,
            f"{_RARE}: {items[i].label}"
            if rare[i]
            else f"no label: and it belongs to what is in the {splits[i]} split",
        )
        for i in np.flatnonzero(~kept).tolist()
    ]
    items = list(compress(items, kept))
    labels, splits = labels[kept], splits[kept]
    order = np.argsort([SPLITS.index(split) for split in splits], kind="stable")
    made = Layout(items, target, names, labels, splits, order, kept, dropped, labelled.classes)
    _check_numbers(made)
    return made


def _rare(labelled: Labelled, items: Sequence[Item], least: int) -> NDArray[np.bool_]:
    """bool [N]: which items are of a class that has fewer than `least`."""
    if labelled.target != "class":
        return np.zeros(len(items), bool)
    count = Counter(item.label for item in items)
    return np.array([item.label is not None and count[item.label] < least for item in items], bool)


def _check_numbers(layout: Layout) -> None:
    """Raises UsageError for a number that no sample of a split has."""
    if layout.target != "numbers":
        return
    for split in SPLITS:
        values = layout.labels[layout.splits == split]
        absent: list[int] = np.flatnonzero(np.isnan(values).all(axis=0)).tolist() if len(values) else []
        if absent:
            raise UsageError(
                f"data.prepare.targets: no sample of the {split} split has a value of {layout.names[absent[0]]!r}; "
                "fix: another data.prepare.seed, larger fractions, or fill in more of them"
            )


def arrays_of(layout: Layout, config: PrepareConfig) -> list[str]:
    """Splits that become arrays: all, or, where the training split becomes shards, the others."""
    return [split for split in SPLITS if not (config.shard_mb and split == "train" and layout.rows["train"])]


def write_layout(out: Path, layout: Layout, dropped: Sequence[Dropped], in_arrays: Sequence[str]) -> None:
    """Targets and ids of some splits, and lists of all. Masks are written by who has them."""
    for split in in_arrays:
        if layout.target != "mask":
            write_array(out, split, "labels", layout.labels[layout.members(split)])
        write_array(out, split, "ids", layout.ids(split))
    listed = ((id, str(layout.splits[i]), layout.items[i]) for id, i in enumerate(layout.order))
    write_lists(out, listed, dropped)


def write_index(out: Path, layout: Layout, order: NDArray[np.int64]) -> None:
    """Of classes: id and label of every training sample, int64 [N, 2], in the order in which they lie in shards. So
    some of them can be chosen without all shards being read."""
    if layout.target == "class":
        columns = layout.ids("train"), layout.labels[layout.members("train")]
        write_array(out, "train", INDEX, np.stack([column[order] for column in columns], 1))


def described(layout: Layout) -> dict[str, Any]:
    """What the document says of the targets; of classes it says nothing of its kind."""
    target = layout.target
    said: dict[str, Any] = {"labels": list(layout.names)}
    if target != "class":
        said["target"] = target
    if target == "numbers":
        said["targets"] = _quantities(layout)
    if layout.classes:
        said["target_classes"] = [list(names) for names in layout.classes]
    if target == "tags":
        said["tags"] = layout.labels.shape[1]
    if layout.unlabeled:
        said["unlabeled"] = layout.unlabeled
    return said


def class_counts(layout: Layout) -> dict[str, list[int]]:
    """Of each split how often each class, or tag, is there; nothing where there are none."""
    target, count = layout.target, len(layout.names)
    if target in ("numbers", "none", "mask"):
        return {}
    by_split = {split: layout.labels[layout.splits == split] for split in SPLITS}
    if target == "classes":
        return {split: labels.sum(axis=0).astype(int).tolist() for split, labels in by_split.items()}
    return {split: np.bincount(labels[labels >= 0], minlength=count).tolist() for split, labels in by_split.items()}


def _quantities(layout: Layout) -> list[dict[str, Any]]:
    """Of each number that is to be predicted, what it is in the training split; a constant one deviates by 1."""
    values = layout.labels[layout.splits == "train"].astype(np.float64)
    if not len(values):
        raise UsageError("no item is in the training split")
    measures: dict[str, Any] = {"mean": np.nanmean, "std": np.nanstd, "min": np.nanmin, "max": np.nanmax}
    found = {key: measure_fn(values, axis=0) for key, measure_fn in measures.items()}
    found["std"] = np.where(found["std"] > 0, found["std"], 1.0)
    missing = np.isnan(values).sum(axis=0).tolist()
    return [
        {
            "name": name,
            **{key: float(numbers[i]) for key, numbers in found.items()},
            **({"missing": missing[i]} if missing[i] else {}),
        }
        for i, name in enumerate(layout.names)
    ]


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
    if any(reason == "no label" for reason, _ in common) and config.unlabeled == "drop":
        if any(one.reason.startswith("no label: -1") for one in dropped):
            hint += ", or give -1 another number where it is a class"
        hint += ", or keep what has no label, for task.name=semi_supervised, with data.prepare.unlabeled=keep"
    raise UsageError(
        f"data.prepare.max_dropped: {len(dropped)} of {total} items would be dropped ({listed}; the first: "
        f"{first.key}: {first.reason}); allowed: {config.max_dropped:g} of them; fix the source, or raise it{hint}"
    )


def check_rare(left: Sequence[Dropped], dropped: Sequence[Dropped], total: int, config: PrepareConfig) -> None:
    """As `check_dropped`, with those besides that were left out because of their class."""
    check_dropped([*dropped, *(one for one in left if one.reason.startswith(_RARE))], total, config)
