"""Images: looked at, decoded, cleaned, split, and saved with their statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.chunks import Chunks, Decoded, discard
from scaledl.data.prepare.clean import exact_copies, near_copies, without_alike
from scaledl.data.prepare.image_file import ImageFile
from scaledl.data.prepare.images import BadImageError, Look, Target, look, quiet_images
from scaledl.data.prepare.items import Collected, Dropped, Item, Mask
from scaledl.data.prepare.layout import (
    Layout,
    check_dropped,
    check_rare,
    class_counts,
    described,
    dropped_counts,
    lay_out,
    write_index,
    write_layout,
)
from scaledl.data.prepare.masks import Masks, ShapedMasks, read_masks
from scaledl.data.prepare.places import Places, settled_layout
from scaledl.data.prepare.shards import write_shards
from scaledl.data.prepare.split import split_items
from scaledl.data.prepare.store import WORK, histogram
from scaledl.data.prepare.targets import Labelled, labelled
from scaledl.data.stored import Form
from scaledl.errors import UsageError

_AUTO_SIZE = 224


def make_images(out: Path, collected: Collected, plan: dict[str, Any], config: PrepareConfig) -> dict[str, Any]:
    """Write the arrays and lists; returns what the document says of them."""
    found, target = labelled(collected, config), _target(collected, config)
    items = found.items
    settings = config.model_dump(mode="json", include={"fit", "max_pixels", "min_side", "max_ratio"})
    # Places are numbers of items, and which items there are follows from more settings than their pixels do.
    keys = hashlib.sha256("\0".join(item.key for item in items).encode()).hexdigest()
    work = {**plan, "settings": settings, "stamp": collected.stamp, "target": vars(target), "items": keys}
    chunks = Chunks(out / WORK, work, items, target)
    decoded = chunks.decode_all(config)
    if not len(decoded.rows):
        raise UsageError(f"none of {len(items)} items is an image; the first: {decoded.dropped[0].reason}")
    masks = None
    if found.target == "mask":
        masks, found, decoded = _with_masks(found, decoded, config)
        items = found.items
    kept, copies, groups = _clean(items, decoded, config)
    dropped = [*collected.dropped, *found.dropped, *decoded.dropped, *copies]
    check_dropped(dropped, len(collected.items) + len(collected.dropped), config)
    numbers = decoded.rows[kept]
    layout = lay_out(
        found,
        [items[number] for number in numbers.tolist()],
        lambda labels, chosen, names: split_items(labels, [item.split for item in chosen], groups, names, config),
        config.min_per_class,
    )
    check_rare(layout.dropped, dropped, len(collected.items) + len(collected.dropped), config)
    numbers, dropped = numbers[layout.kept], [*dropped, *layout.dropped]
    layout = settled_layout(layout, numbers)
    grey = config.channels == "auto" and bool(decoded.looks[:, 2].all())
    shape = (target.height, target.width, 1 if grey else target.channels)
    places = Places(numbers, layout, shape, sharded=bool(config.shard_mb), whole=shape[2] == target.channels)
    if not places.can_go_on(out):
        discard(out / WORK)  # images that an interrupted call had begun to move, for other splits
        return make_images(out, collected, plan, config)
    document = _save(out, layout, places, dropped, chunks.images, masks, config)
    sizes = _sizes(decoded.looks)
    return {**document, "plan": plan, "notes": [*collected.notes, *found.notes, *_notes(target, sizes)], "sizes": sizes}


def _with_masks(found: Labelled, decoded: Decoded, config: PrepareConfig) -> tuple[Masks, Labelled, Decoded]:
    """The masks of what was decoded, and what is left: images whose masks can be used."""
    masks, by_row = read_masks(found.items, decoded.rows, decoded.looks, found.given, config)
    items = list(found.items)
    lost = [one for one in by_row.values() if isinstance(one, Dropped)]
    for row, mask in by_row.items():
        if isinstance(mask, Mask):
            items[row] = dataclasses.replace(items[row], label=mask)
    good = np.array([isinstance(by_row[row], Mask) for row in decoded.rows.tolist()], bool)
    parts = {name: getattr(decoded, name)[good] for name in ("rows", "digests", "thumbnails", "looks")}
    left = dataclasses.replace(decoded, **parts, dropped=[*decoded.dropped, *lost])
    return masks, dataclasses.replace(found, items=items, given=masks.names), left


def _target(collected: Collected, config: PrepareConfig) -> Target:
    """What every image becomes. Where the size is not given, all headers are read first."""
    channels = 3 if config.channels == "auto" else config.channels
    if config.size != "auto":
        return Target(config.size, config.size, channels)
    with quiet_images(), ThreadPoolExecutor(4) as pool:
        looks = [found for found in pool.map(lambda item: _look(item, config), collected.items) if found is not None]
    sizes = {(found.height, found.width) for found in looks}
    if len(sizes) == 1:
        return Target(*sizes.pop(), channels)
    middle = statistics.median(min(found.height, found.width) for found in looks) if looks else _AUTO_SIZE
    side = min(_AUTO_SIZE, round(middle))
    return Target(side, side, channels)


def _look(item: Item, config: PrepareConfig) -> Look | None:
    try:
        return look(item.content, config)
    except BadImageError:
        return None  # which is found again, and listed, when it is decoded


def _sizes(looks: NDArray[np.int64]) -> dict[str, list[int]]:
    return {
        name: [int(values.min()), round(float(np.median(values))), int(values.max())]
        for name, values in (("height", looks[:, 0]), ("width", looks[:, 1]))
    }


def _notes(target: Target, sizes: dict[str, list[int]]) -> list[str]:
    heights, widths = sizes["height"], sizes["width"]
    if heights[0] == heights[2] == target.height and widths[0] == widths[2] == target.width:
        return []
    low, high = f"{widths[0]}x{heights[0]}", f"{widths[2]}x{heights[2]}"
    found = low if low == high else f"{low} to {high}"
    return [f"images of {found} pixels became {target.width}x{target.height} (data.prepare.size)"]


def _clean(
    items: Sequence[Item], decoded: Decoded, config: PrepareConfig
) -> tuple[NDArray[np.bool_], list[Dropped], NDArray[np.int64]]:
    """Which of the decoded stay, what goes and why, and groups of those that stay which have to stay together."""
    kept = np.ones(len(decoded.rows), dtype=bool)
    dropped: list[Dropped] = []
    if config.duplicates == "drop":
        kept, dropped = exact_copies(items, decoded)
    pairs: list[tuple[int, int]] = []
    if config.near_duplicates != "keep":
        pairs = near_copies(items, decoded, np.flatnonzero(kept), config.near_distance)
    kept, alike, groups = without_alike(items, decoded.rows, kept, pairs, config, "image")
    return kept, [*dropped, *alike], groups


def _save(
    out: Path,
    layout: Layout,
    places: Places,
    dropped: Sequence[Dropped],
    images: ImageFile,
    masks: Masks | None,
    config: PrepareConfig,
) -> dict[str, Any]:
    gather, hashes = places.write(out, images)
    write_layout(out, layout, dropped, places.in_arrays)
    document = {"modality": "image", "in_shape": [places.shape[2], *places.shape[:2]], **described(layout)}
    shaped = None if masks is None else ShapedMasks(masks, layout, places.shape[:2], config)
    if shaped is not None:
        for split in places.in_arrays:
            shaped.write(out, split)

    def parts(rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        members = layout.members("train")[rows]
        return {"images": gather(rows), "labels": shaped.rows("train", members) if shaped else layout.labels[members]}

    shards = {}
    if places.in_shards:
        ids, form = layout.ids("train"), Form.of(document)
        shards["shards"], order = write_shards(out, parts, ids, form, config.shard_mb, config.seed)
        write_index(out, layout, order)
    counted = histogram(layout.rows["train"], gather)
    mean, std = _statistics(counted)
    classes = shaped.counts if shaped else class_counts(layout)
    return {
        **shards,
        **document,
        "hashes": hashes,
        "mean": mean,
        "std": std,
        "rows": layout.rows,
        "profile": {"classes": classes, "histogram": counted.T.tolist()},
        "dropped": dropped_counts(dropped),
    }


def _statistics(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel where 255 is 1; of a constant channel the deviation is 1."""
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=0)
    mean = (share * values[:, None]).sum(axis=0)
    deviation = np.sqrt((share * (values[:, None] - mean) ** 2).sum(axis=0))
    return mean.tolist(), np.where(deviation > 1e-6, deviation, 1.0).tolist()
