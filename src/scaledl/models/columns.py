"""Columns of a table that hold categories, as learned vectors (Guo & Berkhahn 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaledl.models.leaf import Leaf

MAX_WIDTH = 50


class Columns(Leaf):
    """Rows [B, F], whose last columns hold the ids of categories -> numbers and vectors, [B, width].

    `categories` says how many values each of those columns has, `size` into how many numbers each is made; by default
    (n + 1) // 2 of n values, at most 50.
    """

    def __init__(self, num_columns: int, categories: Sequence[int], size: int | None) -> None:
        super().__init__()
        self.numbers = num_columns - len(categories)
        sizes = [size or vector_size(count) for count in categories]
        self.vectors = nn.ModuleList(map(nn.Embedding, categories, sizes))
        self.width = self.numbers + sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, : self.numbers]]
        for place, vector in enumerate(self.vectors):
            parts.append(vector(x[:, self.numbers + place].long()))
        return torch.cat(parts, 1)


def vector_size(count: int) -> int:
    """
    >>> [vector_size(count) for count in (2, 7, 1000)]
    [1, 4, 50]
    """
    return min(MAX_WIDTH, (count + 1) // 2)
