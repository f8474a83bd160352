"""Items decoded chunk by chunk, each in a file of its own: an interrupted preparation goes on with the next one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
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
from scaledl.data.prepare.images import BadImageError, Pixels, Target, decode, thumbnail
from scaledl.data.prepare.items import Dropped, Item
from scaledl.data.prepare.store import write_npy
from scaledl.run.files import atomic_file, atomic_json

PLAN = "plan.json"
_CHUNK_BYTES = 32 << 20
_MOST_ROWS = 4096
_TASK = 16  # items that a thread takes at a time
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


@dataclass(frozen=True, eq=False)
class _Begun:
    """A chunk that is being decoded: where its pixels go, and what will be known of each item."""

    number: int
    pixels: Pixels
    found: list[Future[list[_Found | str]]]


class Chunks:
    """The work folder of one preparation. `plan` says what it is for; files of another plan are thrown away."""

    def __init__(self, folder: Path, plan: dict[str, Any], items: Sequence[Item], target: Target) -> None:
        self._folder, self._items, self._target = folder, items, target
        self._known_rows: dict[int, NDArray[np.int64]] = {}
        self._rows = max(16, min(_MOST_ROWS, _CHUNK_BYTES // (target.height * target.width * target.channels)))
        known = json.loads(json.dumps(plan))
        if folder.exists() and _read_plan(folder) != known:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_json(folder / PLAN, known)

    def __len__(self) -> int:
        return -(-len(self._items) // self._rows)

    @property
    def num_items(self) -> int:
        return len(self._items)

    def decode_all(self, config: PrepareConfig) -> Decoded:
        """Decode what is not there yet, on all cores, and read what is known of all.

        Threads are enough: Pillow lets others work while it decodes.
        """
        there = [self._read(number) for number in range(len(self))]
        done = sum(self._size(number) for number, parts in enumerate(there) if parts is not None)
        if done:
            get_console().info(f"going on: {done:,} of {len(self._items):,} items were read before")
        progress = get_console().progress("read", len(self._items), unit="item", done=done)
        with progress, ThreadPoolExecutor(_num_cpus()) as pool:
            missing = [number for number, parts in enumerate(there) if parts is None]
            begun = [self._begin(number, pool, config) for number in missing[:1]]
            for i, number in enumerate(missing):
                # The next one is decoded while this one is written.
                begun += [self._begin(following, pool, config) for following in missing[i + 1 : i + 2]]
                there[number] = self._finish(begun.pop(0))
                progress.advance(self._size(number))
        return self._joined([parts for parts in there if parts is not None])

    def pixels(self) -> Iterator[tuple[NDArray[np.int64], Pixels]]:
        """Chunk by chunk: numbers among the source's items, and uint8 [K, H, W, C]."""
        for number in range(len(self)):
            with np.load(self._path(number), allow_pickle=False) as file:
                rows = file["rows"]
            yield rows, np.load(self._path(number, ".npy"), mmap_mode="r", allow_pickle=False)

    def gather(self, numbers: NDArray[np.int64], channels: int) -> Pixels:
        """The images of these of the source's items, of which the first `channels`: uint8 [K, H, W, C]."""
        pixels = np.empty((len(numbers), self._target.height, self._target.width, channels), np.uint8)
        chunks = numbers // self._rows
        for chunk in np.unique(chunks).tolist():
            chosen = np.flatnonzero(chunks == chunk)
            rows = np.searchsorted(self._rows_of(chunk), numbers[chosen])
            by_place = rows.argsort()
            found = np.load(self._path(chunk, ".npy"), mmap_mode="r", allow_pickle=False)
            pixels[chosen[by_place]] = found[rows[by_place]][..., :channels]
        return pixels

    def _rows_of(self, chunk: int) -> NDArray[np.int64]:
        """Numbers of the items that are in a chunk, ascending."""
        if chunk not in self._known_rows:
            with np.load(self._path(chunk), allow_pickle=False) as file:
                self._known_rows[chunk] = file["rows"]
        return self._known_rows[chunk]

    def _size(self, number: int) -> int:
        return min(self._rows, len(self._items) - number * self._rows)

    def _path(self, number: int, suffix: str = ".npz") -> Path:
        return self._folder / f"{number:06d}{suffix}"

    def _begin(self, number: int, pool: ThreadPoolExecutor, config: PrepareConfig) -> _Begun:
        start, size = number * self._rows, self._size(number)
        pixels = np.empty((size, self._target.height, self._target.width, self._target.channels), np.uint8)
        tasks = [
            pool.submit(self._some, self._items[start + i : start + min(size, i + _TASK)], pixels[i:], config)
            for i in range(0, size, _TASK)
        ]
        return _Begun(number, pixels, tasks)

    def _some(self, items: Sequence[Item], pixels: Pixels, config: PrepareConfig) -> list[_Found | str]:
        """Decode into the rows of `pixels`; of each item what is known of it, or why it is not taken."""
        found: list[_Found | str] = []
        for item, place in zip(items, pixels, strict=False):
            try:
                place[:], seen = decode(item.content, self._target, config)
            except BadImageError as error:
                found.append(str(error))
                continue
            digest = np.frombuffer(hashlib.sha256(place.data).digest(), np.uint8)
            found.append((digest, thumbnail(place), (seen.height, seen.width, int(seen.grey))))
        return found

    def _finish(self, begun: _Begun) -> dict[str, NDArray[Any]]:
        """Write the chunk's pixels, then what is known of them."""
        start = begun.number * self._rows
        found = [one for task in begun.found for one in task.result()]
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
        pixels = begun.pixels if not bad else begun.pixels[good]
        with _new_file(self._path(begun.number, ".npy")) as file:
            write_npy(file, pixels)
        with _new_file(self._path(begun.number)) as file:
            np.savez(file, allow_pickle=False, **parts)
        return parts

    def _read(self, number: int) -> dict[str, NDArray[Any]] | None:
        """What is known of a chunk; None where it, or its pixels, are not there or not whole."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                parts = {name: file[name] for name in _PARTS}
            pixels = np.load(self._path(number, ".npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return parts if len(pixels) == len(parts["rows"]) else None

    def _joined(self, parts: Sequence[dict[str, NDArray[Any]]]) -> Decoded:
        reasons = {int(row): why for part in parts for row, why in json.loads(part["reasons"].tobytes()).items()}
        dropped = [Dropped(self._items[row].key, why) for row, why in reasons.items()]
        rows, digests, thumbnails, looks = (np.concatenate([part[name] for part in parts]) for name in _PARTS[:4])
        return Decoded(rows, digests, thumbnails, looks, dropped)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    with atomic_file(path, "part of the data set") as temporary, temporary.open("wb") as file:
        yield file


def _read_plan(folder: Path) -> Any:
    try:
        return json.loads((folder / PLAN).read_bytes())
    except (OSError, ValueError):
        return None


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
