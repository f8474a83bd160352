"""Losses against their formulas, written out plainly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from scaledl.config.registry import LOSSES
from scaledl.config.schema import TaskConfig
from scaledl.data.arrays import IGNORED
from scaledl.tasks.classification import class_weights
from scaledl.tasks.losses import bce, cross_entropy, focal, huber, loss_fn, mae, mean_over_samples, mse
from scaledl.tasks.multilabel import label_weights

pytestmark = pytest.mark.numerics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


LOGITS, CLASSES = 2 * normal(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
THERE = torch.tensor([[1.0, 0, 1, 0]]).repeat(6, 1)


def of_truth(logits: Tensor, classes: Tensor) -> Tensor:
    """Probability of the true class, one sample after the other."""
    return torch.stack([torch.exp(row)[k] / torch.exp(row).sum() for row, k in zip(logits, classes, strict=True)])


def test_cross_entropy() -> None:
    values = cross_entropy(LOGITS, CLASSES, TaskConfig())
    torch.testing.assert_close(values, -of_truth(LOGITS, CLASSES).log())
    shares = F.one_hot(CLASSES, 4).float() * 0.7 + 0.3 / 4
    torch.testing.assert_close(
        cross_entropy(LOGITS, CLASSES, TaskConfig(label_smoothing=0.3)), cross_entropy(LOGITS, shares, TaskConfig())
    )
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(cross_entropy(LOGITS, CLASSES, TaskConfig(), weight), values * weight[CLASSES])


@pytest.mark.parametrize("loss_fn", [cross_entropy, focal])
@pytest.mark.parametrize("mask", [-1e4, float("-inf")])
def test_smoothing_among_the_classes_that_are_possible(mask: float, loss_fn: Callable[..., Tensor]) -> None:
    """As if the others were not there, whose share would add 0.3 / 6 * 10,000 to the loss of each sample."""
    config, weight = TaskConfig(label_smoothing=0.3), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    masked = torch.cat([LOGITS, torch.full((6, 2), mask)], 1)
    shares = F.one_hot(CLASSES, 4).float()
    for targets, more in ((CLASSES, CLASSES), (shares, F.pad(shares, (0, 2)))):
        for given in (None, weight):
            expected = loss_fn(LOGITS, targets, config, None if given is None else given[:4])
            torch.testing.assert_close(loss_fn(masked, more, config, given), expected)
    steps, tags = masked.view(2, 3, 6).movedim(2, 1), CLASSES.view(2, 3).clone()
    tags[0, 1] = IGNORED
    expected = loss_fn(LOGITS.view(2, 3, 4).movedim(2, 1), tags, config)
    torch.testing.assert_close(loss_fn(steps, tags, config), expected)
    assert expected[0, 1] == 0


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0, 4.0])])
def test_smoothing_where_nobody_looks_for_masks_is_that_of_torch(
    weight: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where looking means waiting."""
    config = TaskConfig(label_smoothing=0.3)
    expected = F.cross_entropy(LOGITS, CLASSES, weight, reduction="none", label_smoothing=0.3)
    monkeypatch.setattr("scaledl.tasks.losses.may_be_masked", lambda outputs: True)
    torch.testing.assert_close(cross_entropy(LOGITS, CLASSES, config, weight), expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_of_one_class_of_several(gamma: float) -> None:
    config, p = TaskConfig(loss="focal", focal_gamma=gamma), of_truth(LOGITS, CLASSES)
    values = focal(LOGITS, CLASSES, config)
    torch.testing.assert_close(values, -((1 - p) ** gamma) * p.log())
    torch.testing.assert_close(focal(LOGITS, F.one_hot(CLASSES, 4).float(), config), values)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(focal(LOGITS, CLASSES, config, weight), values * weight[CLASSES])


@pytest.mark.parametrize("form", [(), (3,)])
def test_focal_loss_of_smoothed_and_mixed_classes_with_weights(form: tuple[int, ...]) -> None:
    logits, weight = normal(6, 4, *form), torch.tensor([1.0, 2.0, 3.0, 4.0])
    classes = torch.randint(4, (6, *form), generator=torch.Generator().manual_seed(0))
    shares = F.one_hot(classes, 4).movedim(-1, 1) * 0.7 + 0.3 / 4
    log_p, column = logits.log_softmax(1), weight.view(-1, *[1] * len(form))
    expected = -(column * shares * (1 - log_p.exp()) ** 2 * log_p).sum(1)
    plain, smoothed = TaskConfig(loss="focal"), TaskConfig(loss="focal", label_smoothing=0.3)
    torch.testing.assert_close(focal(logits, shares, plain, weight), expected)
    torch.testing.assert_close(focal(logits, classes, smoothed, weight), expected)
    none = TaskConfig(loss="focal", label_smoothing=0.3, focal_gamma=0.0)
    torch.testing.assert_close(focal(logits, classes, none, weight), cross_entropy(logits, classes, smoothed, weight))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_of_labels(gamma: float) -> None:
    config, p = TaskConfig(name="multilabel", loss="focal", focal_gamma=gamma), 1 / (1 + torch.exp(-LOGITS))
    p_t = torch.where(THERE == 1, p, 1 - p)
    torch.testing.assert_close(focal(LOGITS, THERE, config), -((1 - p_t) ** gamma) * p_t.log())
    torch.testing.assert_close(bce(LOGITS, THERE, config), -p_t.log())


def test_losses_of_numbers() -> None:
    outputs, targets, config = normal(5, 3), normal(5, 3, seed=1), TaskConfig(name="regression", huber_delta=0.5)
    error = outputs - targets
    torch.testing.assert_close(mse(outputs, targets, config), error**2)
    torch.testing.assert_close(mae(outputs, targets, config), error.abs())
    line = 0.5 * (error.abs() - 0.25)
    torch.testing.assert_close(huber(outputs, targets, config), torch.where(error.abs() < 0.5, error**2 / 2, line))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_what_is_ignored_is_worth_nothing(loss: str, smoothing: float) -> None:
    config = TaskConfig(name="tagging", loss=loss, label_smoothing=smoothing)
    logits, tags = normal(2, 4, 3), torch.tensor([[0, -100, 3], [-100, -100, 1]])
    values = loss_fn(config)(logits, tags, config, None)
    assert values.shape == (2, 3)
    assert (values == 0).tolist() == [[False, True, False], [True, True, False]]
    logits[:, :, 1] = 1e4
    torch.testing.assert_close(loss_fn(config)(logits, tags, config, None), values)


def test_every_sample_weighs_the_same_however_a_batch_is_cut() -> None:
    values, counted = normal(4, 3), torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()
    rows = [row[mask] for row, mask in zip(values, counted, strict=True)]
    whole = mean_over_samples(values, counted)
    assert float(whole) == pytest.approx(sum(float(row.mean()) for row in rows if len(row)) / 4)
    parts = 0.25 * mean_over_samples(values[:1], counted[:1]) + 0.75 * mean_over_samples(values[1:], counted[1:])
    torch.testing.assert_close(parts, whole)


def test_every_registered_loss_resolves_and_is_finite() -> None:
    for name in LOSSES.names():
        assert callable(LOSSES.resolve(name))
        assert LOSSES.entry(name).summary


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    found = class_weights(TaskConfig(class_weights="balanced"), [7, 2, 1])
    assert found is not None
    assert found.tolist() == pytest.approx(expected.tolist())
    assert float(found[labels].mean()) == pytest.approx(1.0)
    given = class_weights(TaskConfig(class_weights=[1.0, 1.0, 4.0]), [7, 2, 1])
    assert given is not None
    assert float(given[labels].mean()) == pytest.approx(1.0)
    assert float(given[2] / given[0]) == pytest.approx(4.0)


def test_balanced_label_weights_are_odds() -> None:
    found = label_weights(TaskConfig(name="multilabel", class_weights="balanced"), [1, 0, 4], samples=4)
    assert found is not None
    assert found.tolist() == [3.0, 1.0, 1.0]
