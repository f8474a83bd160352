"""Modules built without values, and given them parameter by parameter: the whole is never in memory twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def blank_parameters() -> Iterator[None]:
    """Inside, new modules have parameters with a shape and no values (torch's meta device). Buffers are real."""
    register = nn.Module.register_parameter

    def register_blank(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_blank  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill(module: nn.Module, blank: nn.Parameter, value: Tensor) -> nn.Parameter:
    """Put a parameter with this value wherever `module` has the blank one."""
    parameter = nn.Parameter(value, requires_grad=blank.requires_grad)
    for part in module.modules():
        for name, found in part._parameters.items():
            if found is blank:
                part._parameters[name] = parameter
    return parameter


def filled(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """`module`, whose parameters are blank, with those of `state` themselves, not copies; its buffers are copied."""
    for name, blank in list(module.named_parameters()):
        fill(module, blank, state[name])
    module.load_state_dict({name: state[name] for name, _ in module.named_buffers() if name in state}, strict=False)
    return module


def empty_like(blank: nn.Parameter) -> Tensor:
    """Room on the CPU for its values."""
    return torch.empty(blank.shape, dtype=blank.dtype)
