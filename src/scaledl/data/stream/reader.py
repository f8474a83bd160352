"""Samples of a stream by their position in an epoch, from shards that are opened ahead of their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from scaledl.data.arrays import Arrays
from scaledl.data.stream.order import Located, Order
from scaledl.data.stream.shard import Shard

OpenFn = Callable[[int], Shard]


class Reader:
    """Of one epoch, forwards.

    At most `order.spread + ahead` shards are open at a time, and one more for each further block that a batch reaches.

    Args:
        open_fn: opens the shard of a number.
        ahead: blocks whose new shards are opened before their turn, in threads.
    """

    def __init__(self, open_fn: OpenFn, order: Order, ahead: int) -> None:
        self._open_fn, self._order, self._ahead = open_fn, order, ahead
        self._threads = ThreadPoolExecutor(max(2, ahead), "scaledl-stream")
        self._open: dict[int, Future[Shard]] = {}
        self._block, self._buffer = -1, torch.empty(0, dtype=torch.uint8)

    def read(self, start: int, stop: int, rank: int, world_size: int) -> tuple[Arrays, int]:
        """A rank's share of the samples at start..stop-1, and how many they are; where that is none, one other sample.

        The images are there until the next call.

        Raises UsageError for a shard that cannot be read.
        """
        size = stop - start
        begin, end = size * rank // world_size, size * (rank + 1) // world_size
        shards, rows = self._order.locate(start, stop)
        mine = slice(begin, end) if end > begin else slice(0, 1)
        self._go_to(self._order.block_of(start), self._order.block_of(stop - 1), (rank, world_size))
        return self._gathered(Located(shards[mine], rows[mine])), end - begin

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._open.clear()

    def _go_to(self, block: int, last: int, share: tuple[int, int]) -> None:
        """Let go of what ended before `block`, and begin to open what will be needed."""
        if last == self._block:
            return
        wanted = {shard for number in range(block, last + 1) for shard in self._order.shards_of(number)}
        coming = [
            shard
            for number in range(last + 1, last + 1 + self._ahead)
            for shard in self._order.beginning(number, share)
        ]
        for shard in self._open.keys() - wanted - set(coming):
            self._open.pop(shard).cancel()
        self._begin(coming)
        self._block = last

    def _begin(self, shards: Iterable[int]) -> None:
        for shard in shards:
            if shard not in self._open:
                self._open[shard] = self._threads.submit(self._open_fn, shard)

    def _gathered(self, located: Located) -> Arrays:
        numbers, counts = located.shards.unique_consecutive(return_counts=True)
        found, rows = self._shards(numbers.tolist()), located.rows.split(counts.tolist())
        images = self._room(len(located.rows), found[0].images.shape[1:])
        labels, ids = torch.empty((2, len(located.rows)), dtype=torch.int64)
        for part, result in (("images", images), ("labels", labels), ("ids", ids)):
            _gather([getattr(shard, part) for shard in found], rows, result)
        return Arrays(images, labels, ids)

    def _room(self, count: int, shape: Sequence[int]) -> Tensor:
        """For images uint8 [count, H, W, C]. Always the same: pages of fresh memory cost more than what is copied."""
        if len(self._buffer) < count:
            self._buffer = torch.empty((count, *shape), dtype=torch.uint8)
        return self._buffer[:count]

    def _shards(self, numbers: list[int]) -> list[Shard]:
        self._begin(numbers)
        return [self._open[number].result() for number in numbers]


def _gather(values: Sequence[Tensor], rows: Sequence[Tensor], result: Tensor) -> None:
    """Of each tensor its rows, one after the other."""
    for value, part, place in zip(values, rows, result.split([len(part) for part in rows]), strict=True):
        # NumPy's: one thread, which is as fast as memory, and leaves the other cores to those that compute.
        np.take(value.numpy(), part.numpy(), axis=0, out=place.numpy(), mode="clip")
