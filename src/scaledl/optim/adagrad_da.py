"""AdaGrad by dual averaging: the sum of all gradients decides, and l1 makes exact zeros (Duchi et al. 2011)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from scaledl.optim.proximal import ProximalOptimizer
from scaledl.optim.thresholds import soft_threshold_


class AdagradDA(ProximalOptimizer):
    """The weights of step t+1 minimise, coordinate by coordinate,

        sum_{s<=t} lr_s (g_s w + l1 |w| + l2 / 2 w²) + sqrt(n_t) / 2 (w - w_1)²,

    where n is `initial_accumulator` + sum of squared gradients. With a constant rate, and from weights of 0, this is
    the primal-dual update of the paper and TensorFlow's `AdagradDAOptimizer`. Two generalisations let it train networks
    under schedules: it stays near the weights that training began at, not near 0, where all units would be alike; and
    each gradient keeps the weight of the rate it came with (weighted dual averages, Nesterov 2009), so that a rate that
    falls to 0 ends the training instead of undoing it.

    Groups carry `lr`, `l1`, `l2`.
    """

    def step_group(self, group: dict[str, Any]) -> None:
        by_rates: dict[float, list[Tensor]] = {}  # those that had a gradient at the same steps
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self._state_of(parameter, group["initial_accumulator"])
                state["lr_sum"] += group["lr"]
                by_rates.setdefault(state["lr_sum"], []).append(parameter)
        for lr_sum, parameters in by_rates.items():
            self._step(group, parameters, lr_sum)

    def _step(self, group: dict[str, Any], parameters: list[Tensor], lr_sum: float) -> None:
        states = [self.state[parameter] for parameter in parameters]
        adagrad_da_step(
            [parameter.detach() for parameter in parameters],
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["start"] for state in states],
            [state["descent"] for state in states],
            [state["square_sum"] for state in states],
            lr=group["lr"],
            l1=group["l1"] * lr_sum,
            l2=group["l2"] * lr_sum,
        )

    def _state_of(self, parameter: Tensor, initial_accumulator: float) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["lr_sum"] = 0.0  # a number: tensors would be cast to the type of the weights when they are loaded
            state["start"] = parameter.detach().clone()
            state["descent"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["square_sum"] = torch.full_like(parameter, initial_accumulator, memory_format=torch.preserve_format)
        return state


def adagrad_da_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    starts: list[Tensor],
    descents: list[Tensor],
    square_sums: list[Tensor],
    *,
    lr: float,
    l1: float,
    l2: float,
) -> None:
    """One step of `AdagradDA` in place, on lists of tensors of equal shapes; `l1` and `l2` over all steps so far.

    `descents`: minus the sum of all gradients, each with the rate that it came with.
    """
    torch._foreach_add_(descents, gradients, alpha=-lr)
    torch._foreach_addcmul_(square_sums, gradients, gradients)
    scales = torch._foreach_sqrt(square_sums)
    if not (l1 or l2):
        torch._foreach_copy_(weights, starts)
        torch._foreach_addcdiv_(weights, descents, scales)
        return
    torch._foreach_copy_(weights, descents)
    torch._foreach_addcmul_(weights, starts, scales)
    if l1:
        soft_threshold_(weights, weights, l1)
    if l2:
        torch._foreach_add_(scales, l2)
    torch._foreach_div_(weights, scales)


def adagrad_da(groups: list[dict[str, Any]], *, lr: float, initial_accumulator: float) -> Optimizer:
    return AdagradDA(groups, lr=lr, initial_accumulator=initial_accumulator)
