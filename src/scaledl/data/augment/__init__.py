"""Augmentation of whole batches.

Every draw is a hash of (seed, epoch, sample id, operation), and no operation computes a sample's values in a way that
depends on its batch: they are the same on any rank, with any batch size, in any worker, after any interruption.
"""

from scaledl.data.augment.crop_flip import BUFFER_LIMIT, CropFlip, Draws, draw
from scaledl.data.augment.images import PixelsFn, build_pixels_fn
from scaledl.data.augment.masks import build_masks_fn
from scaledl.data.augment.mix import Mix, draw_partners
from scaledl.data.augment.values import build_tokens_fn, build_values_fn, check_augment

__all__ = [
    "BUFFER_LIMIT",
    "CropFlip",
    "Draws",
    "Mix",
    "PixelsFn",
    "build_masks_fn",
    "build_pixels_fn",
    "build_tokens_fn",
    "build_values_fn",
    "check_augment",
    "draw",
    "draw_partners",
]
