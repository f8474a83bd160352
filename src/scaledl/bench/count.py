"""Parameters and multiply-accumulates of a module. They say nothing about speed: that is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def count_params(module: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates for `example`, inputs of one sample: of all convolution, linear and recurrent layers, and of
    the two products of every `scaled_dot_product_attention`, whatever its mask spares. Nothing else is counted.

    Works on float, fake-quantized and converted int8 modules. The module is left as it was.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal total
        total += _macs(layer, inputs[0], output)

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if _is_counted(layer)]
    modes = {layer: layer.training for layer in module.modules()}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.eval()
        with torch.inference_mode(), _Attention() as attention:
            module(example.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training
    return total + int(attention.macs)


class _Attention(TorchFunctionMode):
    """Counts the products of queries with keys, and of their weights with values."""

    def __init__(self) -> None:
        self.macs: int = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value")
            query, key, value = (args[i] if i < len(args) else (kwargs or {})[name] for i, name in enumerate(names))
            self.macs += query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return func(*args, **(kwargs or {}))


def _is_counted(layer: nn.Module) -> bool:
    """Quantized layers share the attributes of float ones, not their classes."""
    is_convolution = hasattr(layer, "kernel_size") and hasattr(layer, "out_channels")
    return is_convolution or hasattr(layer, "out_features") or _is_recurrent(layer)


def _is_recurrent(layer: nn.Module) -> bool:
    return isinstance(layer, nn.RNNBase) or (hasattr(layer, "hidden_size") and hasattr(layer, "get_weight"))


def _macs(layer: Any, x: Tensor, output: Any) -> int:
    if _is_recurrent(layer):
        return x[..., 0].numel() * sum(weight.numel() for weight in _recurrent_weights(layer))
    if hasattr(layer, "out_features"):
        return int(output.numel()) * int(layer.in_features)
    kernel = 1
    for size in layer.kernel_size:
        kernel *= int(size)
    if getattr(layer, "transposed", False):
        return x.numel() * kernel * int(layer.out_channels) // int(layer.groups)
    return int(output.numel()) * kernel * int(layer.in_channels) // int(layer.groups)


def _recurrent_weights(layer: Any) -> list[Tensor]:
    """Every weight meets every step once."""
    if isinstance(layer, nn.RNNBase):
        return [parameter for name, parameter in layer.named_parameters() if name.startswith("weight")]
    return list(layer.get_weight().values())
