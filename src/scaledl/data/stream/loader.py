"""Batches of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from typing import Unpack

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Arrays, Batch, DataSpec, build_normalizer
from scaledl.data.augment import check_augment, draw_partners
from scaledl.data.balance import check_balanced
from scaledl.data.loader import SamplesFn, build_samples_fn
from scaledl.data.position import LoaderOptions, PositionedLoader
from scaledl.data.stream.chosen import plain
from scaledl.data.stream.order import Located
from scaledl.data.stream.reader import Reader
from scaledl.data.stream.split import Stream
from scaledl.data.workers import prepared
from scaledl.errors import UsageError

_LEAST_TO_MIX = 8  # samples of a shard, of which each is mixed with another of them


class StreamLoader(PositionedLoader):
    """As `BatchLoader`, over shards of which few are in memory.

    The order of an epoch, `scaledl.data.stream.order`, is a function of (seed, epoch, shards, window), so the position
    is one number here, too: it is taken up exactly by any number of ranks and workers. A sample's values are a function
    of (seed, epoch, its id); with `mixup` or `cutmix` also of its shard, from which its partner comes.
    """

    def __init__(self, stream: Stream, spec: DataSpec, batch_size: int, **options: Unpack[LoaderOptions]) -> None:
        """Raises UsageError for augmentation that a stream cannot have."""
        super().__init__(len(stream), batch_size, **options)
        self._stream, self._spec = stream, spec
        check_augment(self._augment, spec.modality, spec.target, codes=bool(spec.categories))
        self._mixes = bool(self._augment.mixup or self._augment.cutmix)
        if self._mixes:
            _check_mixing(self._augment, min(count for count in stream.counts if count))
        if self._balanced:
            check_balanced(spec)
        self._share = -(-batch_size // self._world_size)  # samples of a rank, at most
        self._reader: Reader | None = None  # of a worker process

    @cached_property
    def _room(self) -> Arrays:
        """What batches are gathered into, and behind a rank's share the partners of each.

        Always the same: pages of fresh memory cost more than what is copied, and augmentation is built once.
        """
        return self._stream.samples.room(self._share * (1 + self._mixes))

    @cached_property
    def _samples_fn(self) -> SamplesFn:
        """(places in the room, their ids, epoch) -> inputs and labels of a batch, which share no memory with it."""
        if self._augment == AugmentConfig():  # one copy less
            finish, room = build_normalizer(self._spec, self._room.inputs), self._room
            copy = Tensor.long if self._spec.target == "mask" else Tensor.clone
            return lambda places, ids, epoch: (finish(room.inputs[: len(places)]), copy(room.labels[: len(places)]))

        def partners(places: Tensor) -> Tensor:
            return places + self._share

        return build_samples_fn(self._room, self._spec, self._augment, self._seed, changing=True, partner_fn=partners)

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
        return self._stream.reader(self._seed, epoch, shuffle=self._shuffle, balanced=self._balanced)

    def _batch(self, reader: Reader, span: Tensor, epoch: int) -> Batch:
        """This rank's share of a global batch; where it is empty, one row without an id, which counts for nothing."""
        start, stop = span.tolist()
        located, count = reader.read(start, stop, self._rank, self._world_size, self._room)
        size = len(located.rows)
        ids = drawn_ids = self._room.ids[:size].clone()
        if self._balanced:  # another time in the same epoch a sample is augmented otherwise
            drawn_ids = ids + (located.rows - plain(located.rows))
        if self._mixes:
            self._fill_partners(reader, located, drawn_ids, epoch)
        return Batch(*self._samples_fn(torch.arange(size), drawn_ids, epoch), ids[:count])

    def _fill_partners(self, reader: Reader, located: Located, ids: Tensor, epoch: int) -> None:
        """Of each sample any other of its own shard, which is open and a fair sample of the split."""
        counts, chosen = torch.tensor(self._stream.counts)[located.shards], self._stream.chosen
        rows = draw_partners(ids, counts, self._seed, epoch)
        rows = rows if chosen is None else chosen.rows_of(located.shards, rows)
        behind = Arrays(*(values[self._share :] for values in (self._room.inputs, self._room.labels, self._room.ids)))
        reader.fill(Located(located.shards, rows), behind)


class Spans(Sequence[Tensor]):
    """First position, and the one behind the last, int64 [2], of every global batch."""

    def __init__(self, starts: range, size: int) -> None:
        self._starts, self._size = starts, size

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        start = self._starts[number]
        return torch.tensor([start, min(start + self._starts.step, self._size)])


def _check_mixing(augment: AugmentConfig, smallest: int) -> None:
    """`smallest`: samples of the smallest shard."""
    on = [name for name in ("mixup", "cutmix") if getattr(augment, name)]
    if smallest < _LEAST_TO_MIX:
        raise UsageError(
            f"data.augment.{on[0]}: got {getattr(augment, on[0]):g} with a data set in shards, where a sample is mixed "
            f"with one of its own shard, and the smallest has {smallest}; allowed: shards of {_LEAST_TO_MIX} samples "
            "or more; fix: prepare it again with a larger data.prepare.shard_mb, or raise data.limit where it is set"
        )
