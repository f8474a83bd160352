"""The order of a stream: every sample once, from any place on, whatever the batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.data.stream.order import Order

pytestmark = pytest.mark.unit

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def cut(order: Order, size: int, step: int, begin: int = 0) -> list[list[tuple[int, int]]]:
    found = [order.locate(start, min(start + step, size)) for start in range(begin, size, step)]
    return [list(zip(shards.tolist(), rows.tolist(), strict=True)) for shards, rows in found]


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(0, 9), st.integers(0, 5), st.integers(0, 3), st.integers(1, 40))
def test_an_epoch_holds_every_row_once(counts: list[int], spread: int, seed: int, epoch: int, step: int) -> None:
    order = Order(counts, spread, seed, epoch)
    rows = [one for batch in cut(order, sum(counts), step) for one in batch]
    assert sorted(rows) == [(shard, row) for shard, count in enumerate(counts) for row in range(count)]


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.data())
def test_what_comes_after_a_position_depends_on_nothing_before_it(
    counts: list[int], spread: int, step: int, other: int, data: st.DataObject
) -> None:
    size = sum(counts)
    done = data.draw(st.integers(0, size // step)) * step
    before = {one for batch in cut(Order(counts, spread, 1, 2), size, step)[: done // step] for one in batch}
    after = {one for batch in cut(Order(counts, spread, 1, 2), size, other, done) for one in batch}
    assert not before & after
    assert len(before | after) == size


def test_seed_and_epoch_change_the_order() -> None:
    keys = ((0, 0), (0, 1), (1, 0), (0, 0))
    assert len({tuple(one for [one] in cut(Order([20] * 6, 3, *key), 120, 1)) for key in keys}) == 3


def test_without_a_spread_rows_stay_as_they_lie() -> None:
    found = cut(Order([3, 2], 0, 0, 0), 5, 2)
    assert found == [[(0, 0), (0, 1)], [(0, 2), (1, 0)], [(1, 1)]]


def test_a_shard_is_open_for_as_many_blocks_as_it_is_spread_over() -> None:
    order, size = Order([10] * 9, 4, 0, 0), 90
    for position in range(size):
        [shard] = order.locate(position, position + 1).shards.tolist()
        assert shard in order.shards_of(order.block_of(position))
    assert all(len(order.shards_of(block)) <= 4 for block in range(12))


def test_the_rows_of_a_shard_meet_those_of_others() -> None:
    sequence = [shard for batch in cut(Order([50] * 10, 4, 0, 0), 500, 1) for shard, _ in batch]
    assert all(len(set(sequence[begin : begin + 50])) >= 4 for begin in range(150, 350, 50))
    same = sum(one == other for one, other in pairwise(sequence[150:351]))
    assert same < 80, "neighbours are of one shard more often than by chance, which is 50 of 200"


def test_a_ranks_share_of_all_batches_falls_on_few_shards() -> None:
    counts, world_size = [256] * 32, 4
    order = Order(counts, 8, 0, 0)
    for rank in range(world_size):
        touched = set()
        for start in range(0, sum(counts), 64):
            shards = order.locate(start, start + 64).shards
            touched |= set(shards[16 * rank : 16 * (rank + 1)].tolist())
        assert len(touched) < 28, "a rank reads nearly all shards"


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 20])
def test_every_shard_is_expected_by_some_rank(world_size: int) -> None:
    order = Order([5] * 10, 4, 0, 0)
    for block in range(10):
        shards = [order.beginning(block, (rank, world_size)) for rank in range(world_size)]
        assert {shard for found in shards for shard in found} == set(order.shards_of(block)[-1:])
    assert order.beginning(10, (0, 1)) == []


def test_an_order_needs_no_memory_for_its_samples() -> None:
    start = 500 * 10**5
    found = Order([10**5] * 1000, 8, 0, 0).locate(start, start + 4)
    again = Order([10**5] * 1000, 8, 0, 0).locate(start, start + 4)
    assert len(found.rows) == 4
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
