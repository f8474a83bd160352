"""Brightness, contrast, saturation, and what tables of levels do. Pixels are float32 [B, C, H, W], whole levels 0..255.

Results are what torchvision-v2 gives for uint8 images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ReferenceFn = Callable[[Tensor], Tensor]


def per_sample(values: Tensor) -> Tensor:
    """[B] -> float32 [B, 1, 1, 1]."""
    return values.float().view(-1, 1, 1, 1)


def blend(x: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    """x * factor + reference * (1 - factor), factor [B]; cut to 0..255, whole levels."""
    factor = per_sample(factor)
    return (x * factor).add_(reference * (1 - factor)).clamp_(0, 255).floor_()


def black(x: Tensor) -> Tensor:
    return x.new_zeros((1, 1, 1, 1))


def grey(x: Tensor) -> Tensor:
    """[B, 1, H, W], whole levels (ITU-R 601); images of other than three channels as they are."""
    if x.shape[1] != 3:
        return x
    weights = x.new_tensor([2989, 5870, 1140]).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True).div_(10_000).floor_()  # the sums are exact: below 2**24


def mean_grey(x: Tensor) -> Tensor:
    """[B, 1, 1, 1]. Summed in float64, where whole numbers are exact in any order."""
    return grey(x).mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()


REFERENCES: dict[str, ReferenceFn] = {"brightness": black, "contrast": mean_grey, "saturation": grey}


def jitter(x: Tensor, references: Sequence[ReferenceFn], factors: Tensor, order: Tensor) -> Tensor:
    """Blend with each of K references once.

    Args:
        references: functions of the pixels.
        factors: [K, B], of each reference.
        order: int64 [K, B]; which reference comes first, second, … for each sample.
    """
    for turn in order:
        factor = factors.gather(0, turn.unsqueeze(0))[0]
        x = blend(x, _chosen(x, references, turn), factor)
    return x


def _chosen(x: Tensor, references: Sequence[ReferenceFn], turn: Tensor) -> Tensor:
    chosen = references[0](x)
    for number, reference_fn in enumerate(references[1:], 1):
        chosen = torch.where(turn.view(-1, 1, 1, 1) == number, reference_fn(x), chosen)
    return chosen


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` ([B], 0..8) of 8 bits."""
    step = per_sample(2 ** (8 - bits))
    return (x / step).floor_().mul_(step)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from `threshold` ([B]) on."""
    # |255 - x| from the threshold on, |0 - x| below: without a mask of its own, ten times as fast as `where`.
    return (x - (per_sample(threshold).ceil() - 1)).clamp_(0, 1).mul_(255).sub_(x).abs_()


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one level stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high == low
    step = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return (x - low.masked_fill_(flat, 0)).div_(step).clamp_(0, 255).floor_()


def equalize(x: Tensor) -> Tensor:
    """Spread the levels of each channel evenly, by the rule of Pillow's `ImageOps.equalize`."""
    levels = x.flatten(2).long()
    counts = levels.new_zeros((*levels.shape[:2], 256)).scatter_add_(2, levels, torch.ones_like(levels))
    highest = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - counts.gather(2, highest)) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    spread = table.gather(2, levels).view(x.shape).to(x.dtype)
    return torch.where(step.unsqueeze(3) > 0, spread, x)
