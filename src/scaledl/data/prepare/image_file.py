"""Decoded images in one file, which becomes the training split's array where it lies: its pixels are written once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.images import Pixels
from scaledl.data.prepare.store import write_npy_header
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file, sha256_file, storage_errors, sync_directory
from scaledl.run.machine import num_cpus

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_WHAT = "part of the data set"
_BLOCK_BYTES, _HASHED_BYTES = 8 << 20, 1 << 20
_UINT8 = np.dtype(np.uint8)


class ImageFile:
    """uint8 [count, height, width, channels] as a .npy file, written in any order and by several threads.

    `settle` moves what is behind the end of a smaller array into the places that are free before it. Interrupted, it
    can be done again: what is overwritten is needed no more, and what is moved stays where it was until all is done.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...]) -> None:
        self._path, self._count, self._shape = path, count, shape
        self._row, self._head = int(np.prod(shape)), len(_header((count, *shape)))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside of it images may be written."""
        with self._opened():
            self._write(0, _header((self._count, *self._shape)))
            yield

    def write(self, start: int, pixels: Pixels) -> None:
        """Put contiguous images [K, H, W, C] into the places from `start` on."""
        self._write(self._head + start * self._row, pixels.data.cast("B"))

    def sync(self) -> None:
        with storage_errors(self._path, _WHAT):
            os.fsync(self._descriptor)

    def holds(self, count: int) -> bool:
        """Whether the file is long enough for so many images."""
        return self._path.exists() and self._path.stat().st_size >= self._head + count * self._row

    def gather(self, numbers: NDArray[np.int64], channels: int) -> Pixels:
        """The images in these places, of which the first `channels`: uint8 [K, H, W, C]."""
        found = np.empty((len(numbers), *self._shape), np.uint8)
        with storage_errors(self._path, _WHAT), self._path.open("rb", buffering=0) as file:
            for image, number in zip(found, numbers.tolist(), strict=True):
                size = os.preadv(file.fileno(), [image.data], self._head + number * self._row)
                if size < self._row:
                    raise UsageError(f"{self._path}: was cut short by others; fix: repeat the command")
        return found if channels == self._shape[2] else np.ascontiguousarray(found[..., :channels])

    def copy(self, numbers: NDArray[np.int64], channels: int, path: Path) -> str:
        """Write these images as an array of their own. Returns the SHA-256 of its file."""
        header = _header((len(numbers), *self._shape[:2], channels))
        digest = hashlib.sha256(header)
        with (
            atomic_file(path, "data set") as temporary,
            temporary.open("wb") as file,
            ThreadPoolExecutor(1) as pool,
        ):
            file.write(header)
            hashed: Future[None] | None = None
            for block in self._blocks(numbers):
                pixels = self.gather(block, channels)
                file.write(pixels.data)
                if hashed is not None:
                    hashed.result()
                hashed = pool.submit(digest.update, pixels.data)
        return digest.hexdigest()

    def settle(self, numbers: NDArray[np.int64], path: Path) -> str:
        """Become the array of these images, as `settled` has put them in order, at another path. Returns the SHA-256 of
        its file."""
        if not self._path.exists():  # an interrupted call came so far
            found = sha256_file(path)
        else:
            with self._opened():
                found = self._shrink(numbers)
            self._path.replace(path)
            sync_directory(path.parent)
        self._path, self._count = path, len(numbers)
        return found

    def _shrink(self, numbers: NDArray[np.int64]) -> str:
        """Images that are where they belong are hashed while others are moved behind them, and while the disk syncs."""
        header = _header((len(numbers), *self._shape))
        size, digest, done = self._head + len(numbers) * self._row, hashlib.sha256(header), 0
        with ThreadPoolExecutor(num_cpus()) as pool:
            try:
                if self._path.stat().st_size > size:  # else all is there, and behind it nothing is left
                    moved = self._blocks(np.flatnonzero(numbers != np.arange(len(numbers))))
                    ends = [int(block[-1]) + 1 for block in moved]
                    moves = pool.map(lambda block: self._move(numbers[block], block), moved)
                    for end, _ in zip(ends, moves, strict=True):
                        self._hash(digest, done, end)
                        done = end
                synced = pool.submit(self.sync)
                self._hash(digest, done, len(numbers))
                synced.result()
            finally:
                pool.shutdown(cancel_futures=True)  # an interruption does not wait for the rest
        self._write(0, header)
        with storage_errors(self._path, _WHAT):
            os.truncate(self._descriptor, size)
        self.sync()
        return digest.hexdigest()

    def _move(self, numbers: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        for place, image in zip(places.tolist(), self.gather(numbers, self._shape[2]), strict=True):
            self.write(place, image)

    def _hash(self, digest: Hash, start: int, stop: int) -> None:
        """Add the images from `start` to `stop`."""
        buffer = memoryview(bytearray(_HASHED_BYTES))
        offset, end = (self._head + number * self._row for number in (start, stop))
        while offset < end:
            with storage_errors(self._path, _WHAT):
                size = os.preadv(self._descriptor, [buffer[: end - offset]], offset)
            if not size:
                raise UsageError(f"{self._path}: was cut short by others; fix: repeat the command")
            digest.update(buffer[:size])
            offset += size

    def _blocks(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Parts that fit into memory."""
        count = -(-len(numbers) * self._row // _BLOCK_BYTES)
        return np.array_split(numbers, count) if count else []

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with storage_errors(self._path, _WHAT):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield
        finally:
            os.close(self._descriptor)

    def _write(self, offset: int, data: memoryview | bytes) -> None:
        with storage_errors(self._path, _WHAT):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written


def settled(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of N different numbers an order in which those below N stand in the place that they say, the others in the rest.

    >>> settled(np.array([0, 2, 3, 7, 9])).tolist()
    [0, 7, 2, 3, 9]
    """
    numbers = np.sort(numbers)
    places = np.arange(len(numbers))
    staying = numbers[numbers < len(numbers)]
    order = places.copy()
    order[np.setdiff1d(places, staying, assume_unique=True)] = numbers[len(staying) :]
    return order


def _header(shape: tuple[int, ...]) -> bytes:
    file = BytesIO()
    write_npy_header(file, _UINT8, shape)
    return file.getvalue()
