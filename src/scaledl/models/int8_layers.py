"""int8 layer by layer, for models whose forward cannot be traced as a whole, such as those of Hugging Face.

Each linear and convolution layer quantizes its inputs and gives floats again; what lies between stays float. That is
what tracing does in models with LayerNorm too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization as tq

from scaledl.models.qconfigs import check_engine, check_mode, static_qconfig

LAYERS = (nn.Linear, nn.Conv2d)


class Int8Layer(tq.QuantWrapper):
    """A layer between quantization and its reverse. The libraries ask for the type of its weight to cast inputs."""

    @property
    def weight(self) -> Tensor:
        return torch.empty(0)


def prepare_layers_(module: nn.Module, mode: str, engine: str) -> nn.Module:
    """Fake-quantize every linear and convolution layer of `module`, in place; tied weights stay tied."""
    check_engine(engine)
    check_mode(module, mode)
    for name, layer in list(module.named_modules()):
        layer = as_linear(layer)
        if name and type(layer) in LAYERS:
            layer.qconfig = static_qconfig(mode, engine)
            module.set_submodule(name, Int8Layer(layer))
    prepared: nn.Module = tq.prepare_qat(module.train(), inplace=True)
    return prepared


def convert_layers_(prepared: nn.Module) -> nn.Module:
    """The int8 module of a prepared one, in place."""
    converted: nn.Module = tq.convert(prepared.eval(), inplace=True)
    return converted


def as_linear(layer: nn.Module) -> Any:
    """transformers' Conv1D, which GPT-2 has, is a linear layer whose weight [in, out] lies on its side."""
    if not is_conv1d(layer):
        return layer
    weight: Any = layer.weight
    linear = nn.Linear(int(weight.shape[0]), int(weight.shape[1]), device="meta")
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    linear.bias = layer.bias  # type: ignore[assignment]
    return linear


def is_conv1d(layer: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, told without importing transformers."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
