"""Groups of other libraries' transformers that a model runs without, which is tried on a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scaledl.compress.groups import Group
from scaledl.compress.prune_heads import block_head_groups, head_groups, kind_of, stack_head_groups
from scaledl.compress.prune_mlps import mlp_groups
from scaledl.runtime.signature import Inputs

GroupsFn = Callable[[nn.Module], Iterable[Group]]
_NOISE = 0.02  # in the copy: a table that is all zeros, or a layer that nothing reads yet, would hide what goes wrong


def library_groups(module: nn.Module, inputs: Inputs) -> tuple[list[Group], list[Group], str]:
    """Those of heads and those of MLPs, and why there are none of heads: empty where there are."""
    mlps = [] if obstacle(module, mlp_groups, inputs) else list(mlp_groups(module))
    reasons = []
    for groups_fn in (head_groups, block_head_groups, stack_head_groups):
        reasons.append(obstacle(module, groups_fn, inputs))
        if not reasons[-1]:
            return list(groups_fn(module)), mlps, ""
    return [], mlps, reasons[0]


@torch.no_grad()
def obstacle(module: nn.Module, groups_fn: GroupsFn, inputs: Inputs) -> str:
    """Why a model cannot do without channels of these groups; empty where it can.

    A copy without the first channel of each must compute what one does that does not listen to them. The last group
    of each kind goes before the others, so that those which must stay alike are found out.
    """
    trial, x = copy.deepcopy(module).double().eval(), inputs.example(2)
    x = x.double() if x.is_floating_point() else x
    groups = list(groups_fn(trial))
    if not groups:
        return "none is of a kind that is known, with queries, keys and values of its own"
    _disturb_(trial)
    for cut in (cut for group in groups for cut in group.cuts if cut.reads):
        cut.module.get_parameter(cut.name).index_fill_(cut.dim, cut.index[0], 0.0)
    try:
        expected = trial(x)
        for some in _turns(trial, groups):
            for group in some:
                group.remove_([0])
            if not _equal(trial(x), expected):
                return "a copy without the first of each gives other outputs"
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"a copy without the first of each fails ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return ""


def _disturb_(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=_NOISE)


def _turns(module: nn.Module, groups: Sequence[Group]) -> Iterator[list[Group]]:
    names = {part: name for name, part in module.named_modules()}
    last = set({kind_of(names[group.cuts[-1].module]): number for number, group in enumerate(groups)}.values())
    yield [groups[number] for number in sorted(last)]
    if len(last) < len(groups):
        yield [group for number, group in enumerate(groups) if number not in last]


def _equal(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale)
