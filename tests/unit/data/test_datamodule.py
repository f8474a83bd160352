from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from scaledl.config.registry import SOURCES
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data import DataModule, RawData, build_data
from scaledl.data.arrays import channel_statistics
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

GOOD = RawData(
    torch.arange(40, dtype=torch.uint8).view(10, 2, 2, 1),
    torch.arange(10) % 2,
    torch.zeros(3, 2, 2, 1, dtype=torch.uint8),
    torch.tensor([0, 1, 1]),
    ("even", "odd"),
)


@pytest.fixture(scope="module")
def digits() -> DataModule:
    return build_data(DataConfig(), seed=0)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RawData]]:
    """A source that gives what the test puts into the list."""
    box: list[RawData] = []
    monkeypatch.setattr(type(SOURCES), "resolve", lambda self, name: lambda config: box[0])
    return box


def test_splits_are_disjoint_whole_and_stratified(digits: DataModule) -> None:
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1295, 143, 359)
    ids = torch.cat([digits.train.ids, digits.val.ids, digits.test.ids])
    assert ids.sort().values.tolist() == list(range(1797))
    shares = torch.bincount(digits.val.labels) / torch.bincount(torch.cat([digits.train.labels, digits.val.labels]))
    assert (shares - 0.1).abs().max() < 0.01


def test_spec_describes_the_training_split_alone(digits: DataModule) -> None:
    spec = digits.spec
    assert (spec.source, spec.in_shape, spec.labels) == ("digits", (1, 8, 8), tuple("0123456789"))
    assert (spec.mean, spec.std) == channel_statistics(digits.train.inputs)
    assert spec.mean != channel_statistics(torch.cat([digits.train.inputs, digits.val.inputs]))[0]


def test_seed_and_fraction_choose_the_split_and_never_the_test_set(digits: DataModule) -> None:
    again, other, half = (
        build_data(DataConfig(val_fraction=fraction), seed) for fraction, seed in ((0.1, 0), (0.1, 1), (0.5, 0))
    )
    assert again.spec == digits.spec
    assert torch.equal(again.val.ids, digits.val.ids)
    assert not torch.equal(other.val.ids, digits.val.ids)
    assert len(half.val) == pytest.approx(719, abs=5)
    assert len({data.spec.fingerprint for data in (digits, other, half)}) == 3
    for data in (other, half):
        assert torch.equal(data.test.inputs, digits.test.inputs)
        assert torch.equal(data.test.ids, digits.test.ids)


def test_a_sample_keeps_its_id_in_every_split(digits: DataModule) -> None:
    other = build_data(DataConfig(), seed=1)
    both = [torch.cat([data.train.inputs, data.val.inputs]) for data in (digits, other)]
    order = [torch.cat([data.train.ids, data.val.ids]).argsort() for data in (digits, other)]
    assert torch.equal(both[0][order[0]], both[1][order[1]])


def test_training_inputs_have_mean_0_and_deviation_1(digits: DataModule) -> None:
    x = torch.cat([batch.x for batch in digits.eval_loader("train", 500)])
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_loaders_of_the_splits(digits: DataModule) -> None:
    for split, size in (("train", 1295), ("val", 143), ("test", 359)):
        loader = digits.eval_loader(split, 100)
        assert sum(len(batch.y) for batch in loader) == size
        assert len(loader) == -(-size // 100)
    train = digits.train_loader(32, AugmentConfig(), seed=5)
    assert train.batch_size == 32
    assert train.state_dict()["seed"] == 5
    assert torch.cat([batch.ids for batch in train]).tolist() != digits.train.ids.tolist()
    half = digits.train_loader(32, AugmentConfig(), seed=5, rank=1, world_size=2)
    assert len(next(iter(half)).y) == 16


def test_an_unknown_source_lists_the_choices() -> None:
    unchecked = DataConfig().model_copy(update={"source": "digit"})
    with pytest.raises(UsageError, match="digits"):
        build_data(unchecked, 0)


def test_what_a_good_source_hands_over_passes(handed_over: list[RawData]) -> None:
    handed_over.append(GOOD)
    data = build_data(DataConfig(val_fraction=0.4), 0)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": GOOD.inputs.float()}, "training set: inputs are torch.float32"),
        ({"inputs": GOOD.inputs[0]}, "training set: inputs are torch.uint8 with 3 dimensions"),
        (
            {"inputs": torch.full((10, 3), float("nan")), "test_inputs": torch.zeros(3, 3)},
            "training set: some inputs are NaN",
        ),
        ({"labels": GOOD.labels[:9]}, "training set: 10 inputs, labels"),
        ({"labels": GOOD.labels.int()}, "torch.int32"),
        ({"labels": GOOD.labels + 1}, "from 1 to 2, but there are 2"),
        ({"test_labels": torch.tensor([0, -1, 1])}, "test set: labels run from -1"),
        ({"test_inputs": GOOD.test_inputs[:0], "test_labels": GOOD.test_labels[:0]}, "test set: 0 inputs"),
        (
            {"test_inputs": torch.zeros(3, 2, 3, 1, dtype=torch.uint8)},
            r"training inputs are \(2, 2, 1\), test inputs \(2, 3, 1\)",
        ),
        ({"labels": torch.tensor([0] * 9 + [1])}, "too few samples: 'odd' has 1"),
    ],
)
def test_what_a_bad_source_hands_over_is_refused(handed_over: list[RawData], change: dict, reason: str) -> None:
    handed_over.append(replace(GOOD, **change))
    with pytest.raises(UsageError, match=reason):
        build_data(DataConfig(), 0)
