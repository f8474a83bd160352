"""Convolutions with what follows them, over the steps of series (one dimension) or the pixels of images (two)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.models.activations import build_activation

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
MAX_POOL: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVG_POOL: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
MEAN: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}
_BATCH: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
GROUPS = 8


def convolve(in_channels: int, out_channels: int, config: Any, dims: int, *, kernel_size: int = 3) -> list[nn.Module]:
    """Convolution, norm, activation: [B, in_channels, *size] -> [B, out_channels, *size].

    `config` is a FamilySection with the key `norm`.
    """
    conv = CONV[dims](in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=config.norm == "none")
    return [conv, *normed(out_channels, config, dims)]


def normed(channels: int, config: Any, dims: int) -> list[nn.Module]:
    """Norm and activation behind a convolution of any kind."""
    return [*_norm(config.norm, channels, dims), build_activation(config.activation)]


def _norm(kind: str, channels: int, dims: int) -> list[nn.Module]:
    """Ioffe & Szegedy 2015 (batch), Wu & He 2018 (group; of one group what Ba et al. 2016 call a layer)."""
    if kind == "none":
        return []
    if kind == "batch":
        return [_BATCH[dims](channels)]
    groups = 1 if kind == "layer" else next(count for count in range(GROUPS, 0, -1) if channels % count == 0)
    return [nn.GroupNorm(groups, channels)]


class Resize(nn.Module):
    """Maps of another size, each value from the nearest: [B, C, *] -> [B, C, *size].

    Before a convolution it does what a transposed one would, without its checkerboards (Odena et al. 2016), and in
    int8: torch's int8 kernels for transposed convolutions give wrong numbers. Steps are resized as pixels of one row,
    for which there is a kernel.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.is_series = len(size) == 1
        self.size = [1, *size][-2:]

    def forward(self, x: Tensor) -> Tensor:
        if self.is_series:
            return F.interpolate(x.unsqueeze(2), self.size).squeeze(2)
        return F.interpolate(x, self.size)


class Reshape(nn.Module):
    """[B, *] -> [B, *shape]."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = [-1, *shape]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)
