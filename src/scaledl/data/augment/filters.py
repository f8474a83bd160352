"""Blur, sharpness, noise and cutout. Pixels are float32 [B, C, H, W], 0..255."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.data.augment.color import per_sample


def blur_radius(largest_sigma: float, height: int, width: int) -> int:
    """Pixels of the kernel to each side: three deviations, as far as the image can be mirrored."""
    return max(0, min(math.ceil(3 * largest_sigma), height - 1, width - 1))


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with mirrored edges; sigma float64 [B] in pixels, kernel of 2 * radius + 1. Whole levels."""
    distance = torch.arange(radius + 1, dtype=torch.float64, device=x.device)
    side = torch.exp(-((distance / sigma.unsqueeze(1)) ** 2) / 2)
    weights = (side / (2 * side.sum(1, keepdim=True) - 1)).float()
    return _convolve(_convolve(x, weights, 2), weights, 3).round_()


def _convolve(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    """With a symmetric kernel along `dim`: weights [B, radius + 1] from its middle to its edge."""
    radius, size = weights.shape[1] - 1, x.shape[dim]
    mirrored = F.pad(x, (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0), mode="reflect")
    result = x * per_sample(weights[:, 0])
    for k in range(1, radius + 1):
        pair = mirrored.narrow(dim, radius - k, size) + mirrored.narrow(dim, radius + k, size)
        result += pair.mul_(per_sample(weights[:, k]))
    return result


def sharpen(x: Tensor, factor: Tensor) -> Tensor:
    """Away from (factor > 1) or towards a 3x3 mean that counts the middle five times; edges stay. factor [B].

    As torchvision-v2 for uint8; whole levels in, whole levels out.
    """
    if min(x.shape[2:]) <= 2:
        return x
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    inner = x[:, :, 1:-1, 1:-1]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(inner * 4).div_(13).round_()
    result = x.clone()
    result[:, :, 1:-1, 1:-1] += (smooth - inner).mul_(per_sample(1 - factor))
    return result.clamp_(0, 255).floor_()


def add_noise(x: Tensor, normal: Tensor, sigma: float) -> Tensor:
    """Add sigma * 255 times standard normal values ([B, C * H * W]); cut to 0..255."""
    return (normal.view_as(x) * (sigma * 255)).add_(x).clamp_(0, 255)


def inside(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in a box of each sample (int64 [B], the last two exclusive): bool [B, 1, H, W]."""
    rows = torch.arange(height, device=top.device).view(1, -1, 1)
    columns = torch.arange(width, device=top.device).view(1, 1, -1)
    top, left, bottom, right = (edge.view(-1, 1, 1) for edge in (top, left, bottom, right))
    return ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).unsqueeze(1)


def cutout(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """A black square at (top, left), int64 [B] (DeVries and Taylor 2017; wholly inside, as RandomErasing)."""
    return x.masked_fill(inside(top, left, top + side, left + side, *x.shape[2:]), 0)
