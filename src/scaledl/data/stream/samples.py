"""What rows of shards become: inputs and labels, as a set in arrays has them in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaledl.data.arrays import Arrays
from scaledl.data.stored import Field
from scaledl.data.stream.shard import Shard

# (shards, rows of each, int64 [K_i]) -> a value for each of the rows, [sum of K_i, ...]
PartFn = Callable[[Sequence[Shard], Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Samples:
    """Inputs and labels, of these types and shapes.

    Attributes:
        inputs_fn, labels_fn: makes them; None where they lie in the shards as they are.
    """

    inputs: Field
    labels: Field
    inputs_fn: PartFn | None = None
    labels_fn: PartFn | None = None

    def room(self, size: int) -> Arrays:
        """For so many samples, with whatever values are there."""
        fields = (self.inputs, self.labels, Field("ids", np.dtype(np.int64), ()))
        return Arrays(*(_empty(size, field) for field in fields))

    def fill(self, room: Arrays, shards: Sequence[Shard], rows: Sequence[Tensor]) -> None:
        """Put rows of shards into a room of as many places."""
        _take(shards, rows, "ids", room.ids)
        for field, make_fn, place in (
            (self.inputs, self.inputs_fn, room.inputs),
            (self.labels, self.labels_fn, room.labels),
        ):
            if make_fn is None:
                _take(shards, rows, field.name, place)
            else:
                place.copy_(make_fn(shards, rows))

    def labels_of(self, shard: Shard) -> Tensor:
        """Of all its rows; not a view of the file."""
        rows = torch.arange(len(shard))
        return self.labels_fn([shard], [rows]) if self.labels_fn else shard.parts[self.labels.name].clone()


def gathered(shards: Sequence[Shard], rows: Sequence[Tensor], name: str) -> Tensor:
    """One field of some rows, one shard after the other."""
    return torch.cat([shard.parts[name].index_select(0, part) for shard, part in zip(shards, rows, strict=True)])


def texts_of(shards: Sequence[Shard], rows: Sequence[Tensor]) -> list[str]:
    return [text for shard, part in zip(shards, rows, strict=True) for text in shard.texts(part)]


def _take(shards: Sequence[Shard], rows: Sequence[Tensor], name: str, result: Tensor) -> None:
    """Of each shard its rows, one after the other."""
    for shard, part, place in zip(shards, rows, result.split([len(part) for part in rows]), strict=True):
        # NumPy's: one thread, which is as fast as memory, and leaves the other cores to those that compute.
        np.take(shard.parts[name].numpy(), part.numpy(), axis=0, out=place.numpy(), mode="clip")


def _empty(size: int, field: Field) -> Tensor:
    kind = torch.from_numpy(np.empty(0, field.dtype)).dtype
    return torch.empty((size, *field.shape), dtype=kind)
