"""From a config's data section to three splits and their loaders."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from scaledl.config import Config
from scaledl.config.registry import SOURCES
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data.arrays import (
    NO_CLASS,
    Arrays,
    DataSpec,
    RawData,
    Target,
    fingerprint,
    number_statistics,
    statistics,
)
from scaledl.data.loader import BatchLoader
from scaledl.data.own import load_own
from scaledl.data.position import LoaderOptions, Sampling, limited
from scaledl.data.raw import check_raw
from scaledl.data.split import plain_split, stratified_split
from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.split import Stream
from scaledl.data.subset import check_classes, narrow, narrow_stream, subset
from scaledl.data.unused import check_used
from scaledl.errors import UsageError
from scaledl.runtime.columns import TableColumn

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class DataModule:
    """Training and validation split, the set's own test split, and what a model has to know about them.

    `note`: what whoever trains on them should know, too; "" is nothing.
    """

    spec: DataSpec
    train: Arrays | Stream
    val: Arrays
    test: Arrays
    note: str = ""

    def train_loader(
        self,
        batch_size: int,
        augment: AugmentConfig,
        seed: int,
        *,
        sampling: Sampling = "shuffle",
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> BatchLoader | StreamLoader:
        """Shuffled, augmented batches of the training split; `batch_size` counts the samples of all ranks.

        Raises UsageError for sampling or augmentation that such data do not have.
        """
        return self._loader(
            self.train,
            batch_size,
            shuffle=True,
            sampling=sampling,
            augment=augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
            num_workers=num_workers,
            limit=limit,
        )

    def eval_loader(
        self, split: Split, batch_size: int, *, rank: int = 0, world_size: int = 1, limit: int | None = None
    ) -> BatchLoader | StreamLoader:
        """The split in its own order, without augmentation; the last batch may be smaller. `limit`: so many samples."""
        return self._loader(self._split(split), batch_size, rank=rank, world_size=world_size, limit=limit)

    def evaluated(self, split: Split, config: Config) -> int:
        """How many samples of a split an evaluation looks at, by `trainer.limit_val_batches` and the like."""
        trainer = config.trainer
        limits = {"train": 1.0, "val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
        return limited(limits[split], len(self._split(split)), config.data.eval_batch_size)

    def trained(self, config: Config) -> int:
        """How many samples of the training split are in an epoch, by `trainer.limit_train_batches`."""
        return limited(config.trainer.limit_train_batches, len(self.train), config.data.batch_size)

    def class_counts(self, split: Split = "train") -> tuple[int, ...]:
        """How often each class, label, tag or class of a pixel is there; empty where targets are none of these."""
        if self.spec.target in ("numbers", "none"):
            return ()
        found = self._split(split)
        if isinstance(found, Stream) and not found.has_index:  # labels need not be in memory all at once
            counts = sum(self._counted(found.samples.labels_of(shard)) for shard in found.shards())
        else:
            counts = self._counted(found.labels)
        return tuple(torch.as_tensor(counts).tolist())

    def _counted(self, labels: Tensor) -> Tensor:
        """int64 [K]."""
        if self.spec.target == "classes":
            return labels.sum(0).long()
        return labels[labels >= 0].bincount(minlength=self.spec.num_classes)

    def _split(self, name: Split) -> Arrays | Stream:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def _loader(
        self, split: Arrays | Stream, batch_size: int, **options: Unpack[LoaderOptions]
    ) -> BatchLoader | StreamLoader:
        if isinstance(split, Stream):
            return StreamLoader(split, self.spec, batch_size, **options)
        return BatchLoader(split, self.spec, batch_size, **options)


def build_data(config: DataConfig, seed: int) -> DataModule:
    """Load the source and hold out a validation split, seeded by `seed`, of classes stratified. A prepared set has its
    own.

    Raises:
        UsageError: unknown source, files missing or damaged, too few samples of a class.
    """
    load_fn = load_own if ":" in config.source else SOURCES.resolve(config.source)
    found: RawData | DataModule = load_fn(config)
    if isinstance(found, DataModule):
        check_used(config, found.spec, has_val=config.source != "text")  # which takes it out of one long text
        return _narrowed(found, config, seed)
    if not isinstance(found, RawData):
        raise UsageError(
            f"data.source: {config.source} gives a {type(found).__name__}; allowed: RawData or DataModule of "
            "scaledl.data"
        )
    check_raw(found, config.source)
    raw = subset(found, config, seed)
    known, held = _train_and_val(raw, config, seed)
    first = len(known) + len(held)
    test_ids = torch.arange(first, first + len(raw.test_labels))
    splits = {"train": known, "val": held, "test": Arrays(raw.test_inputs.contiguous(), raw.test_labels, test_ids)}
    if raw.target == "numbers":
        _check_numbers(config.source, splits, raw.label_names)
    spec = _describe(config.source, splits, raw)
    check_used(config, spec, has_val=raw.val_inputs is not None)
    return DataModule(spec, splits["train"], splits["val"], splits["test"])


def _train_and_val(raw: RawData, config: DataConfig, seed: int) -> tuple[Arrays, Arrays]:
    size = len(raw.labels)
    known = Arrays(raw.inputs, raw.labels, torch.arange(size))
    if raw.val_inputs is not None and raw.val_labels is not None:
        return known, Arrays(raw.val_inputs, raw.val_labels, torch.arange(size, size + len(raw.val_labels)))
    if config.limit == 1 and raw.target == "class":
        raise UsageError(
            "data.limit: got 1; allowed: at least 2 of each class, one to train on and one for the validation split, "
            "which is taken out; fix: data.limit=2"
        )
    kept, held = _split(raw, config.val_fraction, seed)
    return known.take(kept), known.take(held)


def _check_numbers(source: str, splits: dict[str, Arrays], names: tuple[str, ...]) -> None:
    """Raises UsageError for a number that no sample of a split has."""
    for split, arrays in splits.items():
        absent = arrays.labels.isnan().all(0).nonzero().flatten().tolist() if len(arrays) else []
        if absent:
            raise UsageError(
                f"data.source: {source}: no sample of the {split} split has a value of {names[absent[0]]!r}; fix: "
                "another run.seed or data.val_fraction, or fill in more of them"
            )


def _split(raw: RawData, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    if raw.target == "class":
        kept, held = stratified_split(raw.labels, fraction, seed, raw.label_names)
        unlabeled = torch.nonzero(raw.labels == NO_CLASS).squeeze(1)
        return torch.cat([kept, unlabeled]).sort().values, held
    return plain_split(len(raw.labels), fraction, seed)


def _narrowed(data: DataModule, config: DataConfig, seed: int) -> DataModule:
    """A set that has its own splits, with `data.classes` only and `data.limit` of each in training."""
    if not config.classes and config.limit is None:
        return data
    check_classes(data.spec.target, config)
    known, labels = data.spec.labels, tuple(config.classes) or data.spec.labels
    others = {name: narrow(split, known, labels) for name, split in (("val", data.val), ("test", data.test))}
    train: Arrays | Stream
    if isinstance(data.train, Stream):
        train = narrow_stream(data.train, known, labels, config.limit, seed)
        chosen = hashlib.sha256(train.ids.sort().values.numpy().data).hexdigest()
        marked = fingerprint(others, labels, data.spec.fingerprint + chosen)
    else:
        train = narrow(data.train, known, labels, config.limit, seed)
        marked = fingerprint({"train": train, **others}, labels, data.spec.fingerprint)
    unlabeled = _unlabeled(train.labels, data.spec.target)
    spec = dataclasses.replace(data.spec, labels=labels, fingerprint=marked, unlabeled=unlabeled)
    return DataModule(spec, train, others["val"], others["test"], data.note)


def _unlabeled(labels: Tensor, target: Target) -> int:
    """How many samples have no class, or not all of their numbers."""
    if target == "class":
        return int((labels == NO_CLASS).sum())
    return int(labels.isnan().any(1).sum()) if target == "numbers" else 0


def _describe(source: str, splits: dict[str, Arrays], raw: RawData) -> DataSpec:
    inputs, labels, target = splits["train"].inputs, raw.label_names, raw.target
    mean, std = statistics(inputs, None if raw.lengths is None else raw.lengths[splits["train"].ids])
    meaning = "" if target == "class" else target
    scaled = number_statistics(splits["train"].labels) if target == "numbers" else ((), ())
    return DataSpec(
        source=source,
        in_shape=in_shape_of(inputs),
        labels=labels,
        mean=mean,
        std=std,
        fingerprint=fingerprint(splits, labels, meaning),
        target=target,
        columns=tuple(map(TableColumn, raw.columns)),
        target_mean=scaled[0],
        target_std=scaled[1],
        unlabeled=_unlabeled(splits["train"].labels, target),
    )


def in_shape_of(inputs: Tensor) -> tuple[int, ...]:
    """Of one input as a model gets it: (C, H, W) of images that are stored as [N, H, W, C]."""
    sizes = tuple(inputs.shape[1:])
    return (sizes[-1], *sizes[:-1]) if inputs.dtype == torch.uint8 else sizes
