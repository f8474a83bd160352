"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), with a partner from the whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Arrays
from scaledl.data.augment.draws import quantile, symmetric_beta_quantiles, uniforms
from scaledl.data.augment.filters import inside
from scaledl.data.augment.images import PixelsFn, float_pixels
from scaledl.data.hashing import (
    CUTMIX_X,
    CUTMIX_Y,
    MIX_KIND,
    MIX_WEIGHT,
    PARTNER,
    below,
    hash_ids,
    hash_key,
)


class MixDraws(NamedTuple):
    """Per sample [B]: row of the partner (int64), weights of the sample itself for either kind (float64), whether it
    is cut instead of mixed (bool), middle of the cut box (int64)."""

    partner: Tensor
    mixup_weight: Tensor
    cutmix_weight: Tensor
    cut: Tensor
    y: Tensor
    x: Tensor


def cut_box(draws: MixDraws, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom and right (exclusive), int64 [B]: a share 1 - weight of the image, cut off at its edges."""
    side = (1 - draws.cutmix_weight).sqrt() / 2
    down, across = (side * height).long(), (side * width).long()
    top, left = (draws.y - down).clamp(min=0), (draws.x - across).clamp(min=0)
    return top, left, (draws.y + down).clamp(max=height), (draws.x + across).clamp(max=width)


def draw_partners(ids: Tensor, counts: Tensor, seed: int, epoch: int) -> Tensor:
    """Of each sample the number of its partner among so many, both int64 [B]."""
    return below(hash_ids(ids, [hash_key(seed, epoch, PARTNER)]), counts)[0]


class Mix:
    """Mix each sample with a partner: any row of the split, by the sample's own hash, as it is in this epoch.

    With both kinds on, each sample takes one of them, evenly.
    """

    def __init__(
        self,
        arrays: Arrays,
        inputs_fn: PixelsFn,
        augment: AugmentConfig,
        num_classes: int,
        seed: int,
        partner_fn: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`inputs_fn` gives pixels; where samples are no images, and only mixup is on, values of any shape. Without
        `num_classes` the labels are numbers, or shares, themselves. `partner_fn`: rows -> those of their partners,
        where these are not drawn among all."""
        self._arrays, self._inputs_fn, self._seed, self._partner_fn = arrays, inputs_fn, seed, partner_fn
        self._num_classes, self._shape = num_classes, arrays.inputs.shape[1:]
        self._mixup, self._cutmix = augment.mixup > 0, augment.cutmix > 0
        device = arrays.inputs.device
        # Of what is off nothing is used.
        self._mixup_quantiles = symmetric_beta_quantiles(augment.mixup or 1.0).to(device)
        self._cutmix_quantiles = symmetric_beta_quantiles(augment.cutmix or 1.0).to(device)

    def draw(self, ids: Tensor, epoch: int) -> MixDraws:
        """What the samples `ids` (int64 [B]) are mixed with, and how."""
        height, width = self._shape[:2] if self._cutmix else (1, 1)
        keys = [hash_key(self._seed, epoch, draw) for draw in (PARTNER, MIX_KIND, CUTMIX_Y, CUTMIX_X)]
        partner, coin, y, x = below(hash_ids(ids, keys), (len(self._arrays), 2, height, width))
        [drawn] = uniforms(ids, self._seed, epoch, (MIX_WEIGHT,))
        cut = coin == 1 if self._mixup and self._cutmix else torch.full_like(coin, self._cutmix, dtype=torch.bool)
        weights = quantile(drawn, self._mixup_quantiles), quantile(drawn, self._cutmix_quantiles)
        return MixDraws(partner, *weights, cut, y, x)

    def __call__(self, rows: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs float32 [B, H, W, C] of 0..255, or [B, ...]; and the share of each class, float32 [B, num_classes], or
        the mixture of other labels."""
        draws = self.draw(ids, epoch)
        if self._partner_fn is not None:
            draws = draws._replace(partner=self._partner_fn(rows))
        own = float_pixels(self._inputs_fn(rows, ids, epoch), self._shape)
        partner_ids = self._arrays.ids.index_select(0, draws.partner)
        other = float_pixels(self._inputs_fn(draws.partner, partner_ids, epoch), self._shape)
        input_weights, weights = self._weights(draws)
        inputs = (own * input_weights).add_(other * (1 - input_weights))
        weights = weights.float().unsqueeze(1)
        return inputs, self._shares(rows) * weights + self._shares(draws.partner) * (1 - weights)

    def _weights(self, draws: MixDraws) -> tuple[Tensor, Tensor]:
        """Of the sample itself: in each value, float32 [B, H or 1, W or 1, 1], and in the label, float64 [B]."""
        mixed = draws.mixup_weight.float().view(-1, *[1] * len(self._shape))
        if not self._cutmix:
            return mixed, draws.mixup_weight
        height, width, _ = self._shape
        top, left, bottom, right = box = cut_box(draws, height, width)
        outside = (~inside(*box, height, width)).float().permute(0, 2, 3, 1)
        kept = 1 - ((bottom - top) * (right - left)).double() / (height * width)
        pixel_weights = torch.where(draws.cut.view(-1, 1, 1, 1), outside, mixed)
        return pixel_weights, torch.where(draws.cut, kept, draws.mixup_weight)

    def _shares(self, rows: Tensor) -> Tensor:
        labels = self._arrays.labels.index_select(0, rows)
        return F.one_hot(labels, self._num_classes).float() if self._num_classes else labels
