"""Initial weights by name. What is registered takes (module, gain, inputs) and changes the module in place.

They set the weights of convolutions and linear layers, and zero their biases; norms, embeddings and positions keep
what their family gives them. `gain` makes up for the activation that follows (`activation_gain`); layers that none
follows, those of attention among them, have a gain of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.config.registry import INITS
from scaledl.config.schema import FamilySection
from scaledl.models.activations import activation_gain
from scaledl.models.attention import SelfAttention
from scaledl.runtime.signature import Inputs

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
PLAIN = ("head", "latent")  # layers that no activation follows
LSUV_BATCH = 64
LSUV_TOLERANCE = 0.1
LSUV_TRIALS = 10
_TRUNCATED_STD = 0.87962566103423978  # of a normal distribution without what is beyond two standard deviations


def initialise_(module: nn.Module, config: FamilySection, inputs: Inputs) -> nn.Module:
    """Give a freshly built `module` the weights that `config.init` names; "default" leaves its family's own."""
    INITS.resolve(config.init)(module, activation_gain(config.activation), inputs)
    return module


def default_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """As the family was built."""


def kaiming_normal_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Normal, std = gain / sqrt(fan in) (He et al. 2015)."""
    _each(module, gain, lambda layer, g: nn.init.normal_(layer.weight, std=g / _fan_in(layer) ** 0.5))


def kaiming_uniform_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Uniform with the same std as `kaiming_normal_` (He et al. 2015)."""
    _each(module, gain, lambda layer, g: _uniform_(layer.weight, g / _fan_in(layer) ** 0.5))


def xavier_normal_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Normal, std = gain * sqrt(2 / (fan in + fan out)) (Glorot & Bengio 2010)."""
    _each(module, gain, lambda layer, g: nn.init.xavier_normal_(layer.weight, g))


def xavier_uniform_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Uniform with the same std as `xavier_normal_` (Glorot & Bengio 2010)."""
    _each(module, gain, lambda layer, g: nn.init.xavier_uniform_(layer.weight, g))


def orthogonal_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Rows, or columns, at right angles and of length gain (Saxe, McClelland & Ganguli 2014)."""
    _each(module, gain, lambda layer, g: nn.init.orthogonal_(layer.weight, g))


def lecun_normal_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """Normal, std = 1 / sqrt(fan in), whatever the activation: what SELU needs (Klambauer et al. 2017)."""
    _each(module, 1.0, lambda layer, g: nn.init.normal_(layer.weight, std=g / _fan_in(layer) ** 0.5))


def truncated_normal_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """As `kaiming_normal_`, without what is beyond two standard deviations, the variance corrected for it."""
    _each(module, gain, lambda layer, g: _truncated_(layer.weight, g / _fan_in(layer) ** 0.5 / _TRUNCATED_STD))


def lsuv_init_(module: nn.Module, gain: float, inputs: Inputs) -> None:
    """`lsuv_` on made-up inputs: a new model has no data. Data is standardised, so noise stands for it."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        lsuv_(module, inputs.example(LSUV_BATCH))


@torch.no_grad()
def lsuv_(module: nn.Module, batch: Tensor) -> nn.Module:
    """Scale the weights so that every layer's outputs have unit variance on `batch` (Mishkin & Matas 2016).

    Weights become orthogonal first; then the layers are scaled in the order in which they run. Best with real inputs,
    as a model takes them; `model.init: lsuv` has none and takes standardised noise. A layer whose outputs are all
    alike stays as it is.
    """
    _each(module, 1.0, lambda layer, g: nn.init.orthogonal_(layer.weight, g))
    with _in_eval_mode(module):
        hooks = [layer.register_forward_hook(_scale_hook(layer)) for layer in module.modules() if type(layer) in LAYERS]
        try:
            module(batch)
        finally:
            for hook in hooks:
                hook.remove()
    return module


def _scale_hook(layer: nn.Module) -> Callable[..., Tensor]:
    """Scales the layer when it first runs, and hands on what it gives then."""
    scaled = False

    def scale(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal scaled
        if scaled:
            return output
        scaled = True
        for _ in range(LSUV_TRIALS):
            variance = float(output.var())
            if abs(variance - 1) <= LSUV_TOLERANCE or variance == 0:
                break
            layer.weight.div_(variance**0.5)
            output = layer.forward(*inputs)
        return output

    return scale


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training


def _each(module: nn.Module, gain: float, fill_: Callable[[Any, float], object]) -> None:
    plain = {part for layer in module.modules() if isinstance(layer, SelfAttention) for part in layer.children()}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            is_plain = layer in plain or name.rpartition(".")[2] in PLAIN
            fill_(layer, 1.0 if is_plain else gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _fan_in(layer: Any) -> float:
    """Values that one output is a sum of; on average where a transposed convolution has gaps."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    strides = math.prod(layer.stride) if layer.transposed else 1
    return float(layer.in_channels // layer.groups * math.prod(layer.kernel_size) / strides)


def _uniform_(weight: Tensor, std: float) -> None:
    nn.init.uniform_(weight, -math.sqrt(3) * std, math.sqrt(3) * std)


def _truncated_(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
