"""What optimizers that minimise their penalties exactly have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class ProximalOptimizer(Optimizer):
    """Its groups carry `lr`, `l1`, `l2`, and an accumulator of squared gradients that begins above 0."""

    def __init__(
        self, params: Any, lr: float = 0.1, l1: float = 0.0, l2: float = 0.0, initial_accumulator: float = 0.1
    ) -> None:
        if initial_accumulator <= 0:
            raise ValueError(f"initial_accumulator: got {initial_accumulator}; allowed: a number greater than 0")
        super().__init__(params, {"lr": lr, "l1": l1, "l2": l2, "initial_accumulator": initial_accumulator})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss that `closure` gives, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.step_group(group)
        return loss

    def step_group(self, group: dict[str, Any]) -> None:
        """One step of the parameters in `group` that have a gradient."""
        raise NotImplementedError
