"""From a config's data section to three splits and their loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from scaledl.config.registry import SOURCES
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data.arrays import IGNORED, Arrays, DataSpec, RawData, fingerprint, statistics
from scaledl.data.loader import BatchLoader
from scaledl.data.position import LoaderOptions
from scaledl.data.split import stratified_split
from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError
from scaledl.runtime.signature import KINDS

Split = Literal["train", "val", "test"]
_ALLOWED = {(torch.uint8, "image"), (torch.float32, "table"), (torch.float32, "series")}


@dataclass(frozen=True, eq=False)
class DataModule:
    """Training and validation split, the set's own test split, and what a model has to know about them."""

    spec: DataSpec
    train: Arrays | Stream
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
    ) -> BatchLoader | StreamLoader:
        """Shuffled, augmented batches of the training split; `batch_size` counts the samples of all ranks."""
        return self._loader(
            self.train,
            batch_size,
            shuffle=True,
            augment=augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
            num_workers=num_workers,
        )

    def eval_loader(
        self, split: Split, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> BatchLoader | StreamLoader:
        """The whole split in its own order, without augmentation; the last batch may be smaller."""
        return self._loader(self._split(split), batch_size, rank=rank, world_size=world_size)

    def class_counts(self, split: Split = "train") -> tuple[int, ...]:
        """How often each class, label, tag or class of a pixel is there; empty where targets are none of these."""
        labels = self._split(split).labels
        if self.spec.target == "classes":
            return tuple(labels.sum(0).long().tolist())
        if self.spec.target in ("numbers", "none"):
            return ()
        known = labels[labels != IGNORED] if self.spec.target != "class" else labels
        return tuple(known.bincount(minlength=self.spec.num_classes).tolist())

    def _split(self, name: Split) -> Arrays | Stream:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def _loader(
        self, split: Arrays | Stream, batch_size: int, **options: Unpack[LoaderOptions]
    ) -> BatchLoader | StreamLoader:
        if isinstance(split, Stream):
            return StreamLoader(split, self.spec, batch_size, **options)
        return BatchLoader(split, self.spec, batch_size, **options)


def build_data(config: DataConfig, seed: int) -> DataModule:
    """Load the source and hold out a stratified validation split, seeded by `seed`. A prepared set has its own.

    Raises:
        UsageError: unknown source, files missing or damaged, too few samples of a class.
    """
    found: RawData | DataModule = SOURCES.resolve(config.source)(config)
    if isinstance(found, DataModule):
        return found
    raw = found
    _check(raw, config.source)
    kept, held = stratified_split(raw.labels, config.val_fraction, seed, raw.label_names)
    size = len(raw.labels)
    known = Arrays(raw.inputs, raw.labels, torch.arange(size))
    test_ids = torch.arange(size, size + len(raw.test_labels))
    splits = {
        "train": known.take(kept),
        "val": known.take(held),
        "test": Arrays(raw.test_inputs.contiguous(), raw.test_labels, test_ids),
    }
    return DataModule(_describe(config.source, splits, raw.label_names), **splits)


def _describe(source: str, splits: dict[str, Arrays], labels: tuple[str, ...]) -> DataSpec:
    inputs = splits["train"].inputs
    mean, std = statistics(inputs)
    return DataSpec(source, in_shape_of(inputs), labels, mean, std, fingerprint(splits, labels))


def in_shape_of(inputs: Tensor) -> tuple[int, ...]:
    """Of one input as a model gets it: (C, H, W) of images that are stored as [N, H, W, C]."""
    sizes = tuple(inputs.shape[1:])
    return (sizes[-1], *sizes[:-1]) if inputs.dtype == torch.uint8 else sizes


def _check(raw: RawData, source: str) -> None:
    """Reject what a source may not hand over, naming the part."""
    for name, inputs, labels in (
        ("training", raw.inputs, raw.labels),
        ("test", raw.test_inputs, raw.test_labels),
    ):
        if problem := _problem(inputs, labels, len(raw.label_names)):
            raise UsageError(f"data.source: {source}, {name} set: {problem}")
    if raw.inputs.shape[1:] != raw.test_inputs.shape[1:]:
        sizes = tuple(raw.inputs.shape[1:]), tuple(raw.test_inputs.shape[1:])
        raise UsageError(f"data.source: {source}: training inputs are {sizes[0]}, test inputs {sizes[1]}")


def _problem(inputs: Tensor, labels: Tensor, num_classes: int) -> str | None:
    if (inputs.dtype, KINDS.get(inputs.ndim - 1)) not in _ALLOWED:
        return (
            f"inputs are {inputs.dtype} with {inputs.ndim} dimensions, expected torch.uint8 [N, H, W, C], or "
            "torch.float32 [N, F] or [N, C, T]"
        )
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) != len(inputs) or not len(labels):
        return f"{len(inputs)} inputs, labels {labels.dtype} {tuple(labels.shape)}; expected one torch.int64 for each"
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        return f"labels run from {low} to {high}, but there are {num_classes} class names"
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        return "some inputs are NaN or infinite"
    return None
