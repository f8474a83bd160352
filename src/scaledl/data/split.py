"""Seeded splits, stratified where there are classes."""

from __future__ import annotations

import torch
from torch import Tensor

from scaledl.data.hashing import SPLIT, generator
from scaledl.errors import UsageError

_FIXES = {"data.prepare": "leave rare classes out with data.prepare.min_per_class=3, or add samples"}


def stratified_split(
    labels: Tensor, fraction: float, seed: int, names: tuple[str, ...], key: str = "data.val_fraction"
) -> tuple[Tensor, Tensor]:
    """Hold out the same share of every class, at least one sample of each, never all.

    Args:
        labels: int64 [N].
        fraction: share that is held out, between 0 and 1.
        seed: with the labels, all that the result depends on.
        names: one name for each class, for the message.
        key: the config key that asked for the split, for the message.

    Returns:
        (kept, held out): int64 row numbers, ascending.

    Raises:
        UsageError: a class has fewer than two samples.
    """
    rng = generator(seed, SPLIT)
    kept, held = [], []
    for label, name in enumerate(names):
        rows = torch.nonzero(labels == label).squeeze(1)
        if len(rows) < 2:
            raise UsageError(
                f"{key}: got a class with too few samples: {name!r} has {len(rows)}; allowed: at least 2 in every "
                f"class, one to train on and one to hold out; fix: {_FIXES.get(key.rpartition('.')[0], 'add samples')}"
            )
        rows = rows[torch.randperm(len(rows), generator=rng)]
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        held.append(rows[:count])
        kept.append(rows[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


def plain_split(count: int, fraction: float, seed: int, key: str = "data.val_fraction") -> tuple[Tensor, Tensor]:
    """Hold out this share of `count` rows, at least one, never all. As `stratified_split`, without classes."""
    if count < 2:
        raise UsageError(f"{key}: got {count} samples; allowed: at least 2, one to train on and one to hold out")
    rows = torch.randperm(count, generator=generator(seed, SPLIT))
    held = min(max(round(count * fraction), 1), count - 1)
    return rows[held:].sort().values, rows[:held].sort().values
