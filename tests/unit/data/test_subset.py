"""Some classes, and some samples of each: drawn by the seed, before the split, with names that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaledl.config.schema import DataConfig
from scaledl.data import build_data
from scaledl.data.arrays import RawData
from scaledl.data.subset import narrow, subset
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

CLASSES = ["7", "2", "5"]


def of_digits(**keys: Any) -> Any:
    return build_data(DataConfig(**keys), 0)


def test_classes_are_counted_in_the_order_they_are_named() -> None:
    data, whole = of_digits(classes=CLASSES), of_digits()
    assert data.spec.labels == ("7", "2", "5")
    assert data.spec.fingerprint != whole.spec.fingerprint
    for split, of_all in ((data.test, whole.test),):
        expected = of_all.labels[torch.isin(of_all.labels, torch.tensor([7, 2, 5]))]
        names = [data.spec.labels[label] for label in split.labels.tolist()]
        assert names == [str(label) for label in expected.tolist()]
    assert set(data.val.labels.tolist()) == {0, 1, 2}


def test_so_many_samples_of_each_class_are_shared_out() -> None:
    data = of_digits(classes=CLASSES, limit=20)
    counts = torch.bincount(torch.cat([data.train.labels, data.val.labels]))
    assert counts.tolist() == [20, 20, 20]
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 2]
    assert len(data.test) == len(of_digits(classes=CLASSES).test)


def test_one_sample_of_each_class_leaves_nothing_to_hold_out() -> None:
    with pytest.raises(UsageError, match=r"data.limit: got 1; allowed: at least 2 .*; fix: data.limit=2"):
        of_digits(limit=1)


def test_the_seed_draws_them() -> None:
    config = DataConfig(limit=10)
    first, again, other = (build_data(config, seed).spec.fingerprint for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["7", "12"], r"data.classes: got '12'; allowed: 0, 1, 2"),
        (["7"], "allowed: two classes or more"),
        (["7", "7"], "allowed: two classes or more, each once"),
    ],
)
def test_wrong_classes_are_refused(classes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        of_digits(classes=classes)


def test_without_the_keys_nothing_is_copied() -> None:
    raw = RawData(torch.zeros(4, 2), torch.arange(4), torch.zeros(4, 2), torch.arange(4), ("a", "b", "c", "d"))
    assert subset(raw, DataConfig(), 0) is raw


def test_a_set_with_its_own_splits_keeps_its_ids(tmp_path: Path) -> None:
    data = of_digits()
    small = narrow(data.train, data.spec.labels, ("3", "1"), 5)
    assert len(small) == 10
    for row, id in enumerate(small.ids.tolist()):
        place = int((data.train.ids == id).nonzero())
        assert torch.equal(small.inputs[row], data.train.inputs[place])
        assert int(data.train.labels[place]) == {0: 3, 1: 1}[int(small.labels[row])]
