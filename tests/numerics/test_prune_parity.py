"""Slicing channels away equals setting them to zero: the proof that all dependent layers were cut alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaledl.compress.prune import plan_pruning
from scaledl.config.registry import FAMILIES
from scaledl.config.schema import MLPConfig, PruneConfig, ResNetConfig
from scaledl.models.structure import Model, Structure, load_model, new_model, resize_change, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.numerics

TOLERANCE = 1e-6


class Plain(nn.Module):
    """A network without BatchNorm."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(24 * 64, 32)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(32, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))


def build_plain(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    return Plain(inputs.shape[0], outputs.count)


def resnet(depth: int, width: int, in_shape: tuple[int, int, int]) -> Model:
    section = ResNetConfig.model_validate({"family": "resnet", "depth": depth, "width": width})
    return new_model(section, in_shape, 10, seed=0)


MODELS = {
    "resnet8": lambda: resnet(8, 16, (1, 8, 8)),
    "resnet20": lambda: resnet(20, 16, (1, 28, 28)),
    "resnet18": lambda: resnet(18, 32, (3, 32, 32)),
    "resnet50": lambda: resnet(50, 16, (3, 32, 32)),
    "mlp": lambda: new_model(MLPConfig(family="mlp", hidden=[64, 32]), (1, 8, 8), 10, seed=0),
}


def randomize_(module: nn.Module) -> None:
    """Statistics, scales and shifts as a trained network has them: none is one or zero."""
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            for tensor, low, high in (
                (child.weight, 0.5, 1.5),
                (child.bias, -0.2, 0.2),
                (child.running_mean, -0.2, 0.2),
                (child.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)


@torch.no_grad()
def zero_(groups: tuple[Any, ...]) -> None:
    """Silence the chosen channels where they are made, without touching a shape."""
    for group in groups:
        for dep, indices in group:
            layer, makes = dep.target.module, dep.handler.__name__
            if "out_channels" in makes and isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                layer.weight[indices] = 0
                if layer.bias is not None:
                    layer.bias[indices] = 0


def error_after_slicing(model: Model, stage: PruneConfig) -> tuple[float, float]:
    """(relative error of pruned against zeroed outputs, share of the weights that are left)."""
    module = model.module.eval()
    x = torch.randn(4, *model.structure.inputs.shape, generator=torch.Generator().manual_seed(2))
    plan = plan_pruning(module, model.structure.inputs, stage)
    before = sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        full = module(x)
        zero_(plan.chosen)
        expected = module(x)
    assert not torch.allclose(full, expected, rtol=1e-3), "zeroing changed nothing: the test would prove nothing"
    plan.execute_()
    got = module(x).detach()
    left = sum(p.numel() for p in module.parameters()) / before
    return float((got - expected).abs().max() / expected.abs().max()), left


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("name", MODELS)
def test_sliced_equals_zeroed(name: str, scope: Any) -> None:
    torch.set_num_threads(1)
    model = MODELS[name]()
    randomize_(model.module)
    error, left = error_after_slicing(model, PruneConfig(scope=scope))
    assert error <= TOLERANCE
    assert left < 0.5


def test_sliced_equals_zeroed_without_batchnorm_and_through_a_flatten(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    monkeypatch.setattr(FAMILIES, "resolve", lambda name: build_plain)
    config = MLPConfig(family="mlp")
    model = new_model(config, (1, 8, 8), 10, seed=0)
    error, left = error_after_slicing(model, PruneConfig())
    assert error <= TOLERANCE
    assert left < 0.4
    structure = Structure("mlp", config.model_dump(mode="json"), Inputs.of((1, 8, 8)), Outputs(10))
    pruned = Model(model.module, structure.then(resize_change(structure, model.module)))
    save_model(pruned, tmp_path)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(load_model(tmp_path).module(x), pruned.module(x))
