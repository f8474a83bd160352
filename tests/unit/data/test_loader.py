import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec, normalize
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

AUGMENT = AugmentConfig(crop=1, flip=True)
SPEC = DataSpec("test", (1, 4, 5), ("a", "b", "c"), (0.4,), (0.3,), "")


def arrays(size: int) -> Arrays:
    images = torch.from_numpy(np.random.default_rng(size).integers(0, 256, (size, 4, 5, 1), dtype=np.uint8))
    return Arrays(images, torch.arange(size) % 3, torch.arange(size) * 7 + 100)


def loader(size: int = 23, batch_size: int = 5, **changes: object) -> BatchLoader:
    options: dict = {"shuffle": True, "augment": AUGMENT, "seed": 3} | changes
    return BatchLoader(arrays(size), SPEC, batch_size, **options)


def pixels_by_id(batches: list) -> dict[int, torch.Tensor]:
    return {int(i): x for batch in batches for i, x in zip(batch.ids, batch.x, strict=True)}


def ids_of(batches: list) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids]


def test_an_epoch_holds_every_sample_once_in_a_new_order() -> None:
    train = loader()
    epochs = [list(train) for _ in range(3)]
    assert len(train) == 5
    for epoch in epochs:
        assert [len(batch.y) for batch in epoch] == [5, 5, 5, 5, 3]
        assert sorted(ids_of(epoch)) == arrays(23).ids.tolist()
    assert len({tuple(ids_of(epoch)) for epoch in epochs}) == 3


def test_a_batch_is_what_a_model_takes() -> None:
    batch = next(iter(loader()))
    assert batch.x.shape == (5, 1, 4, 5)
    assert batch.x.dtype == torch.float32
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
    assert batch.y.dtype == batch.ids.dtype == torch.int64
    assert batch.y.tolist() == ((batch.ids - 100) // 7 % 3).tolist()


def test_order_and_pixels_are_a_function_of_seed_and_epoch() -> None:
    first, second = loader(), loader()
    list(first)
    first.set_epoch(4)
    second.set_epoch(4)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert first.epoch == 4
    other_seed = loader(seed=4)
    other_seed.set_epoch(4)
    assert ids_of(list(other_seed)) != ids_of(list(second))


def test_pixels_change_from_epoch_to_epoch_but_not_with_batch_size_or_rank() -> None:
    whole = pixels_by_id(list(loader(batch_size=23)))
    single = pixels_by_id(list(loader(batch_size=2)))
    ranks = pixels_by_id([batch for rank in range(3) for batch in loader(rank=rank, world_size=3)])
    assert whole.keys() == single.keys() == ranks.keys()
    assert all(torch.equal(whole[i], single[i]) and torch.equal(whole[i], ranks[i]) for i in whole)
    later = loader(batch_size=23)
    later.set_epoch(1)
    changed = pixels_by_id(list(later))
    assert sum(not torch.equal(whole[i], changed[i]) for i in whole) > 15


def test_evaluation_runs_through_the_split_in_order_untouched_and_from_the_start() -> None:
    data = arrays(23)
    loader_ = BatchLoader(data, SPEC, 10)
    next(iter(loader_))  # what a sanity check leaves behind
    batches = list(loader_)
    assert [len(batch.y) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.x for batch in batches]), normalize(data.inputs, SPEC))
    assert ids_of(batches) == data.ids.tolist()


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 40),
    before=st.integers(1, 12),
    after=st.integers(1, 12),
    stop=st.integers(0, 40),
    epoch=st.integers(0, 3),
)
def test_a_resumed_epoch_is_the_rest_of_the_interrupted_one(
    size: int, before: int, after: int, stop: int, epoch: int
) -> None:
    whole, first, second = loader(size, before), loader(size, before), loader(size, after)
    whole.set_epoch(epoch)
    first.set_epoch(epoch)
    expected = pixels_by_id(list(whole))
    seen: list = []
    for batch in first:
        seen.append(batch)
        if len(seen) >= stop:
            break
    state = first.state_dict()
    assert state == {
        "epoch": epoch,
        "consumed": len(ids_of(seen)),
        "n": size,
        "seed": 3,
        "global_batch": before,
    }
    second.load_state_dict(state)
    assert len(second) == -(-size // after)
    if state["consumed"] == size:
        assert second.epoch == epoch + 1
        return
    second.set_epoch(epoch)  # Lightning names the epoch again
    rest = list(second)
    assert ids_of(seen) + ids_of(rest) == list(expected)
    assert all(torch.equal(expected[i], x) for i, x in pixels_by_id(rest).items())
    assert ids_of(list(second)) == ids_of(list(whole)), "the epoch after a resumed one is whole and the next"


def test_a_state_saved_at_the_end_goes_on_with_the_next_epoch() -> None:
    first, second, third = loader(), loader(), loader()
    list(first)
    state = first.state_dict()
    assert (state["epoch"], state["consumed"]) == (0, 23)
    second.load_state_dict(state)
    third.load_state_dict(state)
    third.set_epoch(1)
    assert second.state_dict()["epoch"] == 1
    expected = ids_of(list(first))
    assert ids_of(list(second)) == expected
    assert ids_of(list(third)) == expected


def test_a_loaded_position_survives_saving_again_and_ends_with_another_epoch() -> None:
    train = loader()
    position = train.state_dict() | {"epoch": 2, "consumed": 10}
    train.load_state_dict(position)
    assert train.state_dict() == position
    iter(train)  # made and thrown away
    assert train.state_dict() == position
    train.set_epoch(3)
    assert len(list(train)) == 5


def test_an_abandoned_epoch_starts_over() -> None:
    train = loader()
    next(iter(train))
    assert train.consumed == 5
    assert len(list(train)) == 5
    assert train.epoch == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 24}, "n=24.*n=23"),
        ({"seed": 1}, "seed=1.*seed=3"),
        ({"consumed": 24}, "damaged"),
        ({"consumed": -1}, "damaged"),
        ({"consumed": None}, "damaged"),
        ({"epoch": "1"}, "damaged"),
        ({"epoch": -1}, "damaged"),
    ],
)
def test_a_position_of_other_data_or_nonsense_is_refused(change: dict, reason: str) -> None:
    train = loader()
    with pytest.raises(UsageError, match=reason):
        train.load_state_dict(train.state_dict() | change)
    with pytest.raises(UsageError, match="n=None"):
        train.load_state_dict({})


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 15), world_size=st.integers(1, 5))
def test_ranks_share_every_global_batch_nearly_equally(size: int, batch_size: int, world_size: int) -> None:
    whole = list(loader(size, batch_size))
    ranks = [list(loader(size, batch_size, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        parts = [rank[number] for rank in ranks]
        assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
        assert torch.equal(torch.cat([part.x[: len(part.ids)] for part in parts]), batch.x)
        sizes = [len(part.ids) for part in parts]
        assert all(len(part.x) == len(part.y) == max(1, len(part.ids)) for part in parts)
        assert max(sizes) - min(sizes) <= 1


def test_every_rank_saves_the_same_position() -> None:
    ranks = [loader(rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        next(iter(rank))
    assert ranks[0].state_dict() == ranks[1].state_dict()
    assert ranks[0].state_dict()["consumed"] == 5


def test_no_global_random_state_is_drawn_from() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    train = loader()
    list(train)
    list(BatchLoader(arrays(23), SPEC, 10))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(before[2], np.random.get_state(), strict=True))


def test_the_loader_is_its_own_sampler() -> None:
    train = loader()
    assert train.sampler is train
