"""Two views of each sample, side by side: the loader's own augmentation, drawn twice."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataModule, DataSpec
from scaledl.data.hashing import hash_key
from scaledl.data.loader import build_samples_fn
from scaledl.data.position import LoaderOptions, PositionedLoader
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
        seed = options.get("seed", 0)
        first = build_samples_fn(arrays, spec, augments[0], seed)
        second = build_samples_fn(arrays, spec, augments[1], hash_key(seed, SECOND_VIEW))

        def both(rows: Tensor, ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
            epoch = 0 if fixed else epoch
            x, y = first(rows, ids, epoch)
            return torch.cat([x, second(rows, ids, epoch)[0]]), y

        self._samples_fn = both


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
    """Both views of a split. Raises UsageError for a data set in shards."""
    arrays = {"train": data.train, "val": data.val, "test": data.test}[split]
    if not isinstance(arrays, Arrays):
        raise UsageError(
            f"task.name: got {task}, which needs two views of each sample, and data.source {data.spec.source} is in "
            "shards; allowed: a set prepared with data.prepare.shard_mb=0"
        )
    if any(augment.mixup or augment.cutmix for augment in augments):
        raise UsageError(
            f"data.augment.mixup, data.augment.cutmix: on, and task.name={task} sees each sample by itself, twice; "
            "allowed: 0"
        )
    return PairedLoader(arrays, data.spec, batch_size, augments, fixed=fixed, **options)
