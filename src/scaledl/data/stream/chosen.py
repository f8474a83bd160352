"""Some of a stream's samples: of some classes, so many of each, or of every class equally many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scaledl.data.balance import AGAIN


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples in the order of their shards.

    Attributes:
        rows: int64 [K], of each its row in its shard, plus AGAIN for each time that it came before.
        counts: of every shard, how many there are.
    """

    rows: Tensor
    counts: Sequence[int]

    @classmethod
    def of(
        cls, places: Tensor, counts: Sequence[int], again: Tensor | None = None, among: Chosen | None = None
    ) -> Chosen:
        """Those at some places among all samples, or `among` those that are chosen.

        Args:
            places: int64 [K], in any order.
            counts: of what the places are in, of every shard.
            again: int64 [K], a multiple of AGAIN for each.
        """
        again = torch.zeros_like(places) if again is None else again
        order = torch.argsort(again, stable=True)
        order = order[torch.argsort(places[order], stable=True)]
        places, again = places[order], again[order]
        ends = torch.tensor(counts).cumsum(0)
        shards = torch.searchsorted(ends, places, right=True)
        rows = places - (ends - torch.tensor(counts))[shards] if among is None else among.rows[places]
        return cls(rows + again, shards.bincount(minlength=len(counts)).tolist())

    def rows_of(self, shards: Tensor, numbers: Tensor) -> Tensor:
        """Of samples that are these of their shards, both int64 [B], the rows."""
        return self.rows[self._begins[shards] + numbers]

    @cached_property
    def _begins(self) -> Tensor:
        counts = torch.tensor(self.counts)
        return counts.cumsum(0) - counts


def plain(rows: Tensor) -> Tensor:
    """The rows alone, without how often they came before."""
    return rows % AGAIN
