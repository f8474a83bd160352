"""Any of several labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import make_multilabel_classification
from sklearn.metrics import f1_score
from torch import nn

from scaledl.data import Batch, DataModule

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def data(make_data: Callable[..., DataModule]) -> DataModule:
    x, y = make_multilabel_classification(500, 12, n_classes=4, n_labels=2, random_state=0)
    inputs, labels = (torch.tensor(values, dtype=torch.float32) for values in (x, y))
    return make_data(inputs, labels, tuple("abcd"), "classes")


@pytest.mark.parametrize("task", [{}, {"loss": "focal"}, {"class_weights": "balanced"}])
def test_it_learns_each_label(train: Callable[..., Any], data: DataModule, task: dict[str, Any]) -> None:
    trained = train(data, {"name": "multilabel", "metrics": ["auroc", "exact_match"], **task})
    assert list(trained.after.metrics) == ["loss", "f1", "accuracy", "auroc", "exact_match"]
    assert trained.after.metrics["auroc"] > 0.85
    assert trained.after.score > 0.65
    assert trained.after.confusion is None


def test_the_threshold_decides(around: Callable[..., Any], data: DataModule) -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    truths = (torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    for threshold in (0.3, 0.5, 0.8):
        task = around(nn.Identity(), data, {"name": "multilabel", "threshold": threshold})
        task.on_validation_epoch_start()
        task.validation_step(Batch(logits, truths, torch.arange(50)), 0)
        expected = f1_score(truths.long(), (logits.sigmoid() >= threshold).long(), average="macro", zero_division=0)
        assert float(task.evaluated()["f1"]) == pytest.approx(expected, rel=1e-5)


def test_labels_weigh_in_training_only(around: Callable[..., Any], data: DataModule) -> None:
    task = around(nn.Identity(), data, {"name": "multilabel", "class_weights": [1.0, 1.0, 1.0, 9.0]})
    task.prepare(data)
    batch = Batch(torch.zeros(2, 4), torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 1]]), torch.arange(2))
    assert float(task.train().step(batch)["loss"]) == pytest.approx(3 * float(task.eval().step(batch)["loss"]))
