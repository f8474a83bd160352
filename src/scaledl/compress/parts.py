"""Hidden widths: what can be pruned of a model whose layers as a whole do not follow from one another.

A hidden width lies between one layer that makes it and those that read it, with nothing but activations and norms in
between: the wide layer of a transformer's MLP, the inner channels of a block. Nothing else changes with it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

ROOTS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_MIXES = tuple(tp.ops.OPTYPE[name] for name in ("CONCAT", "SPLIT", "SLICE", "UNBIND", "PARAMETER"))


def hidden_groups(module: nn.Module, example: Tensor, *, whole: bool = True) -> list[tuple[Any, Any]]:
    """Pairs of a dependency graph and a group of it, one for each hidden width.

    The graphs are those of blocks, which hold two or more layers themselves; without such, if `whole`, that of the
    module, which takes minutes for some.
    """
    found = [pair for part, inputs in _blocks(module, example) for pair in _hidden(part, inputs)]
    return found or (_hidden(module, example) if whole else [])


def _hidden(part: nn.Module, example: Tensor) -> list[tuple[Any, Any]]:
    graph = _graph(part, example)
    if graph is None:
        return []
    return [(graph, group) for group in graph.get_all_groups(root_module_types=list(ROOTS)) if _is_hidden(group)]


def _blocks(module: nn.Module, example: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """The modules with several layers of their own, each with the tensor that it is called with."""
    wanted = [part for part in module.modules() if sum(isinstance(child, ROOTS) for child in part.children()) > 1]
    seen: dict[nn.Module, Tensor] = {}

    def keep(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
            seen[part] = args[0].detach().clone()

    hooks = [part.register_forward_pre_hook(keep, with_kwargs=True) for part in wanted]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.items())


def _graph(part: nn.Module, example: Tensor) -> Any:
    """None where Torch-Pruning cannot follow what the part computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(part, example_inputs=example)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError):
            return None


def _is_hidden(group: Any) -> bool:
    layers = [dep for dep, _ in group if isinstance(dep.target.module, ROOTS) and not _is_depthwise(dep.target.module)]
    makes = [dep for dep in layers if "out_channels" in dep.handler.__name__]
    mixed = any(dep.target.type in _MIXES for dep, _ in group)
    return len(makes) == 1 and len(layers) > 1 and not mixed and len({len(idxs) for _, idxs in group}) == 1


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels == layer.in_channels
