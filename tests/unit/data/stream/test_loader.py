"""Batches of a stream: as those of arrays, exact from any position on, on any number of ranks and workers."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.data.stream.sets import SPEC, write_stream

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, Batch, BatchLoader
from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.shard import Shard
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

COUNTS = (13, 9, 14, 2, 11, 8)
SIZE = sum(COUNTS)
AUGMENT = AugmentConfig(crop=1, flip=True, brightness=0.2, cutout=0.3)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return write_stream(tmp_path_factory.mktemp("stream"), COUNTS)


def loader(stream: Stream, batch_size: int = 7, **changes: Any) -> StreamLoader:
    return StreamLoader(stream, SPEC, batch_size, **{"shuffle": True, "augment": AUGMENT, "seed": 3, **changes})


def ids_of(batches: list[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids]


def samples(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, int]]:
    return {int(i): (x, int(y)) for batch in batches for i, x, y in zip(batch.ids, batch.x, batch.y, strict=False)}


def some(loader: StreamLoader, count: int) -> list[Batch]:
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_an_epoch_holds_every_sample_once_in_a_new_order(stream: Stream) -> None:
    train = loader(stream)
    epochs = [list(train) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(train)] * 3 == [9] * 3
    assert all(sorted(ids_of(epoch)) == [7 * row + 100 for row in range(SIZE)] for epoch in epochs)
    assert len({tuple(ids_of(epoch)) for epoch in epochs}) == 3


@pytest.mark.parametrize("augment", [AUGMENT, AugmentConfig()])
def test_pixels_and_labels_are_those_that_arrays_give(stream: Stream, augment: AugmentConfig) -> None:
    shards = [stream.open(number) for number in range(len(COUNTS))]
    whole = Arrays(*(torch.cat([getattr(shard, part) for shard in shards]) for part in ("images", "labels", "ids")))
    expected = samples(list(BatchLoader(whole, SPEC, 10, shuffle=True, augment=augment, seed=3)))
    got = samples(list(loader(stream, augment=augment)))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[i][0], got[i][0]) and expected[i][1] == got[i][1] for i in got)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 8), st.integers(1, 20))
def test_it_goes_on_exactly_with_other_ranks_and_batches(
    stream: Stream, ranks: int, later_ranks: int, done: int, batch_size: int
) -> None:
    before = [some(loader(stream, rank=rank, world_size=ranks), done) for rank in range(ranks)]
    first = loader(stream, rank=0, world_size=ranks)
    batches = iter(first)
    for _ in range(done):
        next(batches)
    position = first.state_dict()
    after = []
    for rank in range(later_ranks):
        later = loader(stream, batch_size, rank=rank, world_size=later_ranks)
        later.load_state_dict(position)
        after += list(later)
    seen = ids_of([batch for part in before for batch in part]) + ids_of(after)
    assert sorted(seen) == [7 * row + 100 for row in range(SIZE)]


def test_global_batches_are_the_same_on_any_number_of_ranks(stream: Stream) -> None:
    whole = list(loader(stream))
    for world_size in (2, 3, 9):
        ranks = [list(loader(stream, rank=rank, world_size=world_size)) for rank in range(world_size)]
        for one, parts in zip(whole, zip(*ranks, strict=True), strict=True):
            assert ids_of(list(parts)) == one.ids.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches_and_resume(stream: Stream, workers: int) -> None:
    expected = list(loader(stream))
    given = list(loader(stream, num_workers=workers))
    for one, other in zip(expected, given, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    first = loader(stream, num_workers=workers)
    some(first, 4)
    later = loader(stream, num_workers=0)
    later.load_state_dict(first.state_dict())
    assert ids_of(list(later)) == ids_of(expected[4:])


def test_a_position_of_another_window_seed_or_set_is_refused(stream: Stream, tmp_path: Path) -> None:
    state = loader(stream).state_dict()
    others = {
        "window_shards": loader(write_stream(tmp_path / "a", COUNTS, spread=2)),
        "seed": loader(stream, seed=4),
        "n=": loader(write_stream(tmp_path / "b", COUNTS[:-1])),
    }
    for word, other in others.items():
        with pytest.raises(UsageError, match=f"data position: saved with .*{word}"):
            other.load_state_dict(state)


def test_evaluation_keeps_the_order_of_the_shards(stream: Stream) -> None:
    batches = list(StreamLoader(stream, SPEC, 10))
    assert ids_of(batches) == stream.ids.tolist() == [7 * row + 100 for row in range(SIZE)]
    assert torch.cat([batch.y for batch in batches]).tolist() == stream.labels.tolist()


def test_few_shards_are_open_at_a_time(tmp_path: Path) -> None:
    written = write_stream(tmp_path, [6] * 20, spread=3, ahead=2)
    shards: weakref.WeakSet[Shard] = weakref.WeakSet()
    alive: list[int] = []

    class Counted(Stream):
        def open(self, number: int) -> Shard:
            shard = super().open(number)
            shards.add(shard)
            alive.append(len(shards))
            return shard

    counted = Counted(*(getattr(written, name) for name in written.__dataclass_fields__))
    assert len(ids_of(list(loader(counted, batch_size=2)))) == 120
    assert len(alive) == 20, "every shard is opened once"
    assert max(alive) <= 3 + 2 + 1


def test_an_abandoned_iteration_leaves_nothing(stream: Stream) -> None:
    batches = iter(loader(stream))
    next(batches)
    del batches  # the fixtures see that its thread ends


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_partners_from_the_whole_split_are_refused(stream: Stream, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.augment\.{kind}: got 0\.4 .*shard_mb=0"):
        loader(stream, augment=AugmentConfig(**{kind: 0.4}))
