"""Sharpness-aware minimisation: to the worst weights nearby, and back (Foret et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_TINY = 1e-12

Kept = list[tuple[nn.Parameter, Tensor]]


@torch.no_grad()
def ascend_(parameters: Iterable[nn.Parameter], rho: float) -> Kept:
    """Move the parameters along their gradient by the distance `rho`, all together; what they were before is returned.

    Those without a gradient stay. The gradient is that of the whole batch, so all ranks move alike.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    if not moved:
        return []
    kept = [parameter.detach().clone() for parameter in moved]
    gradients = [parameter.grad for parameter in moved]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()  # type: ignore[arg-type]
    torch._foreach_add_(moved, torch._foreach_mul(gradients, rho / (norm + _TINY)))  # type: ignore[arg-type]
    return list(zip(moved, kept, strict=True))


@torch.no_grad()
def go_back_(kept: Kept) -> None:
    """Exactly to where the parameters were."""
    for parameter, before in kept:
        parameter.copy_(before)
