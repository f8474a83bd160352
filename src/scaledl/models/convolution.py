"""Convolutions with what follows them, over the steps of series (one dimension) or the pixels of images (two)."""

from __future__ import annotations

from typing import Any

from torch import nn

from scaledl.models.activations import build_activation

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
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
