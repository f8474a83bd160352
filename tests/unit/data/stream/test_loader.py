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
from scaledl.data.stream import loader as loader_module
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
    whole = Arrays(*(torch.cat([shard.parts[part] for shard in shards]) for part in ("images", "labels", "ids")))
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


MIXES = {
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "both, of changed images": {"mixup": 0.4, "cutmix": 1.0, "crop": 1, "flip": True, "contrast": 0.2},
}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return write_stream(tmp_path_factory.mktemp("larger"), (13, 9, 14, 12, 11, 8))


@pytest.mark.parametrize("kind", MIXES)
def test_of_one_shard_the_mixtures_are_those_of_arrays(tmp_path: Path, kind: str) -> None:
    stream, augment = write_stream(tmp_path, [40]), AugmentConfig.model_validate(MIXES[kind])
    whole = Arrays(*(stream.open(0).parts[part] for part in ("images", "labels", "ids")))
    theirs = BatchLoader(whole, SPEC, 7, shuffle=True, augment=augment, seed=3)
    for batch in loader(stream, augment=augment):
        expected = theirs.batch((batch.ids - 100) // 7, 0)
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("kind", MIXES)
def test_mixtures_do_not_depend_on_batches_ranks_workers_or_the_window(
    larger: Stream, tmp_path: Path, kind: str
) -> None:
    def mixed(*loaders: StreamLoader) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        batches = [batch for one in loaders for batch in one]
        return {int(i): (x, y) for batch in batches for i, x, y in zip(batch.ids, batch.x, batch.y, strict=False)}

    augment = AugmentConfig.model_validate(MIXES[kind])
    expected = mixed(loader(larger, augment=augment))
    assert expected[100][1].shape == (3,)
    resumed = loader(larger, augment=augment)
    begun = some(resumed, 4)
    later = [loader(larger, 5, augment=augment, rank=rank, world_size=3) for rank in range(3)]
    for one in later:
        one.load_state_dict(resumed.state_dict())
    rest = mixed(*later)
    assert len(rest) == len(larger) - len(ids_of(begun))
    others = [
        rest,
        {int(i): (x, y) for batch in begun for i, x, y in zip(batch.ids, batch.x, batch.y, strict=True)},
        mixed(loader(larger, 20, augment=augment)),
        mixed(*(loader(larger, augment=augment, rank=rank, world_size=2) for rank in range(2))),
        mixed(loader(larger, augment=augment, num_workers=2)),
        mixed(loader(write_stream(tmp_path, (13, 9, 14, 12, 11, 8), spread=1, ahead=0), augment=augment)),
    ]
    for other in others:
        assert all(torch.equal(a, b) for i in other for a, b in zip(expected[i], other[i], strict=True))


def test_a_partner_comes_from_the_same_shard_and_another_one_each_epoch(tmp_path: Path) -> None:
    """Images of a shard have one value, so a mixture of them has it, too."""
    stream = write_stream(tmp_path, [10, 10, 10])
    for number in range(3):
        path = tmp_path / f"train-0000{number}.safetensors"
        data = bytearray(path.read_bytes())
        data[-10 * 60 :] = bytes([100 * number]) * 600
        path.write_bytes(data)
    train = loader(stream, augment=AugmentConfig(mixup=1.0))
    labels = []
    for _ in range(2):
        batches = list(train)
        for batch in batches:
            pixels = (batch.x * 0.3 + 0.4) * 255
            shards = (batch.ids - 100) // 70
            assert torch.allclose(pixels, 100.0 * shards.view(-1, 1, 1, 1), atol=1e-2)
        labels.append({int(i): y for batch in batches for i, y in zip(batch.ids, batch.y, strict=True)})
    assert any(not torch.equal(labels[0][i], labels[1][i]) for i in labels[0])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shards_with_too_few_partners_are_refused(stream: Stream, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.augment\.{kind}: got 0\.4 .*smallest has 2; allowed: .*shard_mb"):
        loader(stream, augment=AugmentConfig.model_validate({kind: 0.4}))


def test_augmentation_is_built_once(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    real = loader_module.build_samples_fn
    monkeypatch.setattr(loader_module, "build_samples_fn", lambda *a, **k: built.append(a) or real(*a, **k))
    train = loader(stream)
    for _ in range(2):
        list(train)
    assert len(built) == 1


@pytest.mark.parametrize("augment", [AUGMENT, AugmentConfig()])
def test_batches_that_are_kept_stay_as_they_are(stream: Stream, augment: AugmentConfig) -> None:
    kept, copies = [], []
    for batch in loader(stream, augment=augment):
        kept.append(batch)
        copies.append([part.clone() for part in batch])
    assert all(
        torch.equal(a, b) for one, other in zip(kept, copies, strict=True) for a, b in zip(one, other, strict=True)
    )
