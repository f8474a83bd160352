"""Masks of images: read, made as large as the images, and written as a class for each pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import IGNORED
from scaledl.data.prepare.images import BadImageError, opened, quiet_images
from scaledl.data.prepare.items import SPLITS, Dropped, Item, Mask
from scaledl.data.prepare.layout import Layout
from scaledl.data.prepare.store import array_name, write_npy_header
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file

VOID = 255  # of no class, as in Pascal VOC; of masks of 0 and 255 alone it is the second class
_AT_A_TIME = 64  # masks
_INDEXED = ("1", "L", "P")


@dataclass(frozen=True, eq=False)
class Masks:
    """What is known of all masks.

    Attributes:
        names: of the classes.
        codes: uint8 [256]: of each value that a mask may hold its class, or VOID.
    """

    names: tuple[str, ...]
    codes: NDArray[np.uint8]


class ShapedMasks:
    """Masks as large as the images became: int16 [N, H, W], IGNORED where there is no class.

    Attributes:
        counts: of each split how many pixels each class has, in what has been made of it so far.
    """

    def __init__(self, masks: Masks, layout: Layout, size: tuple[int, int], config: PrepareConfig) -> None:
        self._masks, self._layout, self._size, self._config = masks, layout, size, config
        self.counts: dict[str, list[int]] = {split: [0] * len(masks.names) for split in SPLITS}

    def write(self, out: Path, split: str) -> None:
        members = self._layout.members(split)
        with atomic_file(out / array_name(split, "labels"), "data set") as temporary, temporary.open("wb") as file:
            write_npy_header(file, np.dtype(np.int16), (len(members), *self._size))
            for mask in self._made(split, members):
                file.write(mask.data)

    def rows(self, split: str, members: NDArray[np.int64]) -> NDArray[np.int16]:
        """Of some of a split's items, their numbers in the layout."""
        return np.stack(list(self._made(split, members)))

    def _made(self, split: str, members: NDArray[np.int64]) -> Iterator[NDArray[np.int16]]:
        items = [self._layout.items[number] for number in members.tolist()]
        found = np.zeros(VOID + 1, np.int64)
        for shaped in _mapped(items, self._shaped):
            found += np.bincount(shaped.ravel(), minlength=VOID + 1)
            yield np.where(shaped == VOID, np.int16(IGNORED), shaped.astype(np.int16))
        self.counts[split] = [before + int(more) for before, more in zip(self.counts[split], found, strict=False)]

    def _shaped(self, item: Item) -> NDArray[np.uint8]:
        return _shaped(self._masks.codes[_values(item.label, self._config)], self._size, self._config.fit)


def read_masks(
    items: Sequence[Item],
    rows: NDArray[np.int64],
    looks: NDArray[np.int64],
    names: Sequence[str],
    config: PrepareConfig,
) -> tuple[Masks, dict[int, Mask | Dropped]]:
    """What classes there are, and of each row of `items` its mask with a digest, or why the item goes.

    Args:
        rows: int64 [N], numbers among the items.
        looks: int64 [N, ...], height and width of their images.
        names: of the classes, where the source says them; else the values' own.

    Raises UsageError where masks hold classes that have no names, or none can be read.
    """
    sizes = dict(zip(rows.tolist(), looks[:, :2].tolist(), strict=True))
    seen = np.zeros(VOID + 1, bool)
    found: dict[int, Mask | Dropped] = {}
    chosen = [(row, items[row], sizes[row]) for row in rows.tolist()]
    for (row, _, _), made in zip(chosen, _mapped(chosen, lambda one: _looked_at(one[1], one[2], config)), strict=True):
        if isinstance(made, Dropped):
            found[row] = made
        else:
            found[row], values = made
            seen[values] = True
    values = np.flatnonzero(seen).tolist()
    if not values:
        first = next(iter(found.values()), None)
        raise UsageError("no mask can be used" + (f"; the first: {first}" if first else ""))
    return _coded(values, tuple(names)), found


def _coded(values: Sequence[int], names: tuple[str, ...]) -> Masks:
    codes = np.full(VOID + 1, VOID, np.uint8)
    if names:
        odd = [value for value in values if value >= len(names) and value != VOID]
        if odd:
            raise UsageError(
                f"masks hold {odd[0]}, and there are {len(names)} names of classes; allowed: 0 and on, or 255"
            )
        codes[: len(names)] = range(len(names))
        return Masks(names, codes)
    classes = list(values) if set(values) == {0, VOID} else [value for value in values if value != VOID]
    codes[classes] = range(len(classes))
    return Masks(tuple(map(str, classes)), codes)


def _looked_at(item: Item, size: Sequence[int], config: PrepareConfig) -> tuple[Mask, NDArray[np.uint8]] | Dropped:
    try:
        values = _values(item.label, config)
    except BadImageError as error:
        return Dropped(item.key, f"its mask: {error}")
    if list(values.shape) != list(size):
        got, wanted = ("x".join(map(str, reversed(one))) for one in (values.shape, size))
        return Dropped(item.key, f"its mask is {got} pixels, it is {wanted}")
    return replace(item.label, digest=hashlib.sha256(values.tobytes()).hexdigest()), np.unique(values)


def _values(mask: Mask, config: PrepareConfig) -> NDArray[np.uint8]:
    """uint8 [H, W]: indices into a palette, or grey values. Raises BadImageError for colours, or damage."""
    if isinstance(mask.content, np.ndarray):
        return _of_array(mask.content)
    with opened(mask.content, config) as image:
        if image.mode not in _INDEXED:
            raise BadImageError(f"of mode {image.mode}; wanted grey values or a palette, of 8 bits")
        try:
            values = np.asarray(image)
        except Exception as error:  # Pillow's plugins raise whatever their parsing came to
            raise BadImageError(f"damaged: {' '.join(str(error).split())[:120]}") from error
    return values.astype(np.uint8)


def _of_array(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Of whole numbers from 0 on; negative ones are of no class."""
    if values.max(initial=0) > VOID:
        raise BadImageError(f"holds {int(values.max())}; wanted at most {VOID}")
    return np.where(values < 0, VOID, values).astype(np.uint8)


def _shaped(codes: NDArray[np.uint8], size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """As the image became: by its nearest pixels, of no class where bars are."""
    if codes.shape == size:
        return codes
    from PIL import Image, ImageOps

    image, wanted, nearest = Image.fromarray(codes), (size[1], size[0]), Image.Resampling.NEAREST
    if fit == "stretch":
        return np.asarray(image.resize(wanted, nearest))
    if fit == "pad":
        return np.asarray(ImageOps.pad(image, wanted, nearest, color=VOID))
    return np.asarray(ImageOps.fit(image, wanted, nearest))


def _mapped(items: Sequence[Any], function: Callable[[Any], Any]) -> Any:
    """In order, by threads, few at a time."""
    with quiet_images(), ThreadPoolExecutor(4) as pool:
        for start in range(0, len(items), _AT_A_TIME):
            yield from pool.map(function, items[start : start + _AT_A_TIME])
