"""Items decoded chunk by chunk into one file: an interrupted preparation goes on with the next one."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.console import get_console
from scaledl.data.prepare.image_file import ImageFile
from scaledl.data.prepare.images import (
    BadImageError,
    Pixels,
    Target,
    decode_image,
    pixels_of,
    quiet_images,
    thumbnail,
)
from scaledl.data.prepare.items import Dropped, Item
from scaledl.data.prepare.store import MOVING
from scaledl.run.files import atomic_file, atomic_json
from scaledl.run.machine import num_cpus

PLAN = "plan.json"
_CHUNK_BYTES = 32 << 20
_MOST_ROWS = 4096
_TASK, _TASK_BYTES = 16, 4 << 20  # what a thread takes at a time: items, and bytes but that it is one item
_AHEAD = 4  # chunks that are being decoded: a slow disk lets nobody wait
_PARTS = ("rows", "digests", "thumbnails", "looks", "reasons")
_Found = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What is known of all items that could be read, in the order of the source.

    Attributes:
        rows: int64 [N], numbers among the source's items.
        digests: uint8 [N, 32], SHA-256 of the pixels.
        thumbnails: uint8 [N, 256], 16x16 pixels each.
        looks: int64 [N, 3], height and width as they were, and 1 for an image without colour.
        dropped: those that could not be read.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    looks: NDArray[np.int64]
    dropped: Sequence[Dropped]


class Chunks:
    """The work folder of one preparation. `plan` says what it is for; files of another plan are thrown away.

    The pixels lie in one file, each item's in the place of its number; what is known of the items in one file for each
    chunk, written when its pixels are on the disk.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], items: Sequence[Item], target: Target) -> None:
        self._folder, self._items, self._target = folder, items, target
        shape = (target.height, target.width, target.channels)
        self._rows = max(16, min(_MOST_ROWS, _CHUNK_BYTES // int(np.prod(shape))))
        self._each = max(1, min(_TASK, _TASK_BYTES // int(np.prod(shape))))
        self._plan = json.loads(json.dumps(plan))
        self._start(anew=folder.exists() and _read_plan(folder) != self._plan)
        self.images = ImageFile(folder / "images.npy", len(items), shape)
        self._buffers = threading.local()

    def __len__(self) -> int:
        return -(-len(self._items) // self._rows)

    def decode_all(self, config: PrepareConfig) -> Decoded:
        """Decode what is not there yet, on all cores, and read what is known of all.

        Threads are enough: Pillow lets others work while it decodes.
        """
        there = [self._read(number) for number in range(len(self))]
        if self._moving and None in there:
            self._start(anew=True)
            there = [None] * len(self)
        done = sum(self._size(number) for number, parts in enumerate(there) if parts is not None)
        if done:
            get_console().info(f"going on: {done:,} of {len(self._items):,} items were read before")
        missing = [number for number, parts in enumerate(there) if parts is None]
        with get_console().progress("read", len(self._items), unit="item", done=done) as progress:
            for number, parts in self._decode(missing, config):
                there[number] = parts
                progress.advance(self._size(number))
        return self._joined([parts for parts in there if parts is not None])

    def _decode(self, numbers: Sequence[int], config: PrepareConfig) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """One chunk after the other, the next one begun before the one before is finished."""
        if not numbers:
            return
        rest, begun = deque(numbers), deque[tuple[int, list[Future[list[_Found | str]]]]]()
        with quiet_images(), self.images.writing(), ThreadPoolExecutor(num_cpus()) as pool:
            try:
                while rest or begun:
                    while rest and len(begun) < _AHEAD:
                        begun.append((rest[0], self._begin(rest.popleft(), pool, config)))
                    number, tasks = begun.popleft()
                    yield number, self._finish(number, [one for task in tasks for one in task.result()])
            finally:
                pool.shutdown(cancel_futures=True)

    def _size(self, number: int) -> int:
        return min(self._rows, len(self._items) - number * self._rows)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def _begin(self, number: int, pool: ThreadPoolExecutor, config: PrepareConfig) -> list[Future[list[_Found | str]]]:
        start = number * self._rows
        stop = start + self._size(number)
        return [
            pool.submit(self._some, first, min(first + self._each, stop), config)
            for first in range(start, stop, self._each)
        ]

    def _some(self, start: int, stop: int, config: PrepareConfig) -> list[_Found | str]:
        """Decode some items into the file; of each what is known of it, or why it is not taken."""
        found: list[_Found | str] = []
        pixels = self._buffer()[: stop - start]
        for item, place in zip(self._items[start:stop], pixels, strict=True):
            try:
                image, seen = decode_image(item.content, self._target, config)
            except BadImageError as error:
                found.append(str(error))
                place[:] = 0
                continue
            place[:] = pixels_of(image)
            digest = np.frombuffer(hashlib.sha256(place.data).digest(), np.uint8)
            found.append((digest, thumbnail(image), (seen.height, seen.width, int(seen.grey))))
        self.images.write(start, pixels)
        return found

    def _buffer(self) -> Pixels:
        """Of this thread, and always the same: new memory costs more than what is written to it."""
        if not hasattr(self._buffers, "pixels"):
            shape = (self._each, self._target.height, self._target.width, self._target.channels)
            self._buffers.pixels = np.empty(shape, np.uint8)
        buffer: Pixels = self._buffers.pixels
        return buffer

    def _finish(self, number: int, found: Sequence[_Found | str]) -> dict[str, NDArray[Any]]:
        """Write what is known of a chunk, once its pixels are on the disk."""
        start = number * self._rows
        good = [i for i, one in enumerate(found) if not isinstance(one, str)]
        known = [one for one in found if not isinstance(one, str)]
        bad = {str(start + i): one for i, one in enumerate(found) if isinstance(one, str)}
        parts: dict[str, NDArray[Any]] = {
            "rows": np.array(good, np.int64) + start,
            "digests": np.array([one[0] for one in known], np.uint8).reshape(-1, 32),
            "thumbnails": np.array([one[1] for one in known], np.uint8).reshape(-1, 256),
            "looks": np.array([one[2] for one in known], np.int64).reshape(-1, 3),
            "reasons": np.frombuffer(json.dumps(bad).encode(), np.uint8),
        }
        self.images.sync()
        with _new_file(self._path(number)) as file:
            np.savez(file, allow_pickle=False, **parts)
        return parts

    def _read(self, number: int) -> dict[str, NDArray[Any]] | None:
        """What is known of a chunk; None where it, or its pixels, are not there or not whole."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                parts = {name: file[name] for name in _PARTS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        whole = self._moving or self.images.holds(number * self._rows + self._size(number))
        return parts if whole else None

    @property
    def _moving(self) -> bool:
        """Whether all was decoded, and images are no longer where they were written."""
        return (self._folder / MOVING).exists()

    def _start(self, *, anew: bool) -> None:
        if anew:
            discard(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_json(self._folder / PLAN, self._plan)

    def _joined(self, parts: Sequence[dict[str, NDArray[Any]]]) -> Decoded:
        reasons = {int(row): why for part in parts for row, why in json.loads(part["reasons"].tobytes()).items()}
        dropped = [Dropped(self._items[row].key, why) for row, why in reasons.items()]
        rows, digests, thumbnails, looks = (np.concatenate([part[name] for part in parts]) for name in _PARTS[:4])
        return Decoded(rows, digests, thumbnails, looks, dropped)


def discard(folder: Path) -> None:
    """Remove what was begun in a work folder, but for the plan, which shows whose it is.

    By their names what is known of chunks goes before images, and these before the word that they are being moved: so
    what is left by an interruption is taken for what it is.
    """
    for path in sorted(folder.iterdir()):
        if path.name != PLAN:
            path.unlink()


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    with atomic_file(path, "part of the data set") as temporary, temporary.open("wb") as file:
        yield file


def _read_plan(folder: Path) -> Any:
    try:
        return json.loads((folder / PLAN).read_bytes())
    except (OSError, ValueError):
        return None
