"""Hashed draws from the distributions that augmentation needs.

What is drawn must not depend on a sample's place in its batch, not even in the last bit: functions such as `log` or
`cos` may round otherwise in the remainder of a vector loop. So parameters are computed in float64, of which float32
keeps what is certain, and long tensors of normal values are looked up in a table of quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from scaledl.data.hashing import hash_ids, hash_key, hash_positions, uniform

LEVELS = 1 << 16


def uniforms(ids: Tensor, seed: int, epoch: int, operations: Sequence[int]) -> Tensor:
    """float64 [K, B] in [0, 1): one value for each of K operations and each id (int64 [B])."""
    return uniform(hash_ids(ids, [hash_key(seed, epoch, operation) for operation in operations]))


def between(values: Tensor, low: float, high: float) -> Tensor:
    """Uniform values in [0, 1) -> in [low, high)."""
    return values * (high - low) + low


def normals(ids: Tensor, seed: int, epoch: int, operation: int, count: int) -> Tensor:
    """Standard normal values, float32 [B, count]: each one of the 65,536 equally likely quantiles."""
    words = hash_positions(ids, hash_key(seed, epoch, operation), -(-count // 4))
    quarters = words.view(torch.int16)[:, :count].to(torch.int32) + LEVELS // 2
    return normal_quantiles(ids.device).index_select(0, quarters.reshape(-1)).view(len(ids), count)


@cache
def normal_quantiles(device: torch.device) -> Tensor:
    """float32 [65536]: the normal distribution at the middle of each of so many equal steps of probability."""
    middles = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    quantiles: Tensor = torch.special.ndtri(middles)
    return quantiles.float().to(device)


def symmetric_beta_quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha), float64 [65536], at the middle of each of so many equal steps of probability.

    The density is integrated over t = x^min(alpha, 1), where it has no pole, up to 1/2; the rest mirrors that. Exact
    to about 1e-5.
    """
    power = min(alpha, 1.0)
    steps = LEVELS * 4
    edges = torch.linspace(0, 0.5**power, steps + 1, dtype=torch.float64)
    middles = (edges[:-1] + edges[1:]) / 2
    density = middles ** (alpha / power - 1) * (1 - middles ** (1 / power)) ** (alpha - 1)
    below_edge = torch.cat([density.new_zeros(1), density.cumsum(0)])
    wanted = (torch.arange(LEVELS // 2, dtype=torch.float64) + 0.5) / (LEVELS // 2) * below_edge[-1]
    right = torch.searchsorted(below_edge, wanted).clamp_(1, steps)
    left_value, right_value = below_edge[right - 1], below_edge[right]
    share = (wanted - left_value) / (right_value - left_value)
    lower = (edges[right - 1] + share * (edges[right] - edges[right - 1])) ** (1 / power)
    return torch.cat([lower, 1 - lower.flip(0)])


def quantile(values: Tensor, quantiles: Tensor) -> Tensor:
    """Uniform values in [0, 1) -> the distribution whose quantiles (float [65536]) are given."""
    return quantiles[(values * len(quantiles)).long()]
