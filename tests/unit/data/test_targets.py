"""What sources hand over besides classes: checks, splits, statistics, batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from scaledl.config.registry import SOURCES
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data import DataModule, DataSpec, RawData, build_data
from scaledl.data.arrays import IGNORED, Target
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

N = 20
IMAGES = torch.arange(N * 12, dtype=torch.uint8).view(N, 2, 3, 2)
SERIES = torch.arange(N * 8).float().view(N, 2, 4)
ROWS = torch.arange(N * 3).float().view(N, 3)
STEPS = torch.arange(N * 4).view(N, 4) % 3
MASKS = (IMAGES[..., 0] // 2).short() % 2
GOOD: dict[Target, RawData] = {
    "classes": RawData(ROWS, (ROWS % 2)[:, :2], ROWS[:4], (ROWS % 2)[:4, :2], ("a", "b"), "classes"),
    "numbers": RawData(ROWS, ROWS[:, :2] * 3, ROWS[:4], ROWS[:4, :2], ("x", "y"), "numbers"),
    "tags": RawData(SERIES, STEPS, SERIES[:4], STEPS[:4], ("p", "q", "r"), "tags"),
    "mask": RawData(
        IMAGES, (IMAGES[..., 0] // 2).short() % 2, IMAGES[:4], IMAGES[:4, ..., 0].short() % 2, ("n", "y"), "mask"
    ),
    "none": RawData(ROWS, torch.zeros(N).long(), ROWS[:4], torch.zeros(4).long(), (), "none"),
}


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RawData]]:
    """A source that gives what the test puts into the list."""
    box: list[RawData] = []
    monkeypatch.setattr(type(SOURCES), "resolve", lambda self, name: lambda config: box[0])
    return box


def data_of(handed_over: list[RawData], target: Target) -> DataModule:
    handed_over[:] = [GOOD[target]]
    return build_data(DataConfig(val_fraction=0.25), 0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_number_that_no_sample_of_a_split_has_is_refused(handed_over: list[RawData], split: str) -> None:
    known = getattr(data_of(handed_over, "numbers"), "val" if split == "train" else "train").ids
    labels = torch.full((N, 2), torch.nan)
    labels[:, 0], labels[known, 1] = 1.0, 2.0
    handed_over[:] = [replace(GOOD["numbers"], labels=labels)]
    message = rf"no sample of the {split} split has a value of 'y'; fix: another run\.seed or data\.val_fraction"
    with pytest.raises(UsageError, match=message):
        build_data(DataConfig(val_fraction=0.25), 0)


@pytest.mark.parametrize("target", GOOD)
def test_every_kind_of_target_goes_through(handed_over: list[RawData], target: Target) -> None:
    raw, data = GOOD[target], data_of(handed_over, target)
    assert (data.spec.target, data.spec.labels) == (target, raw.label_names)
    assert (len(data.train), len(data.val), len(data.test)) == (15, 5, 4)
    for split in (data.train, data.val):
        assert torch.equal(split.labels, raw.labels[split.ids])
    assert sorted(torch.cat([data.train.ids, data.val.ids]).tolist()) == list(range(N))
    batch = next(iter(data.train_loader(6, AugmentConfig(), seed=0)))
    assert torch.equal(batch.y, raw.labels[batch.ids].long() if target == "mask" else raw.labels[batch.ids])
    assert DataSpec.from_dict(data.spec.to_dict()) == data.spec


def test_the_fingerprint_covers_what_labels_mean(handed_over: list[RawData]) -> None:
    handed_over[:] = [replace(GOOD["numbers"], labels=(ROWS % 2)[:, :2], test_labels=(ROWS % 2)[:4, :2])]
    numbers = build_data(DataConfig(), 0).spec.fingerprint
    handed_over[:] = [replace(handed_over[0], target="classes")]
    assert build_data(DataConfig(), 0).spec.fingerprint != numbers


def test_numbers_come_with_their_statistics(handed_over: list[RawData]) -> None:
    data = data_of(handed_over, "numbers")
    labels = data.train.labels.double()
    assert data.spec.target_mean == pytest.approx(labels.mean(0).tolist())
    assert data.spec.target_std == pytest.approx(labels.std(0, correction=0).tolist())
    handed_over[:] = [replace(GOOD["numbers"], labels=torch.ones(N, 2))]
    assert build_data(DataConfig(), 0).spec.target_std == (1.0, 1.0)


@pytest.mark.parametrize(
    ("target", "counts"), [("classes", True), ("tags", True), ("mask", True), ("numbers", False), ("none", False)]
)
def test_classes_are_counted_where_there_are_such(handed_over: list[RawData], target: Target, counts: bool) -> None:
    data = data_of(handed_over, target)
    found = data.class_counts()
    if not counts:
        assert found == ()
        return
    labels = data.train.labels
    expected = labels.sum(0) if target == "classes" else labels.long().flatten().bincount(minlength=2)
    assert found == tuple(expected.int().tolist())


def test_ignored_steps_and_pixels_are_not_counted(handed_over: list[RawData]) -> None:
    handed_over[:] = [replace(GOOD["tags"], labels=STEPS.masked_fill(STEPS == 2, IGNORED))]
    counts = build_data(DataConfig(), 0).class_counts()
    assert counts[2] == 0
    assert min(counts[:2]) > 0


@pytest.mark.parametrize(
    ("target", "change", "reason"),
    [
        ("classes", {"labels": GOOD["classes"].labels * 2}, "labels have other values than 0 and 1"),
        ("classes", {"labels": GOOD["classes"].labels.long()}, r"torch.int64 \(20, 2\); expected of target classes"),
        ("numbers", {"labels": ROWS[:, :1]}, r"\(20, 1\); expected of target numbers: torch.float32 \[20, 2\]"),
        ("numbers", {"labels": torch.full((N, 2), float("nan"))}, "a number is NaN in all samples"),
        ("numbers", {"labels": torch.full((N, 2), float("inf"))}, "some labels are infinite"),
        ("tags", {"labels": STEPS[:, :3]}, r"expected of target tags: torch.int64 \[20, 4\]"),
        ("tags", {"labels": STEPS + 1}, "labels run from 1 to 3, but there are 3 class names"),
        ("tags", {"inputs": ROWS, "test_inputs": ROWS[:4]}, "expected of target tags"),
        ("mask", {"labels": GOOD["mask"].labels[:, :1]}, r"expected of target mask: torch.int64 \[20, 2, 3\]"),
        ("mask", {"labels": GOOD["mask"].labels - 1}, "labels run from -1"),
        ("none", {"labels": torch.ones(N).long()}, "labels run from 1 to 1"),
    ],
)
def test_what_does_not_fit_its_target_is_refused(
    handed_over: list[RawData], target: Target, change: dict[str, Any], reason: str
) -> None:
    handed_over.append(replace(GOOD[target], **change))
    with pytest.raises(UsageError, match=f"training set: .*{reason}"):
        build_data(DataConfig(), 0)


def test_mixup_mixes_numbers_and_several_classes(handed_over: list[RawData]) -> None:
    for target in ("numbers", "classes"):
        data = data_of(handed_over, target)  # type: ignore[arg-type]
        batch = next(iter(data.train_loader(15, AugmentConfig(mixup=1.0), seed=0)))
        own = data.train.labels[batch.ids.argsort().argsort()]
        assert batch.y.shape == own.shape
        assert not torch.equal(batch.y, own)
        low, high = data.train.labels.min(0).values, data.train.labels.max(0).values
        assert ((batch.y >= low) & (batch.y <= high)).all()


@pytest.mark.parametrize("target", ["tags", "mask", "none"])
def test_what_cannot_be_mixed_is_refused(handed_over: list[RawData], target: Target) -> None:
    data = data_of(handed_over, target)
    with pytest.raises(UsageError, match=rf"data\.augment\.mixup: is on, .* of target {target}"):
        data.train_loader(4, AugmentConfig(mixup=0.2), seed=0)


def test_steps_stay_with_their_tags(handed_over: list[RawData]) -> None:
    data = data_of(handed_over, "tags")
    for key in ("crop", "warp", "repeat"):
        with pytest.raises(UsageError, match=rf"data\.augment\.series\.{key}: is on"):
            data.train_loader(4, AugmentConfig.model_validate({"series": {key: 0.2}}), seed=0)
    data.train_loader(4, AugmentConfig.model_validate({"series": {"noise": 0.2, "mask": 0.2}}), seed=0)


def test_diabetes_is_a_number_to_predict() -> None:
    data = build_data(DataConfig(source="diabetes"), 0)
    assert (data.spec.target, data.spec.labels, data.spec.in_shape) == ("numbers", ("progression",), (10,))
    assert (len(data.train) + len(data.val), len(data.test)) == (354, 88)
    assert 140 < data.spec.target_mean[0] < 160
    assert torch.equal(data.test.labels, build_data(DataConfig(source="diabetes"), 3).test.labels)


def test_a_class_that_is_missing_stays_in_training(handed_over: list[RawData]) -> None:
    labels = torch.tensor([0, 1, -1, -1] * 5)
    raw = RawData(ROWS, labels, ROWS[:4], torch.tensor([0, 1, 1, 0]), ("a", "b"))
    handed_over[:] = [raw]
    data = build_data(DataConfig(val_fraction=0.25), 0)
    assert (data.spec.unlabeled, data.class_counts("train"), data.class_counts("val")) == (10, (4, 4), (1, 1))
    assert int((data.train.labels == -1).sum()) == 10
    for change, reason in (
        ({"test_labels": torch.tensor([0, 1, -1, 0])}, "test set: labels run from -1 to 1"),
        ({"labels": labels * 0 - 1}, "training set: no sample has a label"),
        ({"labels": labels * 2 - 1}, "training set: labels run from -3 to 1"),
    ):
        handed_over[:] = [replace(raw, **change)]
        with pytest.raises(UsageError, match=reason):
            build_data(DataConfig(), 0)


def test_numbers_that_are_missing_count_in_no_statistic(handed_over: list[RawData]) -> None:
    labels = GOOD["numbers"].labels.clone()
    labels[::3, 0] = float("nan")
    handed_over[:] = [replace(GOOD["numbers"], labels=labels)]
    data = build_data(DataConfig(val_fraction=0.25), 0)
    known = data.train.labels.double()
    assert data.spec.unlabeled == int(known.isnan().any(1).sum()) > 0
    assert data.spec.target_mean == pytest.approx(known.nanmean(0).tolist())
    column = known[:, 0][~known[:, 0].isnan()]
    assert data.spec.target_std[0] == pytest.approx(float(column.std(correction=0)))
    labels[1] = float("nan")
    with pytest.raises(UsageError, match="training set: a sample has NaN for all of its numbers"):
        build_data(DataConfig(), 0)
