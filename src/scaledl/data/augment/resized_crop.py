"""A random part of each image, resized to the whole (Szegedy et al. 2015), drawn as torchvision draws it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scaledl.data.augment.draws import between
from scaledl.data.hashing import (
    RESIZE_AREA,
    RESIZE_RATIO,
    RESIZE_X,
    RESIZE_Y,
    hash_ids,
    hash_key,
    hash_positions,
    uniform,
)

RATIOS = (3 / 4, 4 / 3)  # width by height
_ATTEMPTS = 10


def draw_resized_crop(
    ids: Tensor, area: tuple[float, float], seed: int, epoch: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of each sample's part, int64 [B].

    Of ten parts with an area in this range of shares, and any of the ratios, the first that fits into the image counts;
    where none does, the largest in the middle that has an allowed ratio.

    Args:
        ids: int64 [B].
    """
    areas, ratios = (
        uniform(hash_positions(ids, hash_key(seed, epoch, draw), _ATTEMPTS)) for draw in (RESIZE_AREA, RESIZE_RATIO)
    )
    areas = between(areas, *area) * (height * width)
    ratios = between(ratios, *map(math.log, RATIOS)).exp()
    heights, widths = (areas / ratios).sqrt().round().long(), (areas * ratios).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    most_high, most_wide = _largest(height, width)
    high = torch.where(found, heights.gather(1, first).squeeze(1), most_high)
    wide = torch.where(found, widths.gather(1, first).squeeze(1), most_wide)
    places = uniform(hash_ids(ids, [hash_key(seed, epoch, draw) for draw in (RESIZE_Y, RESIZE_X)]))
    top = torch.where(found, (places[0] * (height - high + 1)).long(), (height - high) // 2)
    left = torch.where(found, (places[1] * (width - wide + 1)).long(), (width - wide) // 2)
    return top, left, high, wide


def resized_crop(x: Tensor, top: Tensor, left: Tensor, high: Tensor, wide: Tensor) -> Tensor:
    """Each image's part, bilinearly as large as the image: float32 [B, C, H, W]; the others int64 [B]."""
    return _stretched(_stretched(x, top, high).mT, left, wide).mT.contiguous()


def _largest(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest part with an allowed ratio."""
    if width / height < RATIOS[0]:
        return round(width / RATIOS[0]), width
    if width / height > RATIOS[1]:
        return height, round(height * RATIOS[1])
    return height, width


def _stretched(x: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Rows start..start+length-1 of each image, drawn out to all its rows. A pixel has its value in its middle."""
    count = x.shape[2]
    steps = torch.arange(count, dtype=torch.float64, device=x.device) + 0.5
    places = (steps * (length / count).unsqueeze(1) - 0.5).clamp_(min=0)
    before = places.long()
    share = (places - before).to(x.dtype).view(len(x), 1, count, 1)
    last = (length - 1).unsqueeze(1)
    near, far = (
        x.gather(2, (start.unsqueeze(1) + rows).view(len(x), 1, count, 1).expand(-1, x.shape[1], -1, x.shape[3]))
        for rows in (before, torch.minimum(before + 1, last))
    )
    return near + (far - near) * share
