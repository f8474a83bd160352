"""What stands between two layers, by name, and how much weights have to make up for it at the start."""

from __future__ import annotations

from torch import nn

from scaledl.config.registry import ACTIVATIONS
from scaledl.models.leaf import Leaf

# 1 / sqrt(E[f(x)^2]) for x ~ N(0, 1): the rule that gives ReLU its sqrt(2), where torch has none
_GAINS = {
    "elu": 1.2452,
    "gelu": 1.5335,
    "hardswish": 1.7367,
    "mish": 1.4868,
    "selu": 1.0,  # torch's is 3/4, and self-normalising networks need this one (Klambauer et al. 2017)
    "silu": 1.6765,
    "swish": 1.6765,
    "softmax": 1.0,
    "identity": 1.0,
}
_PRELU_SLOPE = 0.25  # at the start of a training


class PReLU(nn.PReLU, Leaf):
    """torch's, which stays float in an int8 module: torch's int8 kernel for it gives wrong numbers (7 dB)."""


class ELU(nn.ELU, Leaf):
    """torch's, which stays float in an int8 module: torch's int8 kernel makes a ResNet-20 eight times slower."""


def build_activation(name: str, dim: int = 1) -> nn.Module:
    """A fresh module, to be used once: [B, C, ...] -> [B, C, ...]. `dim` is that of the channels, for softmax.

    Raises UsageError for a name that is not in ACTIVATIONS.
    """
    kind = ACTIVATIONS.resolve(name)
    module: nn.Module = kind(dim) if name == "softmax" else kind()
    return module


def activation_gain(name: str) -> float:
    """By how much weights before this activation are larger, so that the signal keeps its scale (He et al. 2015).

    >>> [round(activation_gain(name), 4) for name in ("relu", "tanh", "gelu", "identity")]
    [1.4142, 1.6667, 1.5335, 1.0]
    """
    if name in _GAINS:
        return _GAINS[name]
    if name == "prelu":
        return nn.init.calculate_gain("leaky_relu", _PRELU_SLOPE)
    return nn.init.calculate_gain(name)  # type: ignore[arg-type]
