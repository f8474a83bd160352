"""The order of a stream's samples: a function of seed and epoch, found piece by piece, from any place on.

Shards come in a shuffled order, and each is spread evenly over the `spread` blocks that begin with its own: of its
rows, shuffled, each of these blocks gets a near-equal part. So a block holds rows of `spread` shards, itself in a
shuffled order, and with every block one shard begins and one ends: reading never waits for a whole window. (Spreading
shards is the idea of MosaicML Streaming's `py1e`; here the place of every sample follows from counts alone.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from scaledl.data.hashing import ORDER, generator
from scaledl.data.stream.chosen import Chosen

SHARDS, ROWS, BLOCK = range(3)


class Located(NamedTuple):
    """Where samples lie: numbers of shards, and of rows in them, int64 [K], plus AGAIN for each time that a row came
    before in the epoch. Those of a shard are together."""

    shards: Tensor
    rows: Tensor


class Order:
    """Of one epoch.

    Args:
        counts: rows of every shard.
        spread: blocks over which a shard is spread; 0 keeps shards and rows as they lie.
        chosen: which rows of the shards these are; None is all.
    """

    def __init__(self, counts: Sequence[int], spread: int, seed: int, epoch: int, chosen: Chosen | None = None) -> None:
        self.spread, self._chosen = max(1, spread), chosen
        self._counts, self._seed, self._epoch, self._shuffled = torch.tensor(counts), seed, epoch, spread > 0
        self._sequence = self._permutation(len(counts), SHARDS)
        sizes = self._counts[self._sequence].unsqueeze(1)
        cuts = sizes * torch.arange(self.spread + 1) // self.spread  # [S, spread + 1]: rows before each part
        blocks = torch.arange(len(counts)).unsqueeze(1) + torch.arange(self.spread)
        sizes_of_blocks = torch.zeros(len(counts) + self.spread - 1, dtype=torch.int64)
        self._ends = sizes_of_blocks.index_add_(0, blocks.flatten(), cuts.diff(dim=1).flatten()).cumsum(0)
        self._cuts = cuts
        self._block = lru_cache(4)(self._new_block)

    def locate(self, start: int, stop: int) -> Located:
        """The samples at the positions start..stop-1 of the epoch.

        They are sorted by a shard's place among those that are open at a time, which it keeps: so the same share of any
        batch, as a rank takes it, falls on few shards, and on the same ones from batch to batch.
        """
        first, last = self.block_of(start), self.block_of(stop - 1)
        blocks = [self._block(number) for number in range(first, last + 1)]
        begin = int(self._ends[first - 1]) if first else 0
        places, rows = (torch.cat(parts)[start - begin : stop - begin] for parts in zip(*blocks, strict=True))
        if self._shuffled:
            sorted_ = (places % self.spread * len(self._counts) + places).argsort(stable=True)
            places, rows = places[sorted_], rows[sorted_]
        shards = self._sequence[places]
        return Located(shards, rows if self._chosen is None else self._chosen.rows_of(shards, rows))

    def block_of(self, position: int) -> int:
        """Number of the block in which the position lies."""
        return int(torch.searchsorted(self._ends, position, right=True))

    def shards_of(self, block: int) -> list[int]:
        """Shards that have rows in a block, and later ones; the newest last. Behind the last block there are none."""
        return [int(shard) for shard in self._sequence[max(0, block - self.spread + 1) : block + 1]]

    def beginning(self, block: int, share: tuple[int, int]) -> list[int]:
        """Shards that begin with a block, if the share (of, parts) of a batch falls on their place."""
        place, (part, parts) = block % self.spread, share
        touched = place * parts < (part + 1) * self.spread and (place + 1) * parts > part * self.spread
        return [int(shard) for shard in self._sequence[block : block + 1] if self._counts[shard]] if touched else []

    def _new_block(self, number: int) -> tuple[Tensor, Tensor]:
        """Places of shards in their order, and rows, both int64 [size of the block]."""
        places, rows = [], []
        for place in range(max(0, number - self.spread + 1), min(number + 1, len(self._counts))):
            shard, (begin, end) = int(self._sequence[place]), self._cuts[place, number - place :][:2].tolist()
            rows.append(self._permutation(int(self._counts[shard]), ROWS, shard)[begin:end])
            places.append(torch.full((end - begin,), place))
        mixed = self._permutation(sum(map(len, rows)), BLOCK, number)
        return torch.cat(places)[mixed], torch.cat(rows)[mixed]

    def _permutation(self, size: int, *parts: int) -> Tensor:
        if not self._shuffled:
            return torch.arange(size)
        return torch.randperm(size, generator=generator(self._seed, self._epoch, ORDER, *parts))
