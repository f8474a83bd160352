"""What a model sees: training images or series after augmentation, side by side."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config import Config
from scaledl.data.datamodule import DataModule
from scaledl.errors import UsageError

_GAP = 2
_SMALLEST = 64  # pixels that an image takes at least
_PLOT_HEIGHT, _PLOT_WIDTH = 64, 128


def contact_sheet(data: DataModule, config: Config, count: int, epoch: int) -> NDArray[np.uint8]:
    """uint8 [H, W, C]: the first `count` samples of this epoch, in the order and with the values of the training.

    Series are drawn from the smallest to the largest value among them all. Raises UsageError for tables and texts.
    """
    if data.spec.modality in ("table", "text"):
        raise UsageError(
            f"data preview: draws images and series, and {data.spec.source} is a {data.spec.modality}; `scaledl data "
            "stats` describes what it has"
        )
    settings = config.data.augment, config.run.seed
    loader = data.train_loader(min(count, len(data.train)), *settings, sampling=config.data.sampling)
    loader.set_epoch(epoch)
    x = next(iter(loader)).x
    if data.spec.modality == "series":
        return _sheet(_plots(x.numpy()))
    return _sheet(_pixels(x, torch.tensor(data.spec.mean), torch.tensor(data.spec.std)))


def _pixels(x: Tensor, mean: Tensor, std: Tensor) -> NDArray[np.uint8]:
    """Undo the normalisation: [B, C, H, W] -> uint8 [B, H, W, C]."""
    values = (x.permute(0, 2, 3, 1) * std + mean) * 255
    pixels: NDArray[np.uint8] = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels


def _plots(series: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[B, C, T] -> uint8 [B, H, W, 1]: every channel a line, from left to right, upright where it jumps."""
    low, high = float(series.min()), float(series.max())
    steps = np.arange(series.shape[2])
    at = np.linspace(0, series.shape[2] - 1, _PLOT_WIDTH)
    pictures = np.full((len(series), _PLOT_HEIGHT, _PLOT_WIDTH, 1), 255, np.uint8)
    for picture, channels in zip(pictures, series, strict=True):
        for shade, values in zip(np.linspace(0, 160, len(channels)), channels, strict=True):
            heights = (high - np.interp(at, steps, values)) / max(high - low, 1e-12) * (_PLOT_HEIGHT - 1)
            rows = heights.round().astype(int)
            for x, (before, row) in enumerate(zip([rows[0], *rows[:-1]], rows, strict=True)):
                picture[min(before, row) : max(before, row) + 1, x] = int(shade)
    return pictures


def _sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    zoom = max(1, -(-_SMALLEST // images.shape[1]))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        sheet[y : y + height, x : x + width] = image
    return sheet
