"""Soft thresholding, and what it leaves behind, on lists of tensors.

On CPUs the kernels that do each in one pass, tensor by tensor; elsewhere few launches for all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def soft_threshold_(out: Sequence[Tensor], values: Sequence[Tensor], limit: float) -> None:
    """`out` becomes what of `values` lies beyond ±limit, and exactly 0 within (Donoho 1995). It may be `values`.

    >>> values = [torch.tensor([-3.0, 0.5, 2.0])]
    >>> soft_threshold_(values, values, 1.0)
    >>> values
    [tensor([-2.,  0.,  1.])]
    """
    if values[0].device.type == "cpu":
        for target, value in zip(out, values, strict=True):
            torch.ops.aten.softshrink.out(value, limit, out=target)
        return
    within = torch._foreach_clamp_max(list(values), limit)
    torch._foreach_clamp_min_(within, -limit)
    if out is not values:
        torch._foreach_copy_(list(out), list(values))
    torch._foreach_sub_(list(out), within)


def clip_(values: Sequence[Tensor], limit: float) -> None:
    """What lies within ±limit, in place.

    >>> values = [torch.tensor([-3.0, 0.5, 2.0])]
    >>> clip_(values, 1.0)
    >>> values
    [tensor([-1.0000,  0.5000,  1.0000])]
    """
    if values[0].device.type == "cpu":
        for value in values:
            value.clamp_(-limit, limit)
        return
    torch._foreach_clamp_max_(list(values), limit)
    torch._foreach_clamp_min_(list(values), -limit)
