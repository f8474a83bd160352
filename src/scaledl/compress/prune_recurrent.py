"""The groups of a recurrent model: the units of each layer and direction, and the width of the embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from scaledl.compress.groups import Cut, Group, Size, one_each, strided
from scaledl.models.recurrent import OneWay, Recurrent, TwoWay
from scaledl.models.steps import TextFront


def recurrent_groups(module: nn.Module) -> Iterator[Group]:
    """Every group of a `Recurrent`; none of another module."""
    if not isinstance(module, Recurrent):
        return
    readers: list[nn.Module] = [module.head]
    if len(module.dense):
        dense = module.dense[0]
        assert isinstance(dense, nn.Linear), type(dense)
        units = one_each(dense.out_features)
        cuts = (Cut(dense, "weight", 0, units), Cut(dense, "bias", 0, units), *_read(readers, dense.out_features))
        yield Group(cuts, (Size(dense, "out_features"), *_input_sizes(readers)))
        readers = [dense]
    sizes: tuple[Size, ...] = (Size(module.pool, "ahead"),)
    for layer in reversed(module.layers):
        assert isinstance(layer, OneWay | TwoWay), type(layer)
        if isinstance(layer, TwoWay):
            yield _units(layer.back, readers, layer.ahead.hidden_size)
        yield _units(layer.ahead, readers, 0, sizes)
        readers, sizes = [layer.ahead, layer.back] if isinstance(layer, TwoWay) else [layer.ahead], ()
    if isinstance(module.front, TextFront):
        embed = module.front.embed
        width = embed.embedding_dim
        cuts = (Cut(embed, "weight", 1, one_each(width)), *_read(readers, width))
        yield Group(cuts, (Size(embed, "embedding_dim"), *_input_sizes(readers)))


def _units(layer: nn.RNNBase, readers: Sequence[nn.Module], offset: int, sizes: tuple[Size, ...] = ()) -> Group:
    """The hidden units of a layer: in each gate a row, and a column in what reads them, from `offset` on."""
    hidden = layer.hidden_size
    gates = strided(hidden, layer.get_parameter("weight_hh_l0").shape[0] // hidden)
    own = [Cut(layer, name, 0, gates) for name, _ in layer.named_parameters()]
    across = Cut(layer, "weight_hh_l0", 1, one_each(hidden))
    cuts = (*own, across, *_read(readers, hidden, offset))
    return Group(cuts, (Size(layer, "hidden_size"), *_input_sizes(readers), *sizes))


def _read(readers: Sequence[nn.Module], width: int, offset: int = 0) -> list[Cut]:
    names = ["weight" if isinstance(reader, nn.Linear) else "weight_ih_l0" for reader in readers]
    return [Cut(reader, name, 1, one_each(width, offset)) for reader, name in zip(readers, names, strict=True)]


def _input_sizes(readers: Sequence[nn.Module]) -> list[Size]:
    return [Size(reader, "in_features" if isinstance(reader, nn.Linear) else "input_size") for reader in readers]
