"""Groups of other libraries' transformers that a model runs without, which is tried on a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import nn

from scaledl.compress.groups import Group
from scaledl.compress.prune_heads import head_groups
from scaledl.compress.prune_mlps import mlp_groups
from scaledl.runtime.signature import Inputs

GroupsFn = Callable[[nn.Module], Iterable[Group]]


def library_groups(module: nn.Module, inputs: Inputs) -> tuple[list[Group], list[Group]]:
    """Those of heads, and those of MLPs."""
    heads, mlps = (list(fn(module)) if go_alone(module, fn, inputs) else [] for fn in (head_groups, mlp_groups))
    return heads, mlps


@torch.no_grad()
def go_alone(module: nn.Module, groups_fn: GroupsFn, inputs: Inputs) -> bool:
    """Whether a copy without the first channel of each group computes what one does that does not listen to them."""
    if not any(True for _ in groups_fn(module)):
        return False
    trial, x = copy.deepcopy(module).double().eval(), inputs.example(2)
    x = x.double() if x.is_floating_point() else x
    groups = list(groups_fn(trial))
    for group in groups:
        reads = group.cuts[-1]
        reads.module.get_parameter(reads.name).index_fill_(reads.dim, reads.index[0], 0.0)
    try:
        expected = trial(x)
        for group in groups:
            group.remove_([0])
        actual = trial(x)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        return False
    scale = float(expected.abs().max())
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale)
