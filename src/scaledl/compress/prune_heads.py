"""Whole heads of other libraries' attention (Michel et al. 2019).

Where a layer divides what it gets by the size of a head, as Hugging Face's do, a head can go without the code being
told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from scaledl.compress.attention import query_key_value
from scaledl.compress.groups import Cut, Group, Size, blocks, tensors
from scaledl.models.int8_layers import is_conv1d

_OUT = ("o_proj", "out_proj", "out_lin", "dense")
_HEAD_SIZES = ("attention_head_size", "head_dim")
_HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads")


def head_groups(module: nn.Module) -> Iterator[Group]:
    """A group for each attention of several heads, all of which have queries, keys and values of their own."""
    for part in module.modules():
        yield from _fused(part)
        yield from _separate(part, part)
        inner = getattr(part, "self", None) or getattr(part, "attention", None)
        if isinstance(inner, nn.Module) and isinstance(output := getattr(part, "output", None), nn.Module):
            yield from _separate(inner, output)


def _separate(layer: nn.Module, holder: nn.Module) -> Iterator[Group]:
    """Queries, keys and values from a linear layer each; `holder` has the layer that reads what the heads give."""
    inner = query_key_value(layer)
    out = next((part for name in _OUT if isinstance(part := getattr(holder, name, None), nn.Linear)), None)
    size = next((value for name in _HEAD_SIZES if isinstance(value := getattr(layer, name, None), int)), 0)
    if not inner or out is None or size < 1:
        return
    width = out.in_features
    if width % size or width == size or any(part.out_features != width for part in inner):
        return
    index = blocks(width // size, size)
    cuts = [Cut(part, name, 0, index) for part in inner for name in tensors(part)]
    sizes = [*(Size(part, "out_features", size) for part in inner), Size(out, "in_features", size)]
    sizes += [Size(layer, name) for name in _HEAD_COUNTS if isinstance(getattr(layer, name, None), int)]
    if getattr(layer, "all_head_size", None) == width:
        sizes.append(Size(layer, "all_head_size", size))
    yield Group((*cuts, Cut(out, "weight", 1, index)), tuple(sizes), width=size)


def _fused(layer: Any) -> Iterator[Group]:
    """GPT-2's: one Conv1D, whose weight is [in, out], for queries, keys and values."""
    first, out = getattr(layer, "c_attn", None), getattr(layer, "c_proj", None)
    if not (isinstance(first, nn.Module) and isinstance(out, nn.Module) and is_conv1d(first) and is_conv1d(out)):
        return
    size, heads = int(layer.head_dim), int(layer.num_heads)
    if heads < 2 or len(first.get_parameter("bias")) != 3 * heads * size:
        return
    thirds = torch.arange(3 * heads * size).view(3, heads, size).transpose(0, 1).flatten(1)
    made = (Cut(first, "weight", 1, thirds), Cut(first, "bias", 0, thirds))
    sizes = (Size(first, "nf", 3 * size), Size(out, "nx", size), Size(layer, "split_size", size))
    yield Group((*made, Cut(out, "weight", 0, blocks(heads, size))), (*sizes, Size(layer, "num_heads")), width=size)
