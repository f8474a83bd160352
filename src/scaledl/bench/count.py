"""Parameters and multiply-accumulates of a module. They say nothing about speed: that is measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_params(module: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers for `example`, inputs of one sample.

    Works on float, fake-quantized and converted int8 modules. The module is left as it was.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _macs(layer, inputs[0], output)

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if _is_counted(layer)]
    modes = {layer: layer.training for layer in module.modules()}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.eval()
        with torch.inference_mode():
            module(example.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training
    return total


def _is_counted(layer: nn.Module) -> bool:
    """Quantized layers share the attributes of float ones, not their classes."""
    return (hasattr(layer, "kernel_size") and hasattr(layer, "out_channels")) or hasattr(layer, "out_features")


def _macs(layer: Any, x: Tensor, output: Tensor) -> int:
    if hasattr(layer, "out_features"):
        return output.numel() * int(layer.in_features)
    kernel = 1
    for size in layer.kernel_size:
        kernel *= int(size)
    if getattr(layer, "transposed", False):
        return x.numel() * kernel * int(layer.out_channels) // int(layer.groups)
    return output.numel() * kernel * int(layer.in_channels) // int(layer.groups)
