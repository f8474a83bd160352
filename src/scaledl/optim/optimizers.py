"""Optimizers from their config section."""

from __future__ import annotations

from typing import Any

from torch import nn, optim

from scaledl.config.schema import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> optim.Optimizer:
    """AdamW or SGD over the trainable parameters, fused (on CPU too, where it is two to three times faster)."""
    groups = parameter_groups(module, config.weight_decay)
    if config.name == "adamw":
        return optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    return optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split into matrices and filters, which decay, and vectors (biases, normalisation), which do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if _ndim(p) > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if _ndim(p) <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _ndim(parameter: nn.Parameter) -> int:
    """Of the whole: DeepSpeed leaves flat shards in its place."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
