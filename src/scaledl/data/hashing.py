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
ROTATION, SHIFT_X, SHIFT_Y, SCALE, SHEAR = range(6, 11)
BRIGHTNESS, CONTRAST, SATURATION, JITTER_ORDER = range(11, 15)
POLICY_KIND, POLICY_BIN, POLICY_SIGN = range(15, 18)
BLUR, NOISE, CUTOUT_Y, CUTOUT_X = range(18, 22)
PARTNER, MIX_WEIGHT, MIX_KIND, CUTMIX_Y, CUTMIX_X = range(22, 27)
STEP_NOISE, STEP_REPEAT, STEP_WARP, STEP_MASK_LENGTH, STEP_MASK_START, STEP_CROP = range(27, 33)
TOKEN_DROP, TOKEN_SWAP, TOKEN_SWAP_PHASE, TOKEN_MASK = range(33, 37)
RESIZE_AREA, RESIZE_RATIO, RESIZE_Y, RESIZE_X = range(37, 41)
BALANCE = 41
SUBSET = 64


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
    starts = torch.tensor([_signed((key + GAMMA) & MASK) for key in keys], device=ids.device).unsqueeze(1)
    return _mixed(starts + ids * _signed(GAMMA))


def _mixed(z: Tensor) -> Tensor:
    """`_mix` of every number, int64 of any shape."""
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    return z ^ _shift(z, 31)


def hash_positions(ids: Tensor, key: int, count: int) -> Tensor:
    """64 random bits for each of `count` positions of every id; those of a position do not depend on `count`.

    Args:
        ids: int64 [N].
        key: a number in 0..2**63-1.

    Returns:
        int64 [N, count]: the beginning of the splitmix64 stream that is seeded with the id's own 64 bits.
    """
    positions = torch.arange(1, count + 1, device=ids.device)
    return _mixed(hash_ids(ids, [key])[0].unsqueeze(1) + positions * _signed(GAMMA))


def below(bits: Tensor, bounds: Sequence[int] | Tensor) -> Tensor:
    """Map random bits, int64 [K, N], to 0..bounds[k]-1 (Lemire 2019, on the upper 32; bias below bound / 2**32).

    `bounds`: one for each of the K, or a tensor for each of the N.
    """
    if not isinstance(bounds, Tensor):
        bounds = torch.tensor(bounds, device=bits.device).unsqueeze(1)
    return (_shift(bits, 32) * bounds) >> 32


def uniform(bits: Tensor) -> Tensor:
    """Map random bits, int64 of any shape, to float64 in [0, 1): multiples of 2**-32."""
    return _shift(bits, 32).double() * 2.0**-32


def generator(*parts: int) -> torch.Generator:
    """An own CPU generator seeded by the parts; the global one is never touched."""
    return torch.Generator().manual_seed(hash_key(*parts))
