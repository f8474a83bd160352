"""RandAugment (Cubuk et al. 2020) and TrivialAugment Wide (Mueller and Hutter 2021), as torchvision-v2 has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from scaledl.data.augment import color
from scaledl.data.augment.affine import Affine, resample, source_matrix
from scaledl.data.augment.filters import sharpen
from scaledl.data.hashing import POLICY_BIN, POLICY_KIND, POLICY_SIGN, below, hash_ids, hash_key

Policy = Literal["randaugment", "trivialaugment"]
KINDS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(1, 6)
BINS = 31
SIGNED = tuple(SHEAR_X <= number <= KINDS.index("sharpness") for number in range(len(KINDS)))


def magnitudes(policy: Policy, height: int, width: int) -> Tensor:
    """float64 [14, 31]: the strength of each kind in each bin, without its sign."""
    wide = policy == "trivialaugment"
    most: dict[str, float] = {
        "shear_x": 0.99 if wide else 0.3,
        "shear_y": 0.99 if wide else 0.3,
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.99 if wide else 0.9),
    }
    # In float32 as torchvision has them, which decides where a shift is cut to whole pixels.
    table = torch.stack([torch.linspace(0, most.get(kind, 0.0), BINS) for kind in KINDS]).double()
    table[KINDS.index("posterize")] = (8 - torch.arange(BINS) / ((BINS - 1) / (6 if wide else 4))).round()
    table[KINDS.index("solarize")] = torch.linspace(1, 0, BINS).double() * 255
    return table


def _geometric(x: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """All that moves pixels, in one resampling; shears keep the upper left corner in place."""
    height, width = x.shape[2:]
    zeros = torch.zeros_like(magnitude)
    sheared = kind <= SHEAR_Y
    affine = Affine.identity(magnitude)._replace(
        angle=torch.where(kind == ROTATE, -torch.deg2rad(magnitude), zeros),
        x=torch.where(kind == TRANSLATE_X, magnitude.trunc(), zeros),
        y=torch.where(kind == TRANSLATE_Y, magnitude.trunc(), zeros),
        shear_x=torch.where(kind == SHEAR_X, magnitude, zeros),
        shear_y=torch.where(kind == SHEAR_Y, magnitude, zeros),
        center_x=torch.where(sheared, -width / 2, zeros),
        center_y=torch.where(sheared, -height / 2, zeros),
    )
    return resample(x, source_matrix(affine), "nearest")


def _saturate(x: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    return color.blend(x, color.grey(x), 1 + magnitude) if x.shape[1] == 3 else x


GroupFn = Callable[[Tensor, Tensor, Tensor], Tensor]
GROUPS: tuple[GroupFn, ...] = (
    lambda x, kind, magnitude: x,
    _geometric,
    lambda x, kind, magnitude: color.blend(x, color.black(x), 1 + magnitude),
    _saturate,
    lambda x, kind, magnitude: color.blend(x, color.mean_grey(x), 1 + magnitude),
    lambda x, kind, magnitude: sharpen(x, 1 + magnitude),
    lambda x, kind, magnitude: color.posterize(x, magnitude),
    lambda x, kind, magnitude: color.solarize(x, magnitude),
    lambda x, kind, magnitude: color.autocontrast(x),
    lambda x, kind, magnitude: color.equalize(x),
)


def apply_kinds_(x: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """One operation for each sample, in place.

    Args:
        x: float32 [B, C, H, W], whole levels 0..255.
        kind: int64 [B], place in `KINDS`.
        magnitude: float64 [B], with its sign.
    """
    group = kind.clamp(SHEAR_X - 1, SHEAR_X) + (kind - ROTATE).clamp(min=0)
    order = group.argsort(stable=True)
    counts = torch.bincount(group, minlength=len(GROUPS)).tolist()
    for group_fn, rows in list(zip(GROUPS, order.split(counts), strict=True))[1:]:
        if len(rows):
            x.index_copy_(0, rows, group_fn(x.index_select(0, rows), kind[rows], magnitude[rows]))
    return x


class PolicyOperation:
    """`num_ops` operations of bin `magnitude`, or one of any bin (TrivialAugment), drawn for each sample."""

    def __init__(self, policy: Policy, num_ops: int, magnitude: int, seed: int, height: int, width: int) -> None:
        self._trivial = policy == "trivialaugment"
        self._num_ops = 1 if self._trivial else num_ops
        self._bin, self._seed = magnitude, seed
        self._table = magnitudes(policy, height, width)
        self._signed = torch.tensor(SIGNED)

    def draw(self, ids: Tensor, epoch: int, turn: int) -> tuple[Tensor, Tensor]:
        """Kind, int64 [B], and signed magnitude, float64 [B], of the operation number `turn`."""
        keys = [hash_key(self._seed, epoch, draw, turn) for draw in (POLICY_KIND, POLICY_BIN, POLICY_SIGN)]
        kind, bin_, negative = below(hash_ids(ids, keys), (len(KINDS), BINS, 2))
        bin_ = bin_ if self._trivial else torch.full_like(bin_, self._bin)
        strength = self._table.to(ids.device)[kind, bin_]
        return kind, torch.where(self._signed.to(ids.device)[kind] & (negative == 1), -strength, strength)

    def __call__(self, x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        for turn in range(self._num_ops):
            apply_kinds_(x, *self.draw(ids, epoch, turn))
        return x
