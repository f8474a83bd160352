import pytest
import torch
from torch import nn

from scaledl.config.schema import OptimizerConfig
from scaledl.optim.optimizers import build_optimizer

pytestmark = pytest.mark.unit


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name):
    optimizer = build_optimizer(small_model(), OptimizerConfig(name=name, weight_decay=0.1))
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_frozen_parameters_are_left_out():
    model = small_model()
    model[0].requires_grad_(False)
    parameters = [p for g in build_optimizer(model, OptimizerConfig()).param_groups for p in g["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_steps_equal_plain_torch(name):
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.0)
    models = [small_model(), small_model()]
    plain = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0, foreach=False),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=False),
    }[name]
    optimizers = [build_optimizer(models[0], config), plain(models[1].parameters())]
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    for _ in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
