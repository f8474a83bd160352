"""Where decoded images go: into an array for each split, or into shards."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.image_file import ImageFile, settled
from scaledl.data.prepare.images import Pixels
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.layout import Layout
from scaledl.data.prepare.store import MOVING, WORK, array_name, clear
from scaledl.run.files import atomic_write


@dataclass(frozen=True, eq=False)
class Places:
    """Where images go.

    Attributes:
        numbers: int64 [N], of the layout's items among all of the source.
        shape: height, width and channels.
        sharded: the training split becomes shards.
        whole: the images have all channels that were decoded.
    """

    numbers: NDArray[np.int64]
    layout: Layout
    shape: tuple[int, int, int]
    sharded: bool
    whole: bool

    def of(self, split: str) -> NDArray[np.int64]:
        """Numbers of a split's items, by id."""
        found: NDArray[np.int64] = self.numbers[self.layout.members(split)]
        return found

    @property
    def in_shards(self) -> bool:
        return self.sharded and len(self.of("train")) > 0

    @property
    def stays(self) -> bool:
        """Whether the file of all that was decoded becomes the training split."""
        return self.whole and not self.in_shards

    @property
    def in_arrays(self) -> list[str]:
        """Splits that are an array each."""
        return [split for split in SPLITS if split != "train" or not self.in_shards]

    def write(self, out: Path, images: ImageFile) -> tuple[Callable[[NDArray[np.int64]], Pixels], dict[str, str]]:
        """Write all arrays. Returns what gives images of the training split, of their rows in it, and the SHA-256 of
        files by their names, of those that were not written by an interrupted call."""
        training, hashes = self.of("train"), dict[str, str]()
        if not (out / WORK / MOVING).exists():
            clear(out)
            for split in self.in_arrays:
                if split != "train" or not self.stays:
                    name = array_name(split, "images")
                    hashes[name] = images.copy(self.of(split), self.shape[2], out / name)
        if not self.stays:
            return lambda rows: images.gather(training[rows], self.shape[2]), hashes
        # The others have theirs, so what was decoded can become the training split where it lies.
        atomic_write(out / WORK / MOVING, self._key, "part of the data set")
        name = array_name("train", "images")
        hashes[name] = images.settle(training, out / name)
        return lambda rows: images.gather(rows, self.shape[2]), hashes

    def can_go_on(self, out: Path) -> bool:
        """Whether no images were moved yet, or for these places."""
        moving = out / WORK / MOVING
        copied = [out / array_name(split, "images") for split in SPLITS if split != "train"]
        if not moving.exists():
            return True
        return self.stays and moving.read_text() == self._key and all(path.exists() for path in copied)

    @property
    def _key(self) -> str:
        digest = hashlib.sha256(repr(self.shape).encode())
        for split in SPLITS:
            digest.update(split.encode() + self.of(split).tobytes())
        return digest.hexdigest()


def settled_layout(layout: Layout, numbers: NDArray[np.int64]) -> Layout:
    """With the training split in the order for which the fewest images move.

    Args:
        numbers: int64 [N], ascending, of the layout's items among all of the source.
    """
    training = len(layout.members("train"))
    found = np.searchsorted(numbers, settled(numbers[layout.order[:training]]))
    return dataclasses.replace(layout, order=np.concatenate([found, layout.order[training:]]))
