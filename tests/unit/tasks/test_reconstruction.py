"""The input again: as it is, of what is hidden, and as a sign of what is odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from scaledl.data import Batch, DataModule, normalize
from scaledl.errors import UsageError
from scaledl.tasks.hidden import hidden_values

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def digits(make_data: Callable[..., DataModule]) -> DataModule:
    """Zeros, and now and then a one: 8 by 8 pixels."""
    found = load_digits()
    zeros, ones = (torch.tensor(found.images[found.target == k] * 15).to(torch.uint8).unsqueeze(-1) for k in (0, 1))
    odd = torch.arange(len(zeros)) % 6 == 5
    images = torch.where(odd.view(-1, 1, 1, 1), ones[: len(zeros)], zeros)
    return make_data(images, odd.long(), ("fine", "odd"), "class")


@pytest.fixture(scope="module")
def rows(make_data: Callable[..., DataModule]) -> DataModule:
    """Ten columns made of three."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(300, 3, generator=generator) @ torch.randn(3, 10, generator=generator)
    return make_data(values, torch.zeros(300, dtype=torch.int64), (), "none")


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_rows_go_through_four_numbers(train: Callable[..., Any], rows: DataModule, loss: str) -> None:
    task = {"name": "reconstruction", "loss": loss, "metrics": ["mae", "r2"]}
    trained = train(rows, task, "bottleneck", **{"trainer.epochs": 10})
    assert trained.before.score > 0.9
    assert trained.after.score < 0.05
    assert list(trained.after.metrics) == ["loss", "mse", "mae", "r2"]
    expected = trained.result.model.module(normalize(rows.test.inputs, rows.spec)) - normalize(
        rows.test.inputs, rows.spec
    )
    assert trained.after.score == pytest.approx(expected.double().square().mean().item(), rel=1e-5)


def test_what_was_not_learned_stands_out(train: Callable[..., Any], digits: DataModule) -> None:
    task = {"name": "reconstruction", "anomaly_label": "odd"}
    trained = train(digits, task, "bottleneck", **{"trainer.epochs": 20})
    assert list(trained.after.metrics) == ["loss", "auroc", "average_precision", "mse"]
    assert (trained.after.headline, trained.after.score > 0.95) == ("auroc", True)
    x, odd = normalize(digits.test.inputs, digits.spec), digits.test.labels == 1
    errors = (trained.result.model.module(x) - x).detach().square().flatten(1).mean(1)
    assert trained.after.metrics["auroc"] == pytest.approx(roc_auc_score(odd, errors), abs=1e-6)
    assert trained.after.metrics["average_precision"] == pytest.approx(average_precision_score(odd, errors), abs=1e-6)
    assert trained.after.metrics["mse"] == pytest.approx(float(errors[~odd].mean()), rel=1e-5)
    assert trained.after.loss == pytest.approx(float(errors[~odd].mean()), rel=1e-5)
    assert trained.after.errors is not None
    torch.testing.assert_close(trained.after.errors.float(), errors)


def test_anomalies_teach_nothing(around: Callable[..., Any], digits: DataModule) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    task = around(model, digits, {"name": "reconstruction", "anomaly_label": "odd"}).train()
    x = torch.randn(6, 1, 8, 8)
    y = torch.tensor([0, 1, 0, 0, 1, 0])
    loss = task.step(Batch(x, y, torch.arange(6)))["loss"]
    torch.testing.assert_close(loss, (model(x) - x)[y == 0].square().flatten(1).mean(1).sum() / 6)
    assert task.step(Batch(x, torch.ones(6), torch.arange(6)))["loss"].item() == 0


def test_intensities(train: Callable[..., Any], digits: DataModule) -> None:
    trained = train(digits, {"name": "reconstruction", "loss": "bce"}, "bottleneck", **{"trainer.epochs": 20})
    logits = trained.result.model.module(normalize(digits.test.inputs, digits.spec))
    pixels = digits.test.inputs.permute(0, 3, 1, 2) / 255
    assert trained.after.loss == pytest.approx(F.binary_cross_entropy_with_logits(logits, pixels).item(), rel=1e-4)
    [std] = digits.spec.std
    expected = (logits.sigmoid() - pixels).double().square().mean().item() / std**2
    assert trained.after.score == pytest.approx(expected, rel=1e-4)
    assert trained.after.score < 0.6 * trained.before.score


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def training_outputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": 2 * x * self.scale, "kl": torch.arange(float(len(x)))}


def test_a_model_that_draws_pays_for_its_divergence(around: Callable[..., Any], rows: DataModule) -> None:
    task = around(Drawing(), rows, {"name": "reconstruction", "kl_weight": 0.5})
    x = torch.randn(4, 10)
    batch = Batch(x, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    assert task.train().step(batch)["loss"].item() == pytest.approx(float(x.square().mean()) + 0.5 * 1.5 / 10, rel=1e-5)
    assert task.eval().step(batch)["loss"].item() == 0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"anomaly_label": "broken"}, "task.anomaly_label: got 'broken'; allowed: fine, odd"),
        ({"loss": "bce"}, None),
    ],
)
def test_labels_that_are_not_there(
    around: Callable[..., Any], digits: DataModule, rows: DataModule, task: dict[str, Any], message: str | None
) -> None:
    data = digits if message else rows
    expected = message or "task.loss: got bce, and the data are of modality table"
    with pytest.raises(UsageError, match=expected.replace(".", r"\.")):
        around(nn.Identity(), data, {"name": "reconstruction", **task})
    with pytest.raises(UsageError, match="allowed: null, as the targets are 'none'"):
        around(nn.Identity(), rows, {"name": "reconstruction", "anomaly_label": "odd"})


def test_hidden_parts_are_learned(train: Callable[..., Any], rows: DataModule) -> None:
    task = {"name": "masked_reconstruction", "mask_ratio": 0.2}
    trained = train(rows, task, "bottleneck", **{"trainer.epochs": 20})
    assert trained.before.score > 0.9
    assert trained.after.score < 0.5
    assert trained.after.score == pytest.approx(trained.after.loss, rel=0.2)


@pytest.mark.parametrize(
    ("shape", "patch", "ratio", "hidden"),
    [((10,), 4, 0.3, 3), ((2, 12), 4, 0.5, 2 * 2 * 4), ((3, 8, 8), 4, 0.75, 3 * 3 * 16), ((1, 6, 6), 4, 0.01, 16)],
)
def test_so_much_is_hidden(shape: tuple[int, ...], patch: int, ratio: float, hidden: int) -> None:
    ids = torch.arange(40)
    found = hidden_values(ids, torch.Size(shape), patch, ratio, 0, 0)
    assert found.shape == (40, *shape)
    counts = found.flatten(1).sum(1)
    assert int(counts.max()) == hidden
    assert torch.equal(found[7:9], hidden_values(ids[7:9], torch.Size(shape), patch, ratio, 0, 0))
    assert not torch.equal(found, hidden_values(ids, torch.Size(shape), patch, ratio, 0, 1))
    assert not torch.equal(found, hidden_values(ids, torch.Size(shape), patch, ratio, 1, 0))
    assert bool(found.flatten(1).any(1).all())
    assert not bool(found.flatten(1).all(1).any())
