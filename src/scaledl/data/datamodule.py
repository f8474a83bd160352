"""From a config's data section to three splits and their loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scaledl.config.registry import SOURCES
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data.arrays import Arrays, DataSpec, RawData, channel_statistics, fingerprint
from scaledl.data.loader import BatchLoader
from scaledl.data.split import stratified_split
from scaledl.errors import UsageError


@dataclass(frozen=True, eq=False)
class DataModule:
    """Training and validation split, the set's own test split, and what a model has to know about them."""

    spec: DataSpec
    train: Arrays
    val: Arrays
    test: Arrays

    def train_loader(
        self,
        batch_size: int,
        augment: AugmentConfig,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> BatchLoader:
        """Shuffled, augmented batches of the training split; `batch_size` counts the samples of all ranks."""
        return BatchLoader(
            self.train,
            self.spec,
            batch_size,
            shuffle=True,
            augment=augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
            num_workers=num_workers,
        )

    def eval_loader(
        self, split: Literal["train", "val", "test"], batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> BatchLoader:
        """The whole split in its own order, without augmentation; the last batch may be smaller."""
        arrays = {"train": self.train, "val": self.val, "test": self.test}[split]
        return BatchLoader(arrays, self.spec, batch_size, rank=rank, world_size=world_size)


def build_data(config: DataConfig, seed: int) -> DataModule:
    """Load the source and hold out a stratified validation split, seeded by `seed`.

    Raises:
        UsageError: unknown source, files missing or damaged, too few samples of a class.
    """
    raw: RawData = SOURCES.resolve(config.source)(config)
    _check(raw, config.source)
    kept, held = stratified_split(raw.labels, config.val_fraction, seed, raw.label_names)
    size = len(raw.labels)
    known = Arrays(raw.images, raw.labels, torch.arange(size))
    test_ids = torch.arange(size, size + len(raw.test_labels))
    splits = {
        "train": known.take(kept),
        "val": known.take(held),
        "test": Arrays(raw.test_images.contiguous(), raw.test_labels, test_ids),
    }
    return DataModule(_describe(config.source, splits, raw.label_names), **splits)


def _describe(source: str, splits: dict[str, Arrays], labels: tuple[str, ...]) -> DataSpec:
    images = splits["train"].images
    _, height, width, channels = images.shape
    mean, std = channel_statistics(images)
    return DataSpec(source, (channels, height, width), labels, mean, std, fingerprint(splits, labels))


def _check(raw: RawData, source: str) -> None:
    """Reject what a source may not hand over, naming the part."""
    for name, images, labels in (
        ("training", raw.images, raw.labels),
        ("test", raw.test_images, raw.test_labels),
    ):
        if problem := _problem(images, labels, len(raw.label_names)):
            raise UsageError(f"data.source: {source}, {name} set: {problem}")
    if raw.images.shape[1:] != raw.test_images.shape[1:]:
        sizes = tuple(raw.images.shape[1:]), tuple(raw.test_images.shape[1:])
        raise UsageError(f"data.source: {source}: training images are {sizes[0]}, test images {sizes[1]}")


def _problem(images: Tensor, labels: Tensor, num_classes: int) -> str | None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        return f"images are {images.dtype} with {images.ndim} dimensions, expected torch.uint8 [N, H, W, C]"
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) != len(images) or not len(labels):
        return f"{len(images)} images, labels {labels.dtype} {tuple(labels.shape)}; expected one torch.int64 for each"
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        return f"labels run from {low} to {high}, but there are {num_classes} class names"
    return None
