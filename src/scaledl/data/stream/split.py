"""The training split of a prepared data set that was made in shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from scaledl.data.balance import AGAIN, balanced_order
from scaledl.data.stored import Form
from scaledl.data.stream.chosen import Chosen
from scaledl.data.stream.order import Order
from scaledl.data.stream.reader import Reader
from scaledl.data.stream.samples import Samples, gathered
from scaledl.data.stream.shard import Shard, ShardFile
from scaledl.data.windows import ANOTHER


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples in shards, of which few are in memory at a time.

    Attributes:
        files: the shards, as they were made.
        form: what they hold of a sample.
        samples: what that becomes.
        find_fn: a shard's file -> its path on this machine, fetched if need be, and what keeps it there while open.
        spread: shards that are shuffled among each other at a time.
        ahead: shards that are opened before their turn.
        opened_fn: makes other samples of what was opened; and
        sizes: how many there are in each shard then. None: its rows.
        index_fn: ids and labels of all samples, where they are known without the shards.
        check_fn: (samples of each shard) -> raises UsageError where more shards are open at a time than there is room.
        chosen: of the samples those that are used; None is all.
    """

    files: Sequence[ShardFile]
    form: Form
    samples: Samples
    find_fn: Callable[[ShardFile], tuple[Path, IO[bytes] | None]]
    spread: int
    ahead: int
    opened_fn: Callable[[int, Shard], None] | None = None
    sizes: Sequence[int] | None = None
    index_fn: Callable[[], tuple[Tensor, Tensor]] | None = None
    check_fn: Callable[[Sequence[int]], None] | None = None
    chosen: Chosen | None = None

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return sum(self.counts)

    @cached_property
    def counts(self) -> Sequence[int]:
        """Samples of each shard."""
        if self.chosen is not None:
            return self.chosen.counts
        return self.sizes if self.sizes is not None else [file.rows for file in self.files]

    def open(self, number: int) -> Shard:
        """Raises UsageError for a shard that is missing, damaged, or cannot be fetched."""
        file = self.files[number]
        path, held = self.find_fn(file)
        shard = Shard(path, file, self.form, held)
        if self.opened_fn is not None:
            self.opened_fn(number, shard)
        return shard

    def reader(self, seed: int, epoch: int, *, shuffle: bool = True, balanced: bool = False) -> Reader:
        """Close it after use. `balanced`: of every class equally many, as `balanced_order` draws them of arrays."""
        chosen = self._drawn(seed, epoch) if balanced else self.chosen
        counts = self.counts if chosen is None else chosen.counts
        order = Order(counts, self.spread if shuffle else 0, seed, epoch, chosen)
        return Reader(self.open, self.samples, order, self.ahead)

    def keeping(self, places: Tensor, labels: Tensor, numbers: Tensor) -> Stream:
        """Some samples alone, with other labels.

        Args:
            places: int64 [K], in the order of the shards, ascending.
            labels: int64 [K], as they are counted anew.
            numbers: int64 [C + 1], what becomes of a label; the last one of NO_CLASS.

        Raises:
            UsageError: more shards would be open at a time than there is room for.
        """
        ids = self.ids[places]

        def counted_anew(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
            return numbers[gathered(shards, rows, "labels")]

        chosen = Chosen.of(places, self.counts)
        if self.check_fn is not None:
            self.check_fn([count for count in chosen.counts if count])
        samples = dataclasses.replace(self.samples, labels_fn=counted_anew)
        return dataclasses.replace(self, samples=samples, chosen=chosen, index_fn=lambda: (ids, labels))

    def _drawn(self, seed: int, epoch: int) -> Chosen:
        draws = balanced_order(self.labels[self.by_id], seed, epoch)
        rows = draws % AGAIN
        return Chosen.of(self.by_id[rows], self.counts, draws - rows, self.chosen)

    def shards(self) -> Iterator[Shard]:
        """One after the other, as they lie."""
        return (self.open(number) for number in range(len(self.files)))

    @cached_property
    def labels(self) -> Tensor:
        """[N, ...], in the order of the shards; reads all of them where there is no index."""
        if self._index is not None:
            return self._index[1]
        return torch.cat([self.samples.labels_of(shard) for shard in self.shards()])

    @cached_property
    def ids(self) -> Tensor:
        """int64 [N], as `labels`."""
        if self._index is not None:
            return self._index[0]
        return torch.cat([shard.parts["ids"].clone() for shard in self.shards()])

    @cached_property
    def by_id(self) -> Tensor:
        """int64 [N]: places of the samples in the order that they have in arrays: by id, windows of a text together."""
        order = self.ids.argsort()
        return order[(self.ids[order] % ANOTHER).argsort(stable=True)]

    @cached_property
    def _index(self) -> tuple[Tensor, Tensor] | None:
        return None if self.index_fn is None else self.index_fn()

    @property
    def has_index(self) -> bool:
        """Whether labels and ids are known without the shards."""
        return self.index_fn is not None
