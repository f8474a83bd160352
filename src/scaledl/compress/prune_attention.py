"""The groups of a transformer for texts or series: whole heads (Michel et al. 2019), and hidden units of each block.

What runs from block to block keeps its width: LayerNorm mixes all of it, so that no part can go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from scaledl.compress.groups import Cut, Group, Size, blocks, one_each
from scaledl.models.attention import SelfAttention
from scaledl.models.blocks import Block
from scaledl.models.gpt import GPT
from scaledl.models.transformer import Transformer


def attention_groups(module: nn.Module) -> Iterator[Group]:
    """Every group of a `Transformer` or `GPT`; none of another module."""
    if not isinstance(module, Transformer | GPT):
        return
    for block in module.blocks:
        assert isinstance(block, Block), type(block)
        yield _heads(block.attention)
        yield _hidden(block)


def _heads(layer: SelfAttention) -> Group:
    index = blocks(layer.num_heads, layer.head_dim)
    inner = (layer.q, layer.k, layer.v)
    cuts = [Cut(part, name, 0, index) for part in inner for name in ("weight", "bias")]
    sizes = [Size(part, "out_features", layer.head_dim) for part in inner]
    return Group(
        (*cuts, Cut(layer.out, "weight", 1, index)),
        (*sizes, Size(layer.out, "in_features", layer.head_dim), Size(layer, "num_heads")),
        width=layer.head_dim,
    )


def _hidden(block: Block) -> Group:
    first, last = block.feed[0], block.feed[2]
    assert isinstance(first, nn.Linear), type(first)
    units = one_each(first.out_features)
    cuts = (Cut(first, "weight", 0, units), Cut(first, "bias", 0, units), Cut(last, "weight", 1, units))
    return Group(cuts, (Size(first, "out_features"), Size(last, "in_features")))
