"""Tables, texts and series: labels, copies, splits, and arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare.alike_texts import near_texts
from scaledl.data.prepare.clean import exact_copies, sides, without_alike
from scaledl.data.prepare.contents import SeriesContent, TableContent, TextContent
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.layout import (
    Layout,
    arrays_of,
    check_dropped,
    check_rare,
    class_counts,
    described,
    dropped_counts,
    lay_out,
    write_index,
    write_layout,
)
from scaledl.data.prepare.shards import write_shards
from scaledl.data.prepare.split import split_rows
from scaledl.data.prepare.store import clear
from scaledl.data.prepare.targets import Labelled, labelled
from scaledl.data.stored import Form


class Content(Protocol):
    """What differs between the modalities.

    Attributes:
        what: one sample, in a message.
        items: those that can be used.
        dropped: the others.
        notes: on what became of the source.
    """

    what: str

    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def dropped(self) -> Sequence[Dropped]: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def digests(self) -> NDArray[np.uint8]:
        """uint8 [N, 32], SHA-256 of what each item holds."""
        ...

    def measure(self, layout: Layout, numbers: NDArray[np.int64]) -> dict[str, Any]:
        """What the document says of the layout's items; `numbers`: theirs among all. Nothing is written yet."""
        ...

    def parts(self, layout: Layout, members: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Arrays of some of the layout's items, but labels and ids."""
        ...

    def sizes(self, layout: Layout, members: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Bytes of each one's text, where there are texts."""
        ...

    def write(self, out: Path, split: str, layout: Layout) -> None: ...


@dataclass(frozen=True, eq=False)
class _Digests:
    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]


def make_rows(out: Path, collected: Collected, plan: dict[str, Any], config: PrepareConfig) -> dict[str, Any]:
    """Write the arrays and lists; returns what the document says of them. Nothing is written before all is known."""
    found = labelled(collected, config)
    content = _content(collected, found, config)
    kept, copies = _without_copies(content, found.target, config)
    chosen = list(content.items)
    pairs = _pairs(content, chosen, kept, config)
    kept, alike, groups = without_alike(chosen, np.arange(len(kept)), kept, pairs, config, content.what)
    late: Sequence[Dropped] = ()
    if pairs and any(item.time is not None for item in chosen):  # which side of a cut each is on is known by now
        chosen, kept, late = _cut(found, chosen, kept, groups, config)
        pairs = _pairs(content, chosen, kept, config)
        kept, more, groups = without_alike(chosen, np.arange(len(kept)), kept, pairs, config, content.what)
        alike = [*alike, *more]
    dropped = [*collected.dropped, *found.dropped, *content.dropped, *copies, *alike]
    check_dropped(dropped, len(collected.items) + len(collected.dropped), config)
    numbers = np.flatnonzero(kept)
    layout = _laid_out(found, list(compress(chosen, kept)), groups, config)
    late = [*late, *layout.dropped]
    check_rare(late, dropped, len(collected.items) + len(collected.dropped), config)
    numbers, dropped = numbers[layout.kept], [*dropped, *late]
    measured = content.measure(layout, numbers)
    clear(out)
    in_arrays = arrays_of(layout, config)
    for split in in_arrays:
        content.write(out, split, layout)
    write_layout(out, layout, dropped, in_arrays)
    document = {"modality": collected.modality, **described(layout), **measured}
    if "train" not in in_arrays:
        document["shards"] = _shards(out, content, layout, Form.of(document), config)
    return {
        **document,
        "rows": layout.rows,
        "profile": {"classes": class_counts(layout)},
        "dropped": dropped_counts(dropped),
        "plan": plan,
        "notes": [*collected.notes, *found.notes, *content.notes],
    }


def copies_of(collected: Collected, found: Labelled, config: PrepareConfig) -> list[Dropped]:
    """Items that are equal to others, as `make_rows` would leave them out; of a table the cells are forgotten.

    Raises UsageError for columns that cannot be read.
    """
    config = config.model_copy(update={"duplicates": "drop"})
    return _without_copies(_content(collected, found, config), found.target, config)[1]


def _shards(out: Path, content: Content, layout: Layout, form: Form, config: PrepareConfig) -> list[dict[str, Any]]:
    members = layout.members("train")

    def parts(rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {**content.parts(layout, members[rows]), "labels": layout.labels[members[rows]]}

    sizes = content.sizes(layout, members)
    shards, order = write_shards(out, parts, layout.ids("train"), form, config.shard_mb, config.seed, sizes)
    write_index(out, layout, order)
    return shards


def _laid_out(found: Labelled, items: Sequence[Item], groups: NDArray[np.int64], config: PrepareConfig) -> Layout:
    def split(labels: NDArray[np.int64], items: Sequence[Item], names: tuple[str, ...]) -> NDArray[np.str_]:
        return split_rows(labels, items, groups, names, config)

    return lay_out(found, items, split, config.min_per_class)


def _cut(
    found: Labelled, items: Sequence[Item], kept: NDArray[np.bool_], groups: NDArray[np.int64], config: PrepareConfig
) -> tuple[list[Item], NDArray[np.bool_], Sequence[Dropped]]:
    """The items, of which those that are kept know the split that their time puts them in; which these are, and what
    goes because it has no label there."""
    numbers = np.flatnonzero(kept)
    layout = _laid_out(found, list(compress(items, kept)), groups, config)
    kept = kept.copy()
    kept[numbers[~layout.kept]] = False
    known = {number: str(split) for number, split in zip(np.flatnonzero(kept).tolist(), layout.splits, strict=True)}
    chosen = [replace(item, split=known.get(number, item.split)) for number, item in enumerate(items)]
    return chosen, kept, layout.dropped


def _content(collected: Collected, found: Labelled, config: PrepareConfig) -> Content:
    items = found.items
    if collected.modality == "table":
        return TableContent(items, collected.columns, config, collected.cells)
    return TextContent(items) if collected.modality == "text" else SeriesContent(items)


def _pairs(
    content: Content, chosen: Sequence[Item], kept: NDArray[np.bool_], config: PrepareConfig
) -> list[tuple[int, int]]:
    """Texts that say nearly the same; of rows and series only equal ones are told apart from others."""
    if config.near_duplicates == "keep" or not isinstance(content, TextContent):
        return []
    numbers = np.flatnonzero(kept).tolist()
    items = [chosen[number] for number in numbers]
    pairs = near_texts([item.content for item in items], config.near_similarity, sides(items))
    return [(numbers[one], numbers[other]) for one, other in pairs]


def _without_copies(content: Content, target: Target, config: PrepareConfig) -> tuple[NDArray[np.bool_], list[Dropped]]:
    """Of equal rows with other numbers all stay: such are measured, not mistaken."""
    count = len(content.items)
    if config.duplicates == "keep" or not count:
        return np.ones(count, dtype=bool), []
    digests = content.digests()
    if target == "numbers":
        pairs = zip(digests, content.items, strict=True)
        found = (hashlib.sha256(digest.tobytes() + repr(item.label).encode()).digest() for digest, item in pairs)
        digests = np.frombuffer(b"".join(found), np.uint8).reshape(count, 32)
    return exact_copies(content.items, _Digests(np.arange(count), digests), content.what)
