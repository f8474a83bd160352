"""Losses in training: by name, of one's own, with weights of classes; and what else follows the task."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.data import Batch, DataModule
from scaledl.errors import UsageError
from scaledl.train.precision import resolve_precision

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def uneven(make_data: Callable[..., DataModule]) -> DataModule:
    """Nine of ten are of the first class; the others are shifted, and overlap with them."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(900, generator=generator) < 0.1).long()
    x = torch.randn(900, 6, generator=generator) + 1.2 * y.unsqueeze(1) * torch.tensor([1.0, 1, 1, 0, 0, 0])
    return make_data(x, y, ("often", "rarely"), "class")


@pytest.mark.parametrize("task", [{"loss": "focal"}, {"loss": "cross_entropy"}, {"label_smoothing": 0.1}])
def test_classes_are_learned_with_each_loss(
    train: Callable[..., Any], uneven: DataModule, task: dict[str, Any]
) -> None:
    trained = train(uneven, {"name": "classification", "metrics": ["auroc"], **task})
    assert trained.before.metrics["auroc"] < 0.75
    assert trained.after.metrics["auroc"] > 0.85


def test_balanced_weights_find_more_of_the_rare_class(train: Callable[..., Any], uneven: DataModule) -> None:
    plain, balanced = (
        train(uneven, {"name": "classification", "metrics": ["balanced_accuracy"], "class_weights": weights})
        for weights in (None, "balanced")
    )
    assert balanced.after.metrics["balanced_accuracy"] > plain.after.metrics["balanced_accuracy"] + 0.05
    assert balanced.after.accuracy < plain.after.accuracy


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_weights(train: Callable[..., Any], uneven: DataModule, weights: list[float]) -> None:
    with pytest.raises(UsageError, match=rf"task\.class_weights: got {len(weights)}; allowed: 2, one for each class"):
        train(uneven, {"name": "classification", "class_weights": weights})


@pytest.fixture
def my_losses(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        """A value for each class of each sample."""
        return (outputs.softmax(1) - F.one_hot(targets, outputs.shape[1])) ** 2

    module = types.ModuleType("my_losses")
    vars(module).update(squared=squared, mean=lambda outputs, targets: squared(outputs, targets).mean())
    monkeypatch.setitem(sys.modules, "my_losses", module)
    return module


@pytest.mark.parametrize("name", ["squared", "mean"])
def test_a_loss_of_ones_own(
    train: Callable[..., Any], uneven: DataModule, my_losses: types.ModuleType, name: str
) -> None:
    trained = train(uneven, {"name": "classification", "loss": f"my_losses:{name}"})
    assert trained.after.loss < 0.5 * trained.before.loss
    assert trained.after.accuracy > trained.before.accuracy + 0.1


@pytest.mark.parametrize("name", ["my_losses:cubed", "nowhere.at.all:loss"])
def test_a_loss_that_is_not_there(
    around: Callable[..., Any], uneven: DataModule, my_losses: types.ModuleType, name: str
) -> None:
    with pytest.raises(UsageError, match=r"task\.loss: .* cannot be imported"):
        around(nn.Identity(), uneven, {"name": "classification", "loss": name})


def test_precision_is_measured_with_the_tasks_own_step(around: Callable[..., Any], uneven: DataModule) -> None:
    task = around(nn.Linear(6, 2), uneven, {"name": "classification", "loss": "focal"})
    seen, step = [], task.step
    task.step = lambda batch: (seen.append(len(batch.x)), step(batch))[1]
    batch = Batch(uneven.train.inputs[:16], uneven.train.labels[:16], uneven.train.ids[:16])
    assert resolve_precision(task, batch) in ("fp32", "bf16")
    assert seen == [16] * 8
