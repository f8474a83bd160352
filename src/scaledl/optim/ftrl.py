"""FTRL-Proximal: follow the (proximally) regularised leader, with a rate for each coordinate (McMahan et al. 2013)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from scaledl.optim.proximal import ProximalOptimizer
from scaledl.optim.thresholds import clip_, soft_threshold_


class FTRL(ProximalOptimizer):
    """The weights of step t+1 minimise, coordinate by coordinate,

        sum_{s<=t} (g_s w + sigma_s / 2 (w - w_s)²) + l1 |w| + l2 / 2 w²,    sigma_{1:s} = sqrt(n_s) / lr_s,

    where n is `initial_accumulator` + sum of squared gradients. `l1` makes exact zeros; without penalties this
    is AdaGrad, also where the rate changes from step to step.

    The paper keeps z, the sum of gradients and of -sigma_s w_s. Here the state is `residual` = -(z + sqrt(n) / lr w),
    which is the gradient of the penalties where w is not 0, and what the gradients have in store where it is. It needs
    no memory of earlier rates, does not lose digits as z grows, and stays 0 without penalties. Training begins at the
    weights as they are, in the paper at 0.

    Groups carry `lr`, `l1`, `l2`.
    """

    def step_group(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        states = [self._state_of(parameter, group["initial_accumulator"]) for parameter in parameters]
        ftrl_step(
            [parameter.detach() for parameter in parameters],
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["square_sum"] for state in states],
            [state["residual"] for state in states],
            lr=group["lr"],
            l1=group["l1"],
            l2=group["l2"],
        )

    def _state_of(self, parameter: Tensor, initial_accumulator: float) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["square_sum"] = torch.full_like(parameter, initial_accumulator, memory_format=torch.preserve_format)
            state["residual"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def ftrl_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    square_sums: list[Tensor],
    residuals: list[Tensor],
    *,
    lr: float,
    l1: float,
    l2: float,
) -> None:
    """One step of `FTRL` in place, on lists of tensors of equal shapes. A rate of 0 changes nothing."""
    if lr == 0:
        return
    torch._foreach_addcmul_(square_sums, gradients, gradients)
    rates = torch._foreach_sqrt(square_sums)
    if not (l1 or l2):
        torch._foreach_addcdiv_(weights, gradients, rates, value=-lr)
        return
    torch._foreach_sub_(residuals, gradients)
    torch._foreach_addcmul_(residuals, rates, weights, value=1 / lr)  # -z, whose part beyond l1 is for the weights
    soft_threshold_(weights, residuals, l1)
    clip_(residuals, l1)
    torch._foreach_mul_(rates, 1 / lr)
    if l2:
        torch._foreach_add_(rates, l2)
    torch._foreach_div_(weights, rates)
    if l2:
        torch._foreach_add_(residuals, weights, alpha=l2)


def ftrl(groups: list[dict[str, Any]], *, lr: float, initial_accumulator: float) -> Optimizer:
    return FTRL(groups, lr=lr, initial_accumulator=initial_accumulator)
