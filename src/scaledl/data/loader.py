"""Batches of a data set in memory: no worker processes, no global random state, a position that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Arrays, Batch, DataSpec, Normalizer
from scaledl.data.augment import CropFlip
from scaledl.data.hashing import ORDER, generator
from scaledl.data.workers import prepared
from scaledl.errors import UsageError

PixelsFn = Callable[[Tensor, Tensor, int], Tensor]


class BatchLoader:
    """Iterate over a split in batches.

    The order of an epoch is a permutation seeded by (seed, epoch), cut into global batches, of which each rank takes
    a near-equal contiguous slice (a row that counts for nothing where it would be empty). An iteration
    runs through the epoch that `set_epoch` named, else through the one after the last that was finished; after
    `load_state_dict` it yields what was left, whatever the batch size is now.

    Attributes:
        batch_size: samples in a global batch, over all ranks.
        epoch: the epoch of the current or next iteration.
        consumed: samples of this epoch that have been yielded, over all ranks.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a `sampler`

    def __init__(
        self,
        arrays: Arrays,
        spec: DataSpec,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        assert batch_size >= 1, f"batch_size {batch_size}"
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self.batch_size, self.epoch, self.consumed = batch_size, 0, 0
        self._arrays, self._shuffle, self._seed = arrays, shuffle, seed
        self._rank, self._world_size, self._num_workers = rank, world_size, num_workers
        self._resuming = False
        self._pixels_fn = _build_pixels_fn(arrays.images, augment, seed)
        self._normalize = Normalizer(spec, *arrays.images.shape[1:3])

    def __len__(self) -> int:
        """Batches in a whole epoch, also when the next iteration yields only the rest of one."""
        return -(-len(self._arrays) // self.batch_size)

    @property
    def sampler(self) -> BatchLoader:
        """Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch; a position loaded for the same epoch stays."""
        if not (self._resuming and epoch == self.epoch):
            self.epoch, self.consumed, self._resuming = epoch, 0, False

    def __iter__(self) -> Iterator[Batch]:
        # A generator: its body runs at the first batch, after Lightning has called `set_epoch`.
        self._start_epoch()
        order, size, epoch = self._order(), len(self._arrays), self.epoch
        starts = range(self.consumed, size, self.batch_size)
        slices = (order[start : start + self.batch_size] for start in starts)
        batches: Iterable[Batch] = (self.batch(index, epoch) for index in slices)
        if self._num_workers and len(starts):
            batches = prepared(self.batch, list(slices), epoch, self._num_workers)
        for start, batch in zip(starts, batches, strict=True):
            self.consumed = min(start + self.batch_size, size)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Position, and what it is only valid for. `consumed == n` means: go on with the next epoch."""
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "n": len(self._arrays),
            "seed": self._seed,
            "global_batch": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved position.

        Raises:
            UsageError: it belongs to another data set or seed, or is no position.
        """
        for key, have in (("n", len(self._arrays)), ("seed", self._seed)):
            if state.get(key) != have:
                raise UsageError(
                    f"data position: saved with {key}={state.get(key)}, but the data now has {key}={have}; "
                    "fix: resume with the data and run.seed that the run began with, or start a new run"
                )
        epoch, consumed = state.get("epoch"), state.get("consumed")
        if not (isinstance(epoch, int) and epoch >= 0 and isinstance(consumed, int) and 0 <= consumed <= state["n"]):
            raise UsageError(f"data position: got epoch={epoch}, consumed={consumed}; the checkpoint is damaged")
        finished = consumed == state["n"]
        self.epoch, self.consumed = (epoch + 1, 0) if finished else (epoch, consumed)
        self._resuming = True

    def _start_epoch(self) -> None:
        if self._resuming:
            self._resuming = False
            return
        self.epoch += self.consumed == len(self._arrays)
        self.consumed = 0

    def _order(self) -> Tensor:
        size = len(self._arrays)
        if not self._shuffle:
            return torch.arange(size)
        return torch.randperm(size, generator=generator(self._seed, self.epoch, ORDER))

    def batch(self, index: Tensor, epoch: int) -> Batch:
        """This rank's slice of a global batch; where it is empty, one row without an id, which counts for nothing."""
        size = len(index)
        mine = index[size * self._rank // self._world_size : size * (self._rank + 1) // self._world_size]
        rows = mine if len(mine) else index[:1]
        ids = self._arrays.ids.index_select(0, rows)
        pixels = self._pixels_fn(rows, ids, epoch)
        return Batch(self._normalize(pixels), self._arrays.labels.index_select(0, rows), ids[: len(mine)])


def _build_pixels_fn(images: Tensor, augment: AugmentConfig | None, seed: int) -> PixelsFn:
    if augment is not None and (augment.crop or augment.flip):
        return CropFlip(images, augment, seed)
    return lambda index, ids, epoch: images.index_select(0, index)
