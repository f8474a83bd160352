"""Outputs of all ranks on every rank, with their gradients: for losses that compare samples with each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scaledl.distributed.near import MAX_VALUES
from scaledl.distributed.ranks import Ranks


class OutOfMemoryElsewhere(RuntimeError):
    """Another rank has no outputs to give, as they did not fit into its memory."""


class _AllGather(torch.autograd.Function):
    """[...] of each rank -> [W, ...]; backwards each rank gets the sum of what all ranks made of its part."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rank: int, world_size: int) -> Tensor:
        from torch import distributed

        ctx.rank = rank
        parts = [torch.empty_like(mine) for _ in range(world_size)]
        distributed.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        from torch import distributed

        whole = gradient.contiguous()
        distributed.all_reduce(whole)
        return whole[ctx.rank], None, None


def counts_of_all(ranks: Ranks, count: int | None) -> list[int]:
    """How many samples each rank has, which call this together; `count` None: mine did not fit into memory.

    Raises OutOfMemoryElsewhere where that is so of another rank; this one's own error is the caller's.
    """
    given = [0] * ranks.world_size
    given[ranks.rank] = 0 if count is None else count + 1
    found = ranks.max_of(given) if len(given) <= MAX_VALUES else ranks.max_(torch.tensor(given)).tolist()
    if count is not None and 0 in found:
        raise OutOfMemoryElsewhere("another rank is out of memory")
    return [one - 1 for one in found]


def gather_rows(ranks: Ranks, rows: Tensor, counts: list[int]) -> Tensor:
    """[B, ...], of which `counts[rank]` count -> those of all ranks, in their order, [sum of counts, ...].

    Over the group that trains, so on its devices. The loss of every rank reaches the rows of all.
    """
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded = torch.cat([rows[: counts[ranks.rank]], padded[counts[ranks.rank] :]])
    parts: Tensor = _AllGather.apply(padded, ranks.rank, ranks.world_size)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
