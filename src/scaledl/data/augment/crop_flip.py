"""Random crop and horizontal flip on whole batches of bytes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.hashing import CROP_X, CROP_Y, FLIP, below, hash_ids, hash_key

BUFFER_LIMIT = 1 << 30  # bytes; a larger set is padded batch by batch


class Draws(NamedTuple):
    """Per sample, int64 [B]: offset of the crop in the padded image (0..2*crop) down and right; 1 where mirrored."""

    y: Tensor
    x: Tensor
    mirror: Tensor


def draw(ids: Tensor, augment: AugmentConfig, seed: int, epoch: int) -> Draws:
    """What happens to the samples `ids` (int64 [B]) in this epoch."""
    keys = [hash_key(seed, epoch, operation) for operation in (CROP_Y, CROP_X, FLIP)]
    offsets = 2 * augment.crop + 1
    return Draws(*below(hash_ids(ids, keys), (offsets, offsets, 1 + augment.flip)))


class CropFlip:
    """Mirror, pad with black, crop back to the image's size: one gather for a whole batch.

    Images lie in one flat buffer, `crop` black pixels between neighbours (shared, left and right, above and below),
    followed by a mirrored copy. A crop is then one span of that buffer, from its first pixel to its last; the rows
    between are skipped by strides. Spans overlap, so a view names all of them and `index_select` copies the chosen.
    """

    def __init__(self, images: Tensor, augment: AugmentConfig, seed: int, buffer_limit: int = BUFFER_LIMIT) -> None:
        """Take images uint8 [N, H, W, C]; the set is padded once if that takes at most `buffer_limit` bytes."""
        self._images, self._augment, self._seed = images, augment, seed
        _, height, self._width, self._channels = images.shape
        self._pitch = (self._width + augment.crop) * self._channels
        self._image_size = (height + augment.crop) * self._pitch
        self._span = (height - 1) * self._pitch + self._width * self._channels
        self._buffer = self._pad(images) if self._size(len(images)) <= buffer_limit else None

    def __call__(self, index: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Rows `index` of the images, with these ids, in this epoch: uint8 [B, H, W * C] with gaps in its strides."""
        draws = draw(ids, self._augment, self._seed, epoch)
        if self._buffer is not None:
            return self._gather(self._buffer, len(self._images), index, draws)
        images = self._images.index_select(0, index)
        return self._gather(self._pad(images), len(index), torch.arange(len(index), device=index.device), draws)

    def _gather(self, buffer: Tensor, count: int, position: Tensor, draws: Draws) -> Tensor:
        start = position * self._image_size + draws.y * self._pitch + draws.x * self._channels
        start += draws.mirror * self._copy_size(count)
        spans = buffer.as_strided((len(buffer) - self._span + 1, self._span), (1, 1)).index_select(0, start)
        height = (self._span - self._width * self._channels) // self._pitch + 1
        return spans.as_strided((len(start), height, self._width * self._channels), (self._span, self._pitch, 1))

    def _copy_size(self, count: int) -> int:
        """Bytes of one padded copy: black rows above the first image, black pixels after the last row."""
        return self._augment.crop * (self._pitch + self._channels) + count * self._image_size

    def _size(self, count: int) -> int:
        return self._copy_size(count) * (1 + self._augment.flip)

    def _pad(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, C] -> the flat buffer, uint8 [bytes]."""
        count, crop = len(images), self._augment.crop
        buffer = torch.zeros(self._size(count), dtype=torch.uint8, device=images.device)
        sources = (images, images.flip(2)) if self._augment.flip else (images,)
        for copy, source in zip(buffer.chunk(len(sources)), sources, strict=True):
            body = copy[crop * self._pitch :][: count * self._image_size]
            rows = body.view(count, -1, self._width + crop, self._channels)
            rows[:, : source.shape[1], crop:] = source
        return buffer
