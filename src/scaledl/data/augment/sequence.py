"""Augmentation of sequences: float32 [B, C, T] -> the same shape, each sample by the draws of its id (int64 [B])."""

from __future__ import annotations

import torch
from torch import Tensor

from scaledl.data.augment.draws import between, normals, uniforms
from scaledl.data.hashing import (
    STEP_CROP,
    STEP_MASK_LENGTH,
    STEP_MASK_START,
    STEP_NOISE,
    STEP_REPEAT,
    STEP_WARP,
    hash_key,
    hash_positions,
    uniform,
)


def add_noise(x: Tensor, ids: Tensor, seed: int, epoch: int, sigma: float) -> Tensor:
    """Add normal values of deviation `sigma`, in the units of x."""
    return x + normals(ids, seed, epoch, STEP_NOISE, x[0].numel()).view_as(x).to(x.dtype) * sigma


def repeat_steps(x: Tensor, ids: Tensor, seed: int, epoch: int, share: float) -> Tensor:
    """Each step comes twice with probability `share`; what does not fit any more at the end is cut off."""
    twice = uniform(hash_positions(ids, hash_key(seed, epoch, STEP_REPEAT), x.shape[2])) < share
    ends = (1 + twice.long()).cumsum(1)
    steps = torch.arange(x.shape[2], device=x.device).expand(len(x), -1).contiguous()
    return _take(x, torch.searchsorted(ends, steps, right=True))


def warp_time(x: Tensor, ids: Tensor, seed: int, epoch: int, strength: float, segments: int = 4) -> Tensor:
    """Run through equal parts of the time at speeds in 1 +- `strength` (below 1); the ends stay (Um et al. 2017)."""
    keys = hash_positions(ids, hash_key(seed, epoch, STEP_WARP), segments)
    speeds = between(uniform(keys), 1 - strength, 1 + strength)
    ends = speeds.cumsum(1)
    passed = torch.cat([torch.zeros_like(ends[:, :1]), ends], dim=1) / ends[:, -1:]
    place = torch.linspace(0, segments, x.shape[2], dtype=torch.float64, device=x.device)
    segment = place.long().clamp(max=segments - 1)
    start, stop = passed[:, segment], passed[:, segment + 1]
    return _interpolate(x, (start + (stop - start) * (place - segment)) * (x.shape[2] - 1))


def mask_steps(x: Tensor, ids: Tensor, seed: int, epoch: int, share: float, value: float = 0.0) -> Tensor:
    """Overwrite one span, of any length up to `share` of the time, with `value` (SpecAugment, Park et al. 2019)."""
    count = x.shape[2]
    length, start = uniforms(ids, seed, epoch, (STEP_MASK_LENGTH, STEP_MASK_START))
    length = (length * (int(share * count) + 1)).long()
    start = (start * (count - length + 1)).long()
    steps = torch.arange(count, device=x.device)
    masked = (steps >= start.unsqueeze(1)) & (steps < (start + length).unsqueeze(1))
    return x.masked_fill(masked.unsqueeze(1), value)


def crop_time(x: Tensor, ids: Tensor, seed: int, epoch: int, share: float) -> Tensor:
    """Cut `share` of the time off both ends together, stretch the rest (window slicing, Le Guennec et al. 2016)."""
    [drawn] = uniforms(ids, seed, epoch, (STEP_CROP,))
    last = x.shape[2] - 1
    start = between(drawn, 0, share * last).unsqueeze(1)
    place = torch.linspace(0, 1, x.shape[2], dtype=torch.float64, device=x.device)
    return _interpolate(x, start + place * ((1 - share) * last))


def _take(x: Tensor, steps: Tensor) -> Tensor:
    """Steps int64 [B, T] of x [B, C, T]."""
    return x.gather(2, steps.unsqueeze(1).expand(-1, x.shape[1], -1))


def _interpolate(x: Tensor, places: Tensor) -> Tensor:
    """x [B, C, T] between its steps: places float64 [B, T] in 0..T-1."""
    places = places.clamp(0, x.shape[2] - 1)
    before = places.long()
    share = (places - before).to(x.dtype).unsqueeze(1)
    start, stop = _take(x, before), _take(x, (before + 1).clamp(max=x.shape[2] - 1))
    return start + (stop - start) * share
