"""Rotation, shift, scale and shear: one affine map and one resampling for each sample."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.augment.draws import between, uniforms
from scaledl.data.hashing import ROTATION, SCALE, SHEAR, SHIFT_X, SHIFT_Y


class Affine(NamedTuple):
    """What happens to each sample, float64 [B]; of images of H x W pixels.

    Attributes:
        angle: of the rotation, clockwise, in radians.
        x, y: shift to the right and down, in pixels.
        scale: factor of size.
        shear_x, shear_y: tangents of the angles of shear.
        center_x, center_y: the point that stays, in pixels from the middle of the image.
    """

    angle: Tensor
    x: Tensor
    y: Tensor
    scale: Tensor
    shear_x: Tensor
    shear_y: Tensor
    center_x: Tensor
    center_y: Tensor

    @classmethod
    def identity(cls, like: Tensor) -> Affine:
        """Nothing happens to so many samples as `like` has values."""
        zeros = torch.zeros_like(like, dtype=torch.float64)
        return cls(zeros, zeros, zeros, zeros + 1, zeros, zeros, zeros, zeros)


def draw_affine(ids: Tensor, augment: AugmentConfig, seed: int, epoch: int, height: int, width: int) -> Affine:
    """As `RandomAffine` of torchvision-v2: whole pixels of shift, shear along x alone."""
    drawn = uniforms(ids, seed, epoch, (ROTATION, SHIFT_X, SHIFT_Y, SCALE, SHEAR))
    angle, x, y, scale, shear = drawn.unbind()
    rotation, shift, slant = math.radians(augment.rotation), augment.translation, math.radians(augment.shear)
    return Affine.identity(angle)._replace(
        angle=between(angle, -rotation, rotation),
        x=between(x, -shift * width, shift * width).round(),
        y=between(y, -shift * height, shift * height).round(),
        scale=between(scale, *augment.scale),
        shear_x=between(shear, -slant, slant).tan(),
    )


def source_matrix(affine: Affine) -> Tensor:
    """Where each pixel of the result comes from: float64 [B, 2, 3], in pixels from the middle.

    The inverse of shift * centre * rotation * scale * shear_y * shear_x * centre^-1 (torchvision's order).
    """
    cos, sin = affine.angle.cos(), affine.angle.sin()
    a, c = cos + sin * affine.shear_y, sin - cos * affine.shear_y
    b, d = -(a * affine.shear_x + sin), cos - c * affine.shear_x
    inverse = torch.stack([d, -b, -c, a], dim=-1).view(-1, 2, 2) / affine.scale.view(-1, 1, 1)
    center = torch.stack([affine.center_x, affine.center_y], dim=-1)
    moved = center + torch.stack([affine.x, affine.y], dim=-1)
    offset = center - (inverse * moved.unsqueeze(1)).sum(2)
    return torch.cat([inverse, offset.unsqueeze(2)], dim=2)


def resample(x: Tensor, matrix: Tensor, mode: Literal["nearest", "bilinear"]) -> Tensor:
    """Pixels x, float32 [B, C, H, W], from where `matrix` (`source_matrix`) says; black outside; whole levels.

    The grid is an outer sum, not a matrix product: cheaper, and the same to the last bit in a batch of any size.
    """
    height, width = x.shape[2:]
    halves = torch.tensor([[width / 2], [height / 2]], dtype=torch.float64, device=x.device)
    across, down, offset = (matrix / halves).float().view(-1, 2, 1, 1, 3).unbind(-1)
    columns = torch.arange(width, device=x.device, dtype=torch.float32) - (width - 1) / 2
    rows = (torch.arange(height, device=x.device, dtype=torch.float32) - (height - 1) / 2).unsqueeze(1)
    grid = across * columns + (down * rows + offset)
    pixels = F.grid_sample(x, grid.permute(0, 2, 3, 1), mode, padding_mode="zeros", align_corners=False)
    return pixels if mode == "nearest" else pixels.round_()
