"""The training split of a prepared data set that was made in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from scaledl.data.stored import Form
from scaledl.data.stream.order import Order
from scaledl.data.stream.reader import Reader
from scaledl.data.stream.samples import Samples
from scaledl.data.stream.shard import Shard, ShardFile


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
    """

    files: Sequence[ShardFile]
    form: Form
    samples: Samples
    find_fn: Callable[[ShardFile], tuple[Path, IO[bytes] | None]]
    spread: int
    ahead: int
    opened_fn: Callable[[int, Shard], None] | None = None
    sizes: Sequence[int] | None = None

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return sum(self.counts)

    @cached_property
    def counts(self) -> Sequence[int]:
        """Samples of each shard."""
        return self.sizes if self.sizes is not None else [file.rows for file in self.files]

    def open(self, number: int) -> Shard:
        """Raises UsageError for a shard that is missing, damaged, or cannot be fetched."""
        file = self.files[number]
        path, held = self.find_fn(file)
        shard = Shard(path, file, self.form, held)
        if self.opened_fn is not None:
            self.opened_fn(number, shard)
        return shard

    def reader(self, seed: int, epoch: int, *, shuffle: bool = True) -> Reader:
        """Close it after use."""
        order = Order(self.counts, self.spread if shuffle else 0, seed, epoch)
        return Reader(self.open, self.samples, order, self.ahead)

    def shards(self) -> Iterator[Shard]:
        """One after the other, as they lie."""
        return (self.open(number) for number in range(len(self.files)))

    @cached_property
    def labels(self) -> Tensor:
        """[N, ...], in the order of the shards; reads all of them."""
        return torch.cat([self.samples.labels_of(shard) for shard in self.shards()])

    @cached_property
    def ids(self) -> Tensor:
        """int64 [N], as `labels`."""
        return torch.cat([shard.parts["ids"].clone() for shard in self.shards()])
