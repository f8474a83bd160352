"""Where a loader is in an epoch: one number over all ranks, which any number of ranks and workers takes up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self, TypedDict

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Batch
from scaledl.errors import UsageError

Sampling = Literal["shuffle", "balanced"]


class LoaderOptions(TypedDict, total=False):
    """What every loader can be told besides its data; off, 0, and one rank where nothing is said."""

    shuffle: bool
    sampling: Sampling
    augment: AugmentConfig | None
    seed: int
    rank: int
    world_size: int
    num_workers: int
    limit: int | None


def limited(limit: float, size: int, batch_size: int) -> int:
    """How many of `size` samples an epoch of at most so many batches uses: a number of them, or as a float a share.

    >>> limited(3, 100, 8), limited(0.5, 100, 8), limited(1.0, 100, 8), limited(1, 5, 8)
    (24, 48, 100, 5)
    """
    batches = -(-size // batch_size)
    kept = max(1, math.floor(batches * limit)) if isinstance(limit, float) else limit
    return min(size, kept * batch_size)


class PositionedLoader:
    """Iterate over a split in global batches, of which each rank takes a near-equal contiguous slice.

    An iteration runs through the epoch that `set_epoch` named, else through the one after the last that was finished;
    after `load_state_dict` it yields what was left, whatever the batch size is now. With `limit` an epoch ends after so
    many samples of its order.

    Attributes:
        batch_size: samples in a global batch, over all ranks.
        epoch: the epoch of the current or next iteration.
        consumed: samples of this epoch that have been yielded, over all ranks.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a `sampler`

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        sampling: Sampling = "shuffle",
        augment: AugmentConfig | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        assert batch_size >= 1, f"batch_size {batch_size}"
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self.batch_size, self.epoch, self.consumed = batch_size, 0, 0
        self._size, self._seed = size, seed
        self._end = size if limit is None else min(size, limit)  # of the samples of an epoch, how many are used
        self._shuffle, self._augment = shuffle, augment or AugmentConfig()
        self._balanced = shuffle and sampling == "balanced"
        self._rank, self._world_size, self._num_workers = rank, world_size, num_workers
        self._resuming = False

    def __len__(self) -> int:
        """Batches in a whole epoch, also when the next iteration yields only the rest of one."""
        return -(-self._end // self.batch_size)

    @property
    def sampler(self) -> Self:
        """Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch; a position loaded for the same epoch stays."""
        if not (self._resuming and epoch == self.epoch):
            self.epoch, self.consumed, self._resuming = epoch, 0, False

    def __iter__(self) -> Iterator[Batch]:
        # A generator: its body runs at the first batch, after Lightning has called `set_epoch`.
        self._start_epoch()
        starts = range(self.consumed, self._end, self.batch_size)
        for start, batch in zip(starts, self._batches(starts, self.epoch), strict=True):
            self.consumed = min(start + self.batch_size, self._end)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Position, and what it is only valid for. `consumed == n` means: go on with the next epoch."""
        position = {"epoch": self.epoch, "consumed": self.consumed}
        return {**position, **self._identity(), "global_batch": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved position.

        Raises:
            UsageError: it belongs to another data set, seed or order, or is no position.
        """
        for key, have in self._identity().items():
            if state.get(key) != have:
                raise UsageError(
                    f"data position: saved with {key}={state.get(key)}, but the data now has {key}={have}; "
                    "fix: resume with the data and run.seed that the run began with, or start a new run"
                )
        epoch, consumed = state.get("epoch"), state.get("consumed")
        if not (isinstance(epoch, int) and epoch >= 0 and isinstance(consumed, int) and 0 <= consumed <= self._end):
            raise UsageError(f"data position: got epoch={epoch}, consumed={consumed}; the checkpoint is damaged")
        finished = consumed == self._end
        self.epoch, self.consumed = (epoch + 1, 0) if finished else (epoch, consumed)
        self._resuming = True

    def _batches(self, starts: range, epoch: int) -> Iterable[Batch]:
        """This rank's slices of the global batches that begin at these positions of the epoch."""
        raise NotImplementedError

    def _identity(self) -> dict[str, int]:
        """What a position is only valid for."""
        return {"n": self._size, "seed": self._seed, **({"data.sampling=balanced": 1} if self._balanced else {})}

    def _start_epoch(self) -> None:
        if self._resuming:
            self._resuming = False
            return
        self.epoch += self.consumed == self._end
        self.consumed = 0
