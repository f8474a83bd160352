"""Autograd without gathered weights: ZeRO-3 frees them after a layer's forward pass, unless autograd keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Place:
    """A saved tensor that is a parameter, or a view on the whole of one."""

    parameter: nn.Parameter
    size: torch.Size
    stride: tuple[int, ...]


class SavedWeights:
    """Lets autograd remember which parameter it needs instead of its values; the backward pass gathers it again.

    DeepSpeed does this for nn.functional.linear, which it replaces for the whole process. This works for every layer.
    """

    def __init__(self, module: nn.Module) -> None:
        self._live: dict[int, nn.Parameter] = {}  # by address, while their layer runs
        for part in module.modules():
            if part._parameters:
                part.register_forward_pre_hook(self._enter)
                part.register_forward_hook(self._leave, always_call=True)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What runs inside keeps no weights."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        for parameter in module._parameters.values():
            if parameter is not None:
                self._live[parameter.data_ptr()] = parameter

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Also what lay there before: another tensor will.
        for address in [a for a, p in self._live.items() if any(p is own for own in module._parameters.values())]:
            del self._live[address]

    def _pack(self, tensor: Tensor) -> Tensor | _Place:
        parameter = self._live.get(tensor.data_ptr())
        if parameter is None or tensor.numel() != parameter.numel():
            return tensor
        return _Place(parameter, tensor.size(), tensor.stride())

    @staticmethod
    def _unpack(saved: Tensor | _Place) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        parameter: Any = saved.parameter
        if parameter.numel() == 0:
            parameter.all_gather()
        values: Tensor = parameter.detach()
        return values.as_strided(saved.size, saved.stride, values.storage_offset())
