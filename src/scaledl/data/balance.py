"""An epoch in which every class comes equally often."""

from __future__ import annotations

import torch
from torch import Tensor

from scaledl.data.arrays import DataSpec
from scaledl.data.hashing import BALANCE, ORDER, generator
from scaledl.errors import UsageError

AGAIN = 1 << 40  # added to a row for each time that it has been drawn before in the epoch; no split has as many rows


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many draws as there are samples, of every class that occurs equally many, or one more: int64 [N].

    A class with fewer samples goes through all of them again, in another order each time; one with more leaves some
    out, other ones in each epoch. A pure function of labels, seed and epoch.

    Args:
        labels: int64 [N].

    Returns:
        Rows, plus AGAIN for each time that the row was drawn before.
    """
    size, classes = len(labels), labels.unique()
    share, rest = divmod(size, len(classes))
    more = torch.randperm(len(classes), generator=generator(seed, epoch, BALANCE)) < rest
    parts = [
        _draws(torch.nonzero(labels == label).squeeze(1), share + int(extra), seed, epoch, int(label))
        for label, extra in zip(classes, more, strict=True)
    ]
    mixed = torch.randperm(size, generator=generator(seed, epoch, ORDER))
    return torch.cat(parts)[mixed]


def check_balanced(spec: DataSpec) -> None:
    """Raises UsageError where there are no classes to balance."""
    if spec.target == "class" and spec.unlabeled:
        raise UsageError(
            f"data.sampling: got balanced, and {spec.unlabeled:,} training samples of {spec.source} have no label; "
            "allowed: shuffle"
        )
    if spec.target != "class":
        raise UsageError(
            f"data.sampling: got balanced, and the targets of {spec.source} are {spec.target!r}; allowed: shuffle"
        )


def _draws(rows: Tensor, count: int, seed: int, epoch: int, label: int) -> Tensor:
    """So many of a class's rows: whole rounds, then a part of one."""
    rounds = -(-count // len(rows))
    drawn = [
        rows[torch.randperm(len(rows), generator=generator(seed, epoch, BALANCE, label, number))] + number * AGAIN
        for number in range(rounds)
    ]
    return torch.cat(drawn)[:count] if drawn else rows[:0]
