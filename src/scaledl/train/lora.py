"""Low-rank adapters (Hu et al. 2022) through peft: beside linear layers while training, part of them afterwards."""

from __future__ import annotations

import re
import warnings
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from scaledl.config.schema import LoraConfig
from scaledl.errors import UsageError, require_extra
from scaledl.models.ends import head_names
from scaledl.models.structure import Structure


def add_adapters_(module: nn.Module, structure: Structure, config: LoraConfig, seed: int) -> Any:
    """Put an adapter beside every linear layer that a pattern matches, but the head; returns peft's tuner.

    The same for the same seed, and the identity at first. Raises UsageError for patterns that match no layer.
    """
    require_extra("peft", "models")
    from peft import LoraConfig as PeftConfig
    from peft.tuners.lora import LoraModel

    names = lora_targets(module, structure, config)
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # it finds transposed layers by itself
        torch.manual_seed(seed)
        return LoraModel(module, settings, "default")


def merged(tuner: Any) -> nn.Module:
    """The module that the adapters were added to, with what they learned in its own layers."""
    module: nn.Module = tuner.merge_and_unload()
    return module


def lora_targets(module: nn.Module, structure: Structure, config: LoraConfig) -> list[str]:
    """Names of the linear layers that get an adapter. Raises UsageError for patterns that match none."""
    head = {name.rpartition(".")[0] for name in head_names(structure)} | _tied(module)
    linear = [name for name, part in module.named_modules() if _is_linear(part) and name not in head]
    for pattern in config.targets:
        if not any(fnmatchcase(name, pattern) for name in linear):
            shown = ", ".join(linear[:3]) or "none"
            raise UsageError(
                f"transfer.lora.targets: got {pattern!r}, which matches no linear layer but the head; there are {shown}"
            )
    return [name for name in linear if any(fnmatchcase(name, pattern) for pattern in config.targets)]


def _tied(module: nn.Module) -> set[str]:
    """Layers that share their weight with another one, which would change with it."""
    places: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name for names in places.values() if len(names) > 1 for name in names}


def _is_linear(part: nn.Module) -> bool:
    """Also the transposed one of GPT-2, which transformers calls Conv1D."""
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
