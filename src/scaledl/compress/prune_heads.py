"""Whole heads of other libraries' attention (Michel et al. 2019).

Where a layer divides what it gets by the size of a head, as Hugging Face's do, a head can go without the code being
told. With it goes what else is kept for each head: a bias of positions, a projection of them, a scale.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from scaledl.compress.attention import query_key_value
from scaledl.compress.groups import Cut, Group, Size, blocks, one_each, tensors
from scaledl.models.int8_layers import is_conv1d

_OUT = ("o_proj", "out_proj", "out_lin", "dense", "o")
_IN_ONE = ("query_key_value", "in_proj")  # one head after the other, of each its query, key and value
_HEAD_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")
_HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads")
_WIDTHS = ("all_head_size", "inner_dim", "hidden_size")


def head_groups(module: nn.Module) -> Iterator[Group]:
    """A group for each attention of several heads, all of which have queries, keys and values of their own."""
    for _, group in _attentions(module):
        yield group


def block_head_groups(module: nn.Module) -> Iterator[Group]:
    """As `head_groups`, with what lies beside an attention in its block, as in BEiT."""
    for name, group in _attentions(module):
        yield _joined([*_beside(module.get_submodule(name.rpartition(".")[0]), [group]), group])


def stack_head_groups(module: nn.Module) -> Iterator[Group]:
    """A group for each stack of attentions, which lose the same heads because they share what is kept for each.

    It lies in one of them, as in T5, or beside the stack, as in MPNet.
    """
    stacks: dict[tuple[str, int, int], list[Group]] = defaultdict(list)
    for name, group in _attentions(module):
        stacks[kind_of(name), group.channels, group.width].append(group)
    for (kind, *_), found in stacks.items():
        owner = kind.partition(".*")[0].rpartition(".")[0]
        yield _joined([*_beside(module.get_submodule(owner), found), *found])


def kind_of(name: str) -> str:
    """What the modules of a stack have in common in their names.

    >>> kind_of("encoder.block.0.layer.1.attention")
    'encoder.block.*.layer.*.attention'
    """
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _beside(owner: nn.Module, attentions: Sequence[Group]) -> Iterator[Group]:
    """What other parts of `owner` keep for each head of these."""
    layers = {cut.module for group in attentions for cut in group.cuts}
    others = [child for child in owner.children() if layers.isdisjoint(child.modules())]
    yield from _for_each_head(others, attentions[0].channels)


def _attentions(module: nn.Module) -> Iterator[tuple[str, Group]]:
    for name, part in module.named_modules():
        found = [*_conv1d(part), *_linear(part, part)]
        inner = getattr(part, "self", None) or getattr(part, "attention", None)
        if isinstance(inner, nn.Module) and isinstance(output := getattr(part, "output", None), nn.Module):
            found += _linear(inner, output)
        yield from ((name, group) for group in found)


def _linear(layer: nn.Module, holder: nn.Module) -> Iterator[Group]:
    """Queries, keys and values from linear layers; `holder` has the layer that reads what the heads give."""
    out = next((part for name in _OUT if isinstance(part := getattr(holder, name, None), nn.Linear)), None)
    size = next((value for name in _HEAD_SIZES if isinstance(value := getattr(layer, name, None), int)), 0)
    if out is None or size < 1 or out.in_features % size or out.in_features == size:
        return
    width, heads = out.in_features, out.in_features // size
    makers = query_key_value(layer) or _in_one(layer)
    if not makers or any(3 * width != len(makers) * part.out_features for part in makers):
        return
    others = [part for part in layer.children() if part is not out and part not in makers]
    positions = [part for part in others if isinstance(part, nn.Linear) and part.out_features == width]
    made = [_rows(part, heads) for part in (*makers, *positions)]
    made += [*_biases(layer, heads, width), *_for_each_head(others, heads)]
    sizes = [Size(layer, name) for name in _HEAD_COUNTS if getattr(layer, name, None) == heads]
    sizes += [Size(layer, name, size) for name in _WIDTHS if getattr(layer, name, None) == width]
    reads = Cut(out, "weight", 1, blocks(heads, size), reads=True)
    yield _joined([*made, Group((reads,), (Size(out, "in_features", size), *sizes), width=size)])


def _in_one(layer: nn.Module) -> list[nn.Linear]:
    return [part for name in _IN_ONE if isinstance(part := getattr(layer, name, None), nn.Linear)]


def _rows(layer: nn.Linear, heads: int) -> Group:
    """The same number of outputs for each head."""
    each = layer.out_features // heads
    index = blocks(heads, each)
    return Group(tuple(Cut(layer, name, 0, index) for name in tensors(layer)), (Size(layer, "out_features", each),))


def _biases(layer: nn.Module, heads: int, width: int) -> Iterator[Group]:
    """Parameters of the attention itself: vectors with as many values for each head, and tables with one."""
    for name, tensor in layer.named_parameters(recurse=False):
        if tensor.dim() == 1 and len(tensor) in (heads, width):
            yield Group((Cut(layer, name, 0, blocks(heads, len(tensor) // heads)),), ())
    yield from _tables(layer, heads)


def _for_each_head(parts: Iterable[nn.Module], heads: int) -> Iterator[Group]:
    """What layers and parameters within `parts` keep for each head, one value for each place."""
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, nn.Linear) and layer.out_features == heads:
            yield _rows(layer, heads)
        elif isinstance(layer, nn.Embedding) and layer.embedding_dim == heads:
            yield Group((Cut(layer, "weight", 1, one_each(heads)),), (Size(layer, "embedding_dim"),))
        elif not type(layer).__module__.startswith("torch."):
            yield from _tables(layer, heads)


def _tables(layer: nn.Module, heads: int) -> Iterator[Group]:
    """Swin's bias is [places, heads], the scale of its second version [heads, 1, 1]."""
    for name, tensor in layer.named_parameters(recurse=False):
        found = [dim for dim, length in enumerate(tensor.shape) if length == heads]
        if tensor.dim() > 1 and found:
            yield Group((Cut(layer, name, found[-1], one_each(heads)),), ())


def _joined(groups: Iterable[Group]) -> Group:
    """One group of them all, of the last one's width."""
    parts = list(groups)
    cuts, sizes = ([item for part in parts for item in getattr(part, name)] for name in ("cuts", "sizes"))
    return Group(tuple(cuts), tuple(sizes), width=parts[-1].width)


def _conv1d(layer: Any) -> Iterator[Group]:
    """GPT-2's: one Conv1D, whose weight is [in, out], for queries, keys and values."""
    first, out = getattr(layer, "c_attn", None), getattr(layer, "c_proj", None)
    if not (isinstance(first, nn.Module) and isinstance(out, nn.Module) and is_conv1d(first) and is_conv1d(out)):
        return
    size, heads = int(layer.head_dim), int(layer.num_heads)
    if heads < 2 or len(first.get_parameter("bias")) != 3 * heads * size:
        return
    thirds = torch.arange(3 * heads * size).view(3, heads, size).transpose(0, 1).flatten(1)
    made = (Cut(first, "weight", 1, thirds), Cut(first, "bias", 0, thirds))
    reads = Cut(out, "weight", 0, blocks(heads, size), reads=True)
    sizes = (Size(first, "nf", 3 * size), Size(out, "nx", size), Size(layer, "split_size", size))
    yield Group((*made, reads), (*sizes, Size(layer, "num_heads")), width=size)
