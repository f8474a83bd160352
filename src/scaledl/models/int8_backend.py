"""What FX quantization is told about our layers, beside which of them become int8 (`qconfigs.py`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization import backend_config as bc
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig

from scaledl.models.dropout import DropPath
from scaledl.models.leaf import Leaf

# of timm's edgenext; and what drops whole branches in timm and torchvision, by `training` as a trace would fix it
FOREIGN_LEAVES = ("PositionalEncodingFourier", "DropPath", "StochasticDepth")
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, DropPath)


def leaves(module: nn.Module) -> PrepareCustomConfig:
    """Every kind of `Leaf` in `module` stays whole, and what other libraries have of the kind."""
    kinds = {type(layer) for layer in module.modules() if is_leaf(layer)}
    return PrepareCustomConfig().set_non_traceable_module_classes(sorted(kinds, key=lambda kind: kind.__name__))


def is_leaf(layer: nn.Module) -> bool:
    return isinstance(layer, Leaf) or type(layer).__name__ in FOREIGN_LEAVES


@cache
def backend_config() -> bc.BackendConfig:
    """torch's own, and dropout of every kind has the range of its inputs: it is gone from an int8 module."""
    config = bc.get_native_backend_config()
    int8 = bc.DTypeConfig(input_dtype=torch.quint8, output_dtype=torch.quint8)
    for kind in DROPOUTS:
        pattern = bc.BackendPatternConfig(kind).add_dtype_config(int8)
        shared = bc.ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
        config.set_backend_pattern_config(pattern.set_observation_type(shared))
    return config


def plain_norms_(module: nn.Module) -> nn.Module:
    """Take timm's norm with an activation apart, in place.

    Traced as it is, it would compute with the statistics of each batch for ever, as it does in training; apart, it is
    folded into the convolution before it.
    """
    for name, layer in list(module.named_modules()):
        if type(layer).__name__ == "BatchNormAct2d" and type(layer).__module__.startswith("timm."):
            known: Any = layer
            norm = nn.BatchNorm2d(
                known.num_features, known.eps, known.momentum, known.affine, known.track_running_stats
            )
            norm.weight, norm.bias = known.weight, known.bias
            for key in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(norm, key, getattr(known, key))
            module.set_submodule(name, nn.Sequential(norm.train(known.training), known.drop, known.act))
    return module


def without_dropout_(prepared: fx.GraphModule) -> fx.GraphModule:
    """Replace dropout by nothing: int8 values would leave int8 for it and come back."""
    for name, layer in list(prepared.named_modules()):
        if isinstance(layer, DROPOUTS):
            prepared.set_submodule(name, nn.Identity())
    return prepared
