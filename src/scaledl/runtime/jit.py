"""The one adapter around torch.jit.

From 2.9 on, torch warns at every use of TorchScript, with no date for its end. Those warnings are silenced here, around
each call, and nowhere else.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from scaledl.errors import UsageError

# What torch raises for code that TorchScript cannot express, or whose source is missing.
SCRIPT_ERRORS = (RuntimeError, OSError, TypeError, ValueError, AttributeError, torch.jit.frontend.FrontendError)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is (deprecated|not supported)")
        warnings.filterwarnings("ignore", message="The TorchScript type system doesn't")  # torch's own int8 modules
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # it asks for every attribute
        yield


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """Compile `module` as it is, from its source.

    Raises:
        SCRIPT_ERRORS: the module cannot be compiled.
    """
    _forget_dead_builtins(module)
    with _quiet():
        scripted: torch.jit.ScriptModule = torch.jit.script(module)
    return scripted


def script_and_freeze(module: nn.Module) -> torch.jit.ScriptModule:
    """Compile `module` (in eval mode), turn its weights into constants and fold BatchNorm into the convolutions.

    A traced module loses its type annotations.

    Raises:
        SCRIPT_ERRORS: the module cannot be compiled.
    """
    if isinstance(module, fx.GraphModule):
        _fix_defaults_(module)
        _drop_annotations_(module)
    scripted = script(module)
    with _quiet():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(scripted)
    return frozen


def trace_and_freeze(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Record what `module` (in eval mode) does with `example`, and freeze that: whatever depends on values is fixed.

    Raises:
        SCRIPT_ERRORS: the module cannot be traced.
    """
    with _quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about values that the trace takes for constants, which is said elsewhere
        traced: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
    return traced


def save_bytes(module: torch.jit.ScriptModule, extra_files: Mapping[str, bytes]) -> bytes:
    """The TorchScript archive of `module`, as the bytes of a file."""
    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(module, buffer, _extra_files=dict(extra_files))
    return buffer.getvalue()


def load_bytes(data: bytes) -> torch.jit.ScriptModule:
    """The module in a TorchScript archive, on the CPU. This can run code: check where `data` comes from first."""
    with _quiet():
        module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location="cpu")
    return module


def _forget_dead_builtins(module: nn.Module) -> None:
    """torch knows its functions by `id`, also those that are gone: an attribute in their place in memory is then taken
    for one of them, and the module does not compile ("builtin cannot be used as a value"), once in some hundred times.
    """
    known = torch.jit._builtins._get_builtin_table()
    for part in module.modules():
        for value in vars(part).values():
            if not callable(value):
                known.pop(id(value), None)


def _fix_defaults_(module: fx.GraphModule) -> None:
    """Put the defaults of a traced forward in the place of its arguments: without annotations they count as tensors."""
    for node in [node for node in module.graph.nodes if node.op == "placeholder" and node.args]:
        if isinstance(node.args[0], bool | int | float | str | None):
            for user in list(node.users):
                _put(user, node, node.args[0])
            module.graph.erase_node(node)


def _put(user: fx.Node, node: fx.Node, value: Any) -> None:
    def found(argument: fx.Node) -> Any:
        return value if argument is node else argument

    user.args = fx.map_arg(user.args, found)
    user.kwargs = fx.map_arg(user.kwargs, found)


def _drop_annotations_(module: fx.GraphModule) -> None:
    """A traced forward whose annotations were strings (PEP 563) keeps them under names that do not resolve."""
    for node in module.graph.nodes:
        node.type = None
    module.recompile()


@contextmanager
def quantized_engine(engine: str | None) -> Iterator[None]:
    """Pack int8 weights for `engine` inside the block; None leaves the engine as it is.

    The engine is not stored in a TorchScript file: the weights are packed again, for the engine then set, at each load.
    """
    if engine is None:
        yield
        return
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if engine not in supported:
        raise UsageError(f"int8 engine {engine!r} is not available on this machine, which has: {', '.join(supported)}")
    _spend_int8_warning()
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@cache
def _spend_int8_warning() -> None:
    """Have torch say here that quantized tensors are deprecated: once a process, and from TorchScript unstoppably."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
