"""What is pruned of GPT-2 and its like, whose layers are transformers' Conv1D: the widths of their MLPs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from scaledl.compress.groups import Cut, Group, Size, one_each
from scaledl.models.int8_layers import is_conv1d


def conv1d_groups(module: nn.Module) -> Iterator[Group]:
    """A group for each MLP of `module`; weights of its layers are [in, out]."""
    for part in module.modules():
        layers = dict(part.named_children())
        first: Any = layers.get("c_fc")
        last: Any = layers.get("c_proj")
        if first is not None and last is not None and is_conv1d(first) and is_conv1d(last):
            units = one_each(first.nf)
            cuts = (Cut(first, "weight", 1, units), Cut(first, "bias", 0, units), Cut(last, "weight", 0, units))
            yield Group(cuts, (Size(first, "nf"), Size(last, "nx")))
