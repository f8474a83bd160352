"""Which channels go: pure functions from importance scores to indices, no model in sight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def channels_to_keep(count: int, ratio: float, round_to: int) -> int:
    """How many of `count` channels stay: the multiple of `round_to` nearest to the share, but at least one multiple.

    A layer of at most `round_to` channels therefore stays whole, and no layer ever disappears.

    >>> [channels_to_keep(n, 0.5, 8) for n in (64, 24, 12, 8, 4)]
    [32, 8, 8, 8, 4]
    """
    return _rounded(count, count * (1 - ratio), round_to)


def select_uniform(scores: Sequence[Tensor], ratio: float, round_to: int) -> list[list[int]]:
    """For each layer's scores [channels], the indices of the least important channels, the same share of each."""
    return [_lowest(score, len(score) - channels_to_keep(len(score), ratio, round_to)) for score in scores]


def select_global(scores: Sequence[Tensor], ratio: float, round_to: int) -> list[list[int]]:
    """As `select_uniform`, but ranked over all layers together: the share goes where importance is lowest."""
    if not scores:
        return []
    layer = torch.cat([torch.full((len(score),), i) for i, score in enumerate(scores)])
    ranks = torch.cat([score.argsort(stable=True).argsort() / len(score) for score in scores])
    by_rank = ranks.argsort(stable=True)  # among equal scores every layer loses its share
    order = by_rank[torch.cat(list(scores))[by_rank].argsort(stable=True)]
    gone = torch.bincount(layer[order[: math.floor(len(order) * ratio + 1e-9)]], minlength=len(scores)).tolist()
    return [
        _lowest(score, len(score) - _rounded(len(score), len(score) - lost, round_to))
        for score, lost in zip(scores, gone, strict=True)
    ]


def _rounded(count: int, keep: float, round_to: int) -> int:
    """The multiple nearest to `keep`, the lower one of two, within [round_to, count]."""
    multiple = math.ceil(keep / round_to - 0.5 - 1e-9) * round_to
    return min(max(multiple, round_to), count)


def _lowest(score: Tensor, count: int) -> list[int]:
    return sorted(score.argsort(stable=True)[:count].tolist())
