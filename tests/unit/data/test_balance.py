"""Epochs in which every class comes equally often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config import load_config
from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.data.balance import AGAIN, balanced_order
from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

LABELS = torch.tensor([0] * 40 + [1] * 7 + [2] * 3)[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
SPEC = DataSpec("test", (2,), ("a", "b", "c"), (0.0, 0.0), (1.0, 1.0), "")


def loader(batch_size: int = 8, spec: DataSpec = SPEC, **options: Any) -> BatchLoader:
    rows = torch.arange(100).float().view(50, 2)
    settings = {"shuffle": True, "sampling": "balanced", "seed": 3} | options
    return BatchLoader(Arrays(rows, LABELS, torch.arange(50) + 1000), spec, batch_size, **settings)  # type: ignore[arg-type]


def ids_of(batches: list) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 3))
def test_every_class_that_occurs_is_drawn_equally_often(labels: list[int], epoch: int) -> None:
    order = balanced_order(torch.tensor(labels), 7, epoch)
    assert len(order) == len(labels)
    drawn = Counter(labels[row] for row in (order % AGAIN).tolist())
    assert drawn.keys() <= set(labels)
    counts = [drawn[label] for label in set(labels)]
    assert max(counts) - min(counts) <= 1
    assert len(set(order.tolist())) == len(order), "each time that a row is drawn has its own number"
    for label, count in Counter(labels).items():
        times = Counter(row for row in (order % AGAIN).tolist() if labels[row] == label)
        each = [times[row] for row, own in enumerate(labels) if own == label]
        assert max(each) - min(each) <= 1, f"of {count} samples each is drawn as often as another"


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    assert torch.equal(balanced_order(LABELS, 3, 1), balanced_order(LABELS, 3, 1))
    first, second, other = (balanced_order(LABELS, *key) for key in ((3, 1), (3, 2), (4, 1)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    left_out = [set(range(50)) - set((order % AGAIN).tolist()) for order in (first, second)]
    assert left_out[0] != left_out[1], "of a large class other samples are left out"


def test_ranks_and_interruptions_change_nothing() -> None:
    whole = ids_of(list(loader()))
    assert len(whole) == 50
    ranks = [list(loader(rank=rank, world_size=3)) for rank in range(3)]
    assert [i for number in range(7) for rank in ranks for i in rank[number].ids.tolist()] == whole
    first, second = loader(), loader(batch_size=5)
    seen = []
    for batch in first:
        seen.append(batch)
        if len(seen) == 2:
            break
    second.load_state_dict(first.state_dict())
    second.set_epoch(0)
    assert ids_of(seen) + ids_of(list(second)) == whole
    second.set_epoch(1)
    assert ids_of(list(second)) != whole
    with pytest.raises(UsageError, match=r"data position: saved with data\.sampling=balanced=None"):
        loader().load_state_dict(loader(sampling="shuffle").state_dict())


def test_evaluation_sees_every_sample_once() -> None:
    assert ids_of(list(loader(shuffle=False))) == list(range(1000, 1050))


def test_a_sample_that_comes_again_is_augmented_otherwise() -> None:
    train = loader(batch_size=50, augment=AugmentConfig(mixup=1.0))
    batch = next(iter(train))
    by_id: dict[int, list[tuple[float, ...]]] = {}
    for i, x in zip(batch.ids.tolist(), batch.x, strict=True):
        by_id.setdefault(i, []).append(tuple(x.tolist()))
    again = [found for found in by_id.values() if len(found) > 1]
    assert again
    assert all(len(set(found)) == len(found) for found in again)


def test_what_has_no_classes_is_refused() -> None:
    spec = DataSpec("test", (2,), ("x",), (0.0, 0.0), (1.0, 1.0), "", target="numbers")
    with pytest.raises(UsageError, match=r"data\.sampling: got balanced, and the targets of test are 'numbers'"):
        loader(spec=spec)
    stream = Stream([], (2, 2, 1), 2, lambda file: None, 1, 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match=r"data\.sampling: got balanced, and the targets of test are 'numbers'"):
        StreamLoader(stream, spec, 4, shuffle=True, sampling="balanced")


def test_the_config_names_it() -> None:
    assert load_config(None, ["data.sampling=balanced"]).data.sampling == "balanced"
