"""Batches of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Unpack

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Batch, DataSpec, build_normalizer
from scaledl.data.augment import build_pixels_fn, check_augment
from scaledl.data.position import LoaderOptions, PositionedLoader
from scaledl.data.stream.reader import Reader
from scaledl.data.stream.split import Stream
from scaledl.data.workers import prepared
from scaledl.errors import UsageError


class StreamLoader(PositionedLoader):
    """As `BatchLoader`, over shards of which few are in memory.

    The order of an epoch, `scaledl.data.stream.order`, is a function of (seed, epoch, shards, window), so the position
    is one number here, too: it is taken up exactly by any number of ranks and workers.
    """

    def __init__(self, stream: Stream, spec: DataSpec, batch_size: int, **options: Unpack[LoaderOptions]) -> None:
        """Raises UsageError for augmentation that a stream cannot have."""
        super().__init__(len(stream), batch_size, **options)
        self._stream = stream
        check_augment(self._augment, spec.modality)
        _check_mixing(self._augment)
        if self._balanced:
            raise UsageError(
                "data.sampling: got balanced with a data set in shards, which are read from beginning to end; allowed: "
                "shuffle, or a set prepared with data.prepare.shard_mb=0"
            )
        self._normalize = build_normalizer(spec, torch.empty((0, *stream.shape), dtype=torch.uint8))
        self._reader: Reader | None = None  # of a worker process

    def _batches(self, starts: range, epoch: int) -> Iterable[Batch]:
        spans = Spans(starts, self._end)
        if self._num_workers and len(starts):
            return prepared(self._in_worker, spans, epoch, self._num_workers)
        return self._here(spans, epoch)

    def _identity(self) -> dict[str, int]:
        return {**super()._identity(), "data.stream.window_shards": self._stream.spread}

    def _here(self, spans: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        with closing(self._new_reader(epoch)) as reader:
            for span in spans:
                yield self._batch(reader, span, epoch)

    def _in_worker(self, span: Tensor, epoch: int) -> Batch:
        self._reader = self._reader or self._new_reader(epoch)  # a process prepares batches of one epoch
        return self._batch(self._reader, span, epoch)

    def _new_reader(self, epoch: int) -> Reader:
        return self._stream.reader(self._seed, epoch, shuffle=self._shuffle)

    def _batch(self, reader: Reader, span: Tensor, epoch: int) -> Batch:
        """This rank's share of a global batch; where it is empty, one row without an id, which counts for nothing."""
        start, stop = span.tolist()
        found, count = reader.read(start, stop, self._rank, self._world_size)
        pixels = found.inputs
        if self._augment != AugmentConfig():
            pixels_fn = build_pixels_fn(found.inputs, self._augment, self._seed)
            pixels = pixels_fn(torch.arange(len(found)), found.ids, epoch)
        return Batch(self._normalize(pixels), found.labels, found.ids[:count])


class Spans(Sequence[Tensor]):
    """First position, and the one behind the last, int64 [2], of every global batch."""

    def __init__(self, starts: range, size: int) -> None:
        self._starts, self._size = starts, size

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        start = self._starts[number]
        return torch.tensor([start, min(start + self._starts.step, self._size)])


def _check_mixing(augment: AugmentConfig) -> None:
    on = [name for name in ("mixup", "cutmix") if getattr(augment, name)]
    if on:
        raise UsageError(
            f"data.augment.{on[0]}: got {getattr(augment, on[0]):g} with a data set in shards, whose whole split is "
            "never at hand to take partners from; allowed: 0, or a set prepared with data.prepare.shard_mb=0"
        )
