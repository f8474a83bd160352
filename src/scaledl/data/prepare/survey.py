"""What a source holds, before it is prepared. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.arrow_files import GroupCell
from scaledl.data.prepare.clean import EXACT_COPY
from scaledl.data.prepare.collect import collect, kind_of
from scaledl.data.prepare.columns import missing_counts
from scaledl.data.prepare.images import BadImageError, Look, look, quiet_images
from scaledl.data.prepare.items import SPLITS, Collected, Dropped, Item
from scaledl.data.prepare.label_kinds import is_number
from scaledl.data.prepare.labels import natural
from scaledl.data.prepare.row_set import copies_of
from scaledl.data.prepare.targets import Labelled, labelled
from scaledl.errors import UsageError

_T = TypeVar("_T")
_MOST_LOOKED_AT = 2000  # headers of images, evenly spread
_MOST_READ = 200  # images in shards, of which the whole has to be read
_LEAST_GROUPS = 8  # of Parquet's row groups, each of which is read as a whole too
_MOST_PROBLEMS = 20
_MANY_CLASSES = 50


def survey(source: Path, config: PrepareConfig) -> dict[str, Any]:
    """Kind, items, classes, splits and problems of a source. Raises UsageError where it cannot be used.

    Of images the headers of at most 2,000 are read, or 200 where they lie in shards (of Parquet those of few row
    groups), and no pixels: what is damaged behind them, and copies, show when the source is prepared. Equal rows, texts
    and series are counted.
    """
    collected = collect(source, kind_of(source, config), config)
    items, problems = collected.items, list(collected.dropped)
    document = {"source": str(source), "prepared": False, "kind": collected.kind, "modality": collected.modality}
    if collected.modality == "image":
        looks, bad = _look_at(items, config)
        document |= {"looked_at": len(looks) + len(bad), **_sizes(looks)}
        problems += bad
    found = labelled(collected, config)
    items = found.items
    problems += found.dropped
    labels, splits = Counter(_classes(found)), Counter(item.split for item in items)
    unlabeled = sum(item.label is None for item in items) if found.target == "class" else 0
    columns = {"columns": list(collected.columns), "missing": _missing(collected, config)} if collected.columns else {}
    notes = [*collected.notes, *found.notes, *_doubts(labels, config)]
    copies = {} if collected.modality == "image" else _copies(collected, found, config, notes)
    return {
        **document,
        "items": len(items),
        **({"unlabeled": unlabeled} if unlabeled else {}),
        "target": found.target,
        "classes": {name: labels[name] for name in sorted(labels, key=natural)},
        "splits": {split: splits[split] for split in SPLITS if splits[split]},
        **columns,
        **copies,
        "num_problems": len(problems),
        "problems": [one.to_dict() for one in problems[:_MOST_PROBLEMS]],
        "notes": notes,
    }


def _classes(found: Labelled) -> Iterator[str]:
    """Of every item its class, or each of them; nothing where there are none."""
    for item in found.items:
        if found.target == "class" and item.label is not None:
            yield str(item.label)
        elif found.target in ("classes", "tags"):
            yield from item.label


def _missing(collected: Collected, config: PrepareConfig) -> dict[str, int]:
    """How many values are missing in each column that has such."""
    counts = missing_counts(collected.items, collected.columns, config, collected.cells)
    return {name: count for name, count in zip(collected.columns, counts, strict=True) if count}


def _copies(collected: Collected, found: Labelled, config: PrepareConfig, notes: list[str]) -> dict[str, int]:
    """How many items are exact copies of others, and how many are equal and have several labels."""
    try:
        reasons = Counter(one.reason.partition(":")[0] for one in copies_of(collected, found, config))
    except UsageError as error:  # which preparation would end with
        notes.append(f"copies cannot be counted: {error}")
        return {}
    copies = reasons.pop(EXACT_COPY, 0)
    return {"copies": copies, "contradictions": sum(reasons.values())}


def _doubts(labels: Counter[str], config: PrepareConfig) -> list[str]:
    """Of classes that look like numbers to predict: how to say that they are."""
    if config.target != "auto" or len(labels) <= _MANY_CLASSES or not all(map(is_number, labels)):
        return []
    return [f"{len(labels)} classes, all of them numbers: if these are to be predicted, data.prepare.target=numbers"]


def _look_at(items: Sequence[Item], config: PrepareConfig) -> tuple[list[Look], list[Dropped]]:
    with quiet_images(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda item: _look(item, config), _chosen(items)))
    bad = [one for one in found if isinstance(one, Dropped)]
    return [one for one in found if isinstance(one, Look)], bad


def _chosen(items: Sequence[Item]) -> list[Item]:
    groups: dict[tuple[Path, int], list[Item]] = {}
    for item in items:
        if isinstance(item.content, GroupCell):
            groups.setdefault((item.content.path, item.content.group), []).append(item)
    if groups:  # as many as have 200 images in all, but not one or two where they are large
        few = _spread(list(groups.values()), max(_LEAST_GROUPS, _MOST_READ * len(groups) // len(items)))
        return _spread([item for group in few for item in group], _MOST_READ)
    in_files = all(isinstance(item.content, Path | np.ndarray) for item in items)
    return _spread(items, _MOST_LOOKED_AT if in_files else _MOST_READ)


def _spread(values: Sequence[_T], most: int) -> list[_T]:
    """At most so many, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int)
    return [values[place] for place in places.tolist()]


def _look(item: Item, config: PrepareConfig) -> Look | Dropped:
    try:
        return look(item.content, config)
    except BadImageError as error:
        return Dropped(item.key, str(error))


def _sizes(looks: Sequence[Look]) -> dict[str, Any]:
    """The smallest and the largest height and width."""
    if not looks:
        return {}
    heights, widths = [one.height for one in looks], [one.width for one in looks]
    return {"height": [min(heights), max(heights)], "width": [min(widths), max(widths)]}
