"""Counter-based random numbers: a value is a function of its coordinates, never of what was drawn before it.

The mixer is splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1

# Coordinates of the draws. A number once given is never reused, or saved runs would change.
ORDER, SPLIT, CROP_Y, CROP_X, FLIP = range(1, 6)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def hash_key(*parts: int) -> int:
    """A key in 0..2**63-1 that depends on every part and on their order.

    >>> hash_key(0, 1) != hash_key(1, 0) != hash_key(0)
    True
    """
    state = 0
    for part in parts:
        state = _mix((state + GAMMA + part) & MASK)
    return state >> 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift; `>>` on int64 drags the sign bit along."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def hash_ids(ids: Tensor, keys: Sequence[int]) -> Tensor:
    """64 random bits for every key and id.

    Args:
        ids: int64 [N].
        keys: K numbers in 0..2**63-1.

    Returns:
        int64 [K, N]: output number `id` of the splitmix64 stream that is seeded with the key.
    """
    starts = torch.tensor([_signed((key + GAMMA) & MASK) for key in keys]).unsqueeze(1)
    z = starts + ids * _signed(GAMMA)
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    return z ^ _shift(z, 31)


def below(bits: Tensor, bounds: Sequence[int]) -> Tensor:
    """Map random bits, int64 [K, N], to 0..bounds[k]-1 (Lemire 2019, on the upper 32; bias below bound / 2**32)."""
    return (_shift(bits, 32) * torch.tensor(bounds).unsqueeze(1)) >> 32


def generator(*parts: int) -> torch.Generator:
    """An own CPU generator seeded by the parts; the global one is never touched."""
    return torch.Generator().manual_seed(hash_key(*parts))
