"""Widths of MLPs in other libraries' transformers, whose layers Torch-Pruning does not see together.

GPT-2's are transformers' Conv1D, BERT's lie in two parts, and in Llama's and T5's later ones two layers are multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from scaledl.compress.groups import Cut, Group, Size, one_each, tensors
from scaledl.models.int8_layers import is_conv1d


def mlp_groups(module: nn.Module) -> Iterator[Group]:
    """A group for each MLP of a known kind."""
    for part in module.modules():
        layers = dict(part.named_modules()) if {"c_fc", "intermediate", "gate_proj", "wi_0"} & _children(part) else {}
        if _are(layers, nn.Module, "c_fc", "c_proj") and is_conv1d(layers["c_fc"]) and is_conv1d(layers["c_proj"]):
            yield _of_conv1d(layers["c_fc"], layers["c_proj"])
        elif _are(layers, nn.Linear, "intermediate.dense", "output.dense"):
            yield from _of_linear([layers["intermediate.dense"]], layers["output.dense"])
        elif _are(layers, nn.Linear, "gate_proj", "up_proj", "down_proj"):
            yield from _of_linear([layers["gate_proj"], layers["up_proj"]], layers["down_proj"])
        elif _are(layers, nn.Linear, "wi_0", "wi_1", "wo"):
            yield from _of_linear([layers["wi_0"], layers["wi_1"]], layers["wo"])


def _children(part: nn.Module) -> set[str]:
    return {name for name, _ in part.named_children()}


def _are(layers: dict[str, nn.Module], kind: type[nn.Module], *names: str) -> bool:
    return all(isinstance(layers.get(name), kind) for name in names)


def _of_conv1d(first: nn.Module, last: nn.Module) -> Group:
    """The weights are [in, out]."""
    units = one_each(len(first.get_parameter("bias")))
    cuts = (Cut(first, "weight", 1, units), Cut(first, "bias", 0, units), Cut(last, "weight", 0, units, reads=True))
    return Group(cuts, (Size(first, "nf"), Size(last, "nx")))


def _of_linear(makes: Sequence[nn.Module], reads: nn.Module) -> Iterator[Group]:
    width = reads.get_parameter("weight").shape[1]
    if all(len(layer.get_parameter("weight")) == width for layer in makes):
        units = one_each(width)
        cuts = [Cut(layer, name, 0, units) for layer in makes for name in tensors(layer)]
        sizes = [Size(layer, "out_features") for layer in makes]
        yield Group((*cuts, Cut(reads, "weight", 1, units, reads=True)), (*sizes, Size(reads, "in_features")))
