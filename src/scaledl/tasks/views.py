"""Two views of each sample, side by side: the loader's own augmentation, drawn twice."""

from __future__ import annotations

from functools import cached_property
from typing import Unpack

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataModule, DataSpec
from scaledl.data.augment import check_augment
from scaledl.data.hashing import hash_key
from scaledl.data.loader import SamplesFn, build_samples_fn
from scaledl.data.position import LoaderOptions, PositionedLoader
from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError
from scaledl.tasks.judge import Split

SECOND_VIEW = 1003  # coordinate of draws, as in `scaledl.data.hashing`


class PairedLoader(BatchLoader):
    """As `BatchLoader`, with x [2 B, ...]: the first view of every sample, then the second of every sample.

    Both are functions of (seed, epoch, sample id), so a position resumes exactly here, too. With `fixed` they are those
    of the first epoch, whatever the epoch is.
    """

    def __init__(
        self,
        arrays: Arrays,
        spec: DataSpec,
        batch_size: int,
        augments: tuple[AugmentConfig, AugmentConfig],
        *,
        fixed: bool = False,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(arrays, spec, batch_size, **options)
        self._samples_fn = _both(arrays, spec, augments, self._seed, fixed=fixed)


class PairedStreamLoader(StreamLoader):
    """The same of shards: both views are of the samples that a batch was filled with."""

    def __init__(
        self,
        stream: Stream,
        spec: DataSpec,
        batch_size: int,
        augments: tuple[AugmentConfig, AugmentConfig],
        *,
        fixed: bool = False,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(stream, spec, batch_size, **options)
        for augment in augments:
            check_augment(augment, spec.modality, spec.target, codes=bool(spec.categories))
        self._augments, self._fixed = augments, fixed

    @cached_property
    def _samples_fn(self) -> SamplesFn:
        return _both(self._room, self._spec, self._augments, self._seed, fixed=self._fixed, changing=True)


def _both(
    arrays: Arrays,
    spec: DataSpec,
    augments: tuple[AugmentConfig, AugmentConfig],
    seed: int,
    *,
    fixed: bool,
    changing: bool = False,
) -> SamplesFn:
    first = build_samples_fn(arrays, spec, augments[0], seed, changing=changing)
    second = build_samples_fn(arrays, spec, augments[1], hash_key(seed, SECOND_VIEW), changing=changing)

    def both(rows: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        epoch = 0 if fixed else epoch
        x, y = first(rows, ids, epoch)
        return torch.cat([x, second(rows, ids, epoch)[0]]), y

    return both


def paired_loader(
    data: DataModule,
    split: Split,
    batch_size: int,
    augments: tuple[AugmentConfig, AugmentConfig],
    task: str,
    *,
    fixed: bool = False,
    **options: Unpack[LoaderOptions],
) -> PositionedLoader:
    """Both views of a split. Raises UsageError for augmentation that mixes samples."""
    found = {"train": data.train, "val": data.val, "test": data.test}[split]
    if any(augment.mixup or augment.cutmix for augment in augments):
        raise UsageError(
            f"data.augment.mixup, data.augment.cutmix: on, and task.name={task} sees each sample by itself, twice; "
            "allowed: 0"
        )
    if isinstance(found, Stream):
        return PairedStreamLoader(found, data.spec, batch_size, augments, fixed=fixed, **options)
    return PairedLoader(found, data.spec, batch_size, augments, fixed=fixed, **options)
