"""Penalties on weights, as part of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def penalty(weights: Sequence[Tensor], l1: float, l2: float) -> Tensor:
    """l1 * sum |w| (Tibshirani 1996) + l2 / 2 * sum w² (Hoerl and Kennard 1970) over all entries -> scalar.

    The gradient of the second is l2 * w, as of SGD's `weight_decay`.

    >>> penalty([torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])], l1=0.1, l2=0.0)
    tensor(0.6000)
    >>> penalty([torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])], l1=0.0, l2=0.1)
    tensor(0.7000)
    """
    total = torch.zeros((), device=weights[0].device)
    if l1:
        total = total + l1 * torch.stack(torch._foreach_norm(list(weights), 1)).sum()
    if l2:
        total = total + 0.5 * l2 * torch.stack([weight.square().sum() for weight in weights]).sum()
    return total
