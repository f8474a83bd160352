"""Models of other libraries and of one's own: timm, torchvision, Hugging Face transformers, any importable class.

They are built from their config, without weights from anywhere. What a library needs to know of inputs and outputs is
given to it; whether the model then fits them is tried once, when it is new (`check_outputs`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from scaledl.config.imported import import_named
from scaledl.config.schema import ExternalConfig
from scaledl.errors import UsageError
from scaledl.models import huggingface, vision_library
from scaledl.runtime.signature import Inputs, Outputs

Builder = Callable[[ExternalConfig, Inputs, Outputs], nn.Module]


def library_of(name: str) -> str:
    """timm, torchvision or hf; empty for an import path.

    >>> library_of("timm:resnet18"), library_of("timm.models:resnet18")
    ('timm', '')
    """
    prefix = name.partition(":")[0]
    return prefix if prefix in _LIBRARIES else ""


def build_external(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """The module that `config.name` stands for; its outputs have our layouts.

    Raises UsageError for a name that the library does not have, arguments that it does not take, or inputs and outputs
    that it has no model for.
    """
    return _LIBRARIES.get(library_of(config.name), _build_own)(config, inputs, outputs)


def settled(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> ExternalConfig:
    """The config with all that its name stands for elsewhere, so that the model can be built again without that."""
    if library_of(config.name) != "hf" or config.architecture is not None:
        return config
    return config.model_copy(update={"architecture": huggingface.find_architecture(config, inputs, outputs)})


def check_outputs(module: nn.Module, config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> None:
    """Run the model once. Raises UsageError when it does not give what is wanted for such inputs."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            found = module.eval()(inputs.example(2))
    except Exception as error:  # whatever another library's code does with inputs that it is not made for
        raise UsageError(
            f"model.name: {config.name} cannot take inputs {list(inputs.shape)} ({inputs.kind}): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; model.args may say how it is made for them"
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    wanted = [2, *outputs.shape(inputs)]
    got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if got != wanted:
        raise UsageError(
            f"model.name: {config.name} gives {got} for a batch of 2; the task needs a tensor {wanted}. A class of "
            "one's own is told by arguments that are named num_classes, in_channels, inputs or outputs"
        )


def _build_own(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Called with `args`, and with what its parameters of these names ask for."""
    make = import_named(config.name, f"model.name: {config.name}")
    known = {
        "inputs": inputs,
        "outputs": outputs,
        "in_channels": inputs.shape[0],
        "in_chans": inputs.shape[0],
        "num_classes": outputs.count,
    }
    try:
        asked = inspect.signature(make).parameters
        module = make(**{name: value for name, value in known.items() if name in asked}, **config.args)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model.args: {config.name} cannot be made with {config.args}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"model.name: {config.name} gives a {type(module).__name__}; allowed: a torch.nn.Module")
    return module


_LIBRARIES: dict[str, Builder] = {
    "timm": vision_library.build_timm,
    "torchvision": vision_library.build_torchvision,
    "hf": huggingface.build_huggingface,
}
