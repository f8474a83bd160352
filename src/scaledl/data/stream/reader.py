"""Samples of a stream by their position in an epoch, from shards that are opened ahead of their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from scaledl.data.arrays import Arrays
from scaledl.data.stream.chosen import plain
from scaledl.data.stream.order import Located, Order
from scaledl.data.stream.samples import Samples
from scaledl.data.stream.shard import Shard

OpenFn = Callable[[int], Shard]


class Reader:
    """Of one epoch, forwards.

    At most `order.spread + ahead` shards are open at a time, and one more for each further block that a batch reaches.

    Args:
        open_fn: opens the shard of a number.
        samples: what its rows become.
        ahead: blocks whose new shards are opened before their turn, in threads.
    """

    def __init__(self, open_fn: OpenFn, samples: Samples, order: Order, ahead: int) -> None:
        self._open_fn, self._samples, self._order, self._ahead = open_fn, samples, order, ahead
        self._threads = ThreadPoolExecutor(max(2, ahead), "scaledl-stream")
        self._open: dict[int, Future[Shard]] = {}
        self._block = -1

    def read(self, start: int, stop: int, rank: int, world_size: int, room: Arrays) -> tuple[Located, int]:
        """Put a rank's share of the samples at start..stop-1 into the first places of the room.

        Returns where they lie, and how many they are; where that is none, one other sample is put there.

        Raises UsageError for a shard that cannot be read.
        """
        size = stop - start
        begin, end = size * rank // world_size, size * (rank + 1) // world_size
        shards, rows = self._order.locate(start, stop)
        mine = slice(begin, end) if end > begin else slice(0, 1)
        self._go_to(self._order.block_of(start), self._order.block_of(stop - 1), (rank, world_size))
        located = Located(shards[mine], rows[mine])
        self.fill(located, room)
        return located, end - begin

    def fill(self, located: Located, room: Arrays) -> None:
        """Put samples of shards that are open into the first places of the room."""
        numbers, counts = located.shards.unique_consecutive(return_counts=True)
        size = len(located.rows)
        places = Arrays(room.inputs[:size], room.labels[:size], room.ids[:size])
        self._samples.fill(places, self._shards(numbers.tolist()), plain(located.rows).split(counts.tolist()))

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

    def _shards(self, numbers: list[int]) -> list[Shard]:
        self._begin(numbers)
        return [self._open[number].result() for number in numbers]
