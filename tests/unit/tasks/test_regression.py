"""Numbers: trained standardised, judged in the units of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn

from scaledl.data import Batch, DataModule, normalize

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def diabetes(make_data: Callable[..., DataModule]) -> DataModule:
    """442 patients; the second number is the first one in other units, far from zero."""
    found = load_diabetes()
    progression = torch.tensor(found.target, dtype=torch.float32)
    labels = torch.stack([progression, 1000 * progression + 50_000], dim=1)
    return make_data(torch.tensor(found.data, dtype=torch.float32), labels, ("progression", "scaled"), "numbers")


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_it_learns_numbers_of_any_size(train: Callable[..., Any], diabetes: DataModule, loss: str) -> None:
    trained = train(diabetes, {"name": "regression", "loss": loss}, **{"trainer.epochs": 15})
    assert list(trained.result.metrics) == ["val_loss", "val_rmse", "val_mae", "val_r2"]
    assert trained.before.metrics["r2"] < 0
    assert trained.after.metrics["r2"] > 0.35
    assert trained.after.headline == "rmse"
    outputs = trained.result.model.module(normalize(diabetes.test.inputs, diabetes.spec))
    assert outputs.detach().abs().max() < 10  # the model stays in standardised units
    numbers = outputs.detach() * torch.tensor(diabetes.spec.target_std) + torch.tensor(diabetes.spec.target_mean)
    roots = (numbers - diabetes.test.labels).double().square().mean(0).sqrt()
    assert trained.after.score == pytest.approx(float(roots.mean()), rel=1e-4)


def test_the_loss_is_of_standardised_numbers(around: Callable[..., Any], diabetes: DataModule) -> None:
    task = around(nn.Identity(), diabetes, {"name": "regression"})
    mean, std = torch.tensor(diabetes.spec.target_mean), torch.tensor(diabetes.spec.target_std)
    z = torch.tensor([[0.5, -0.5], [1.0, 2.0]])
    batch = Batch(torch.zeros(2, 2), z * std + mean, torch.arange(2))
    assert float(task.step(batch)["loss"]) == pytest.approx(float(z.square().mean()), rel=1e-4)


def test_nothing_of_the_units_is_in_a_checkpoint(around: Callable[..., Any], diabetes: DataModule) -> None:
    task = around(nn.Linear(10, 2), diabetes, {"name": "regression"})
    assert set(task.state_dict()) == {"model.weight", "model.bias"}


def test_more_metrics_by_name(train: Callable[..., Any], diabetes: DataModule) -> None:
    trained = train(diabetes, {"name": "regression", "metrics": ["mse", "rmse"]}, **{"trainer.epochs": 1})
    assert list(trained.after.metrics) == ["loss", "rmse", "mae", "r2", "mse"]
    assert math.isfinite(trained.after.metrics["mse"])


def test_numbers_that_are_missing_count_for_nothing(
    around: Callable[..., Any], train: Callable[..., Any], diabetes: DataModule
) -> None:
    y = diabetes.train.labels.clone()
    y[::2, 0], y[1::4, 1] = math.nan, math.nan
    task = around(nn.Identity(), diabetes, {"name": "regression"})
    mean, std = torch.tensor(diabetes.spec.target_mean), torch.tensor(diabetes.spec.target_std)
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = task.step(Batch(z, y[:8], torch.arange(8)))
    errors = (z - (y[:8] - mean) / std).square()
    torch.testing.assert_close(result["loss"], errors.nanmean(1).mean())
    result["loss"].backward()
    assert torch.equal(z.grad == 0, y[:8].isnan())

    split = diabetes.train.__class__(diabetes.train.inputs, y, diabetes.train.ids)
    judged = DataModule(diabetes.spec, split, split, split)
    trained = train(judged, {"name": "regression", "metrics": ["mse"]}, **{"trainer.epochs": 15})
    outputs = trained.result.model.module(normalize(split.inputs, diabetes.spec)).detach() * std + mean
    squares = (outputs - y).double().square()
    spread = (y - y.nanmean(0)).double().square()
    assert trained.after.metrics["rmse"] == pytest.approx(float(squares.nanmean(0).sqrt().mean()), rel=1e-4)
    assert trained.after.metrics["mse"] == pytest.approx(float(squares.nanmean()), rel=1e-4)
    assert trained.after.metrics["mae"] == pytest.approx(float((outputs - y).double().abs().nanmean()), rel=1e-4)
    r2 = (1 - squares.nansum(0) / spread.nansum(0)).mean()
    assert trained.after.metrics["r2"] == pytest.approx(float(r2), rel=1e-3)
    assert trained.after.metrics["r2"] > 0.35
