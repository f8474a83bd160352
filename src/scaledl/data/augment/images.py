"""From a config's section to the augmented pixels of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.augment import color, filters
from scaledl.data.augment.affine import draw_affine, resample, source_matrix
from scaledl.data.augment.crop_flip import BUFFER_LIMIT, CropFlip
from scaledl.data.augment.draws import between, normals, uniforms
from scaledl.data.augment.policy import PolicyOperation
from scaledl.data.augment.resized_crop import draw_resized_crop, resized_crop
from scaledl.data.hashing import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    CUTOUT_X,
    CUTOUT_Y,
    JITTER_ORDER,
    NOISE,
    SATURATION,
    below,
    hash_ids,
    hash_key,
)
from scaledl.data.memory import empty_batch

VALUES_AT_A_TIME = 1 << 20

# (rows, their ids, epoch) -> pixels 0..255, [B, H, W, C] or [B, H, W * C]: uint8, or float32 that the caller owns.
PixelsFn = Callable[[Tensor, Tensor, int], Tensor]
# (pixels float32 [B, C, H, W], ids, epoch) -> pixels; may write to those it gets.
Operation = Callable[[Tensor, Tensor, int], Tensor]


def build_pixels_fn(images: Tensor, augment: AugmentConfig, seed: int, *, changing: bool = False) -> PixelsFn:
    """What an augmented batch takes from images uint8 [N, H, W, C]: crop, flip, then the operations that are on.

    `changing`: the images are not the same at every call, so nothing of them is kept.
    """
    limit = 0 if changing else BUFFER_LIMIT
    moved = CropFlip(images, augment, seed, limit) if augment.crop or augment.flip else plain_pixels_fn(images)
    operations = list(_operations(augment, seed, *images.shape[1:]))
    return Augmented(moved, operations, images.shape[1:]) if operations else moved


def plain_pixels_fn(images: Tensor) -> PixelsFn:
    """The rows as they are."""
    return lambda index, ids, epoch: images.index_select(0, index)


def float_pixels(pixels: Tensor, shape: Sequence[int]) -> Tensor:
    """What a `PixelsFn` gives -> float32 [B, H, W, C] of that image shape (H, W, C), contiguous."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).reshape(-1, *shape)


class Augmented:
    """Pixels of another function, taken through operations one after the other.

    These see each channel by itself: with colours side by side they would take up to ten times as long. On a CPU they
    get a few images at a time, whose intermediate values stay in its caches and need no fresh memory.
    """

    def __init__(self, pixels_fn: PixelsFn, operations: Sequence[Operation], shape: Sequence[int]) -> None:
        self._pixels_fn, self._operations, self._shape = pixels_fn, operations, shape
        self._at_a_time = max(1, VALUES_AT_A_TIME // math.prod(shape))

    def __call__(self, index: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Rows `index` of the images, with these ids, in this epoch: float32 [B, H, W, C], 0..255."""
        pixels = self._pixels_fn(index, ids, epoch)
        size = self._at_a_time if pixels.device.type == "cpu" else len(ids)
        if len(ids) <= size:
            return self._augmented(pixels, ids, epoch)
        result = empty_batch((len(ids), *self._shape), pixels.device)
        for part, part_ids, part_result in zip(pixels.split(size), ids.split(size), result.split(size), strict=True):
            part_result.copy_(self._augmented(part, part_ids, epoch))
        return result

    def _augmented(self, pixels: Tensor, ids: Tensor, epoch: int) -> Tensor:
        x = pixels.reshape(-1, *self._shape).permute(0, 3, 1, 2)
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        for operation in self._operations:
            x = operation(x, ids, epoch)
        return x.permute(0, 2, 3, 1)


def _operations(augment: AugmentConfig, seed: int, height: int, width: int, channels: int) -> Iterator[Operation]:
    """Those that are on. A policy comes before others that change values: it is made for whole levels."""
    if augment.resized_crop != (1, 1):
        yield _resized_crop(augment.resized_crop, seed)
    if augment.policy != "none":
        settings = augment.policy_ops, augment.policy_magnitude
        yield PolicyOperation(augment.policy, *settings, seed, height, width)
    if augment.rotation or augment.translation or augment.shear or augment.scale != (1, 1):
        yield _affine(augment, seed, height, width)
    amounts = {"brightness": augment.brightness, "contrast": augment.contrast}
    amounts["saturation"] = augment.saturation if channels == 3 else 0.0
    if any(amounts.values()):
        yield _jitter({name: amount for name, amount in amounts.items() if amount}, seed)
    radius = filters.blur_radius(augment.blur[1], height, width)
    if radius:
        yield _blur(augment, seed, radius)
    if augment.noise:
        yield _noise(augment.noise, seed)
    if augment.cutout:
        yield _cutout(max(1, round(augment.cutout * min(height, width))), seed)


def _resized_crop(area: tuple[float, float], seed: int) -> Operation:
    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        return resized_crop(x, *draw_resized_crop(ids, area, seed, epoch, *x.shape[2:]))

    return operation


def _affine(augment: AugmentConfig, seed: int, height: int, width: int) -> Operation:
    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        return resample(x, source_matrix(draw_affine(ids, augment, seed, epoch, height, width)), "bilinear")

    return operation


_FACTORS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}


def draw_jitter(ids: Tensor, amounts: dict[str, float], seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """As ColorJitter: factors float64 [K, B] in [max(0, 1 - amount), 1 + amount), and their order, int64 [K, B]."""
    drawn = uniforms(ids, seed, epoch, [_FACTORS[name] for name in amounts])
    ranges = [(max(0.0, 1 - amount), 1 + amount) for amount in amounts.values()]
    factors = torch.stack([between(values, *range_) for values, range_ in zip(drawn, ranges, strict=True)])
    keys = [hash_key(seed, epoch, JITTER_ORDER, number) for number in range(len(amounts))]
    return factors, hash_ids(ids, keys).argsort(dim=0)


def _jitter(amounts: dict[str, float], seed: int) -> Operation:
    references = [color.REFERENCES[name] for name in amounts]

    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        return color.jitter(x, references, *draw_jitter(ids, amounts, seed, epoch))

    return operation


def _blur(augment: AugmentConfig, seed: int, radius: int) -> Operation:
    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        [drawn] = uniforms(ids, seed, epoch, (BLUR,))
        return filters.blur(x, between(drawn, *augment.blur).clamp_(min=1e-3), radius)

    return operation


def _noise(sigma: float, seed: int) -> Operation:
    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        return filters.add_noise(x, normals(ids, seed, epoch, NOISE, x[0].numel()), sigma)

    return operation


def _cutout(side: int, seed: int) -> Operation:
    def operation(x: Tensor, ids: Tensor, epoch: int) -> Tensor:
        keys = [hash_key(seed, epoch, draw) for draw in (CUTOUT_Y, CUTOUT_X)]
        top, left = below(hash_ids(ids, keys), (x.shape[2] - side + 1, x.shape[3] - side + 1))
        return filters.cutout(x, top, left, side)

    return operation
