"""Groups of channels that we know ourselves, of layers whose dependencies Torch-Pruning cannot follow.

A group is a number of channels, and all places in tensors that belong to each of them: a unit of an LSTM is a row in
each of the four gates of three tensors and a column in what reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cut:
    """The tensor `module.name` loses channels along `dim`; channel c are its places index[c], int64 [channels, N].

    `reads`: a weight that the channels are multiplied with, so that zeros there leave them unheard.
    """

    module: nn.Module
    name: str
    dim: int
    index: Tensor
    reads: bool = False

    def remove_(self, channels: list[int]) -> None:
        """Slice the tensor, in place."""
        old = self.module.get_parameter(self.name)
        stays = torch.ones(old.shape[self.dim], dtype=torch.bool)
        stays[self.index[channels].flatten()] = False
        new = old.detach().index_select(self.dim, stays.nonzero().squeeze(1)).clone()
        setattr(self.module, self.name, nn.Parameter(new, requires_grad=old.requires_grad))

    def values(self) -> Tensor:
        """Values and gradients by channel, [channels, values, 2]; gradients of zero where there are none."""
        tensor = self.module.get_parameter(self.name)
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        pair = torch.stack([tensor.detach(), gradient], -1)
        return pair.movedim(self.dim, 0)[self.index].flatten(1, -2)


@dataclass(frozen=True)
class Size:
    """An int attribute that becomes smaller by `each` with every channel."""

    module: nn.Module
    name: str
    each: int = 1


@dataclass(frozen=True)
class Group:
    """Channels that go together from all `cuts`; `sizes` follow. `width` is how many values a channel is for kernels.

    Where two groups cut the same dimension of a tensor, the one with the later places has to go first.
    """

    cuts: tuple[Cut, ...]
    sizes: tuple[Size, ...]
    width: int = 1

    @property
    def channels(self) -> int:
        return len(self.cuts[-1].index)

    def remove_(self, channels: list[int]) -> None:
        """Slice all tensors, in place, and set the sizes."""
        for cut in self.cuts:
            cut.remove_(channels)
        for size in self.sizes:
            setattr(size.module, size.name, getattr(size.module, size.name) - size.each * len(channels))


@dataclass(frozen=True)
class Removal:
    """Channels of a group that go."""

    group: Group
    channels: list[int]

    def prune(self) -> None:
        """Slice them away, in place."""
        self.group.remove_(self.channels)


def magnitude(group: Group) -> Tensor:
    """The norm of each channel's weights, divided by the mean over the channels, [channels]; without biases."""
    squares = [cut.values()[..., 0].square().sum(1) for cut in group.cuts if _is_weight(cut)]
    return _relative(torch.stack(squares).sum(0).sqrt())


def taylor(group: Group) -> Tensor:
    """|weight * gradient|, summed over each channel (Molchanov et al. 2019), divided by the mean, [channels]."""
    terms = [cut.values().prod(-1).abs().sum(1) for cut in group.cuts if _is_weight(cut)]
    return _relative(torch.stack(terms).sum(0))


SCORES: dict[str, Callable[[Group], Tensor]] = {"magnitude": magnitude, "taylor": taylor}


def one_each(count: int, offset: int = 0) -> Tensor:
    """The index of channels that are one place each."""
    return torch.arange(offset, offset + count).unsqueeze(1)


def blocks(count: int, size: int, offset: int = 0) -> Tensor:
    """The index of channels that are `size` places next to each other."""
    return torch.arange(offset, offset + count * size).view(count, size)


def strided(count: int, parts: int) -> Tensor:
    """The index of channels with a place in each of `parts` equal parts."""
    return torch.arange(count * parts).view(parts, count).T


def tensors(layer: nn.Module) -> tuple[str, ...]:
    """The names of a layer's weight and, where it has one, bias."""
    return tuple(name for name in ("weight", "bias") if getattr(layer, name, None) is not None)


def _is_weight(cut: Cut) -> bool:
    return cut.module.get_parameter(cut.name).dim() > 1


def _relative(score: Tensor) -> Tensor:
    return (score / score.mean()).nan_to_num(0.0)
