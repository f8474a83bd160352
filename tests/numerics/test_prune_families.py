"""Slicing channels away equals setting them to zero, for every family that Torch-Pruning cuts for us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.compress.prune import plan_pruning
from scaledl.config.schema import (
    AutoencoderConfig,
    CNNConfig,
    MLPConfig,
    PruneConfig,
    ResNetConfig,
    UNetConfig,
    VAEConfig,
    ViTConfig,
)
from scaledl.models.structure import new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.numerics

TOLERANCE = 1e-5
IMAGES, SQUARE = Inputs("image", (1, 9, 8)), Inputs("image", (3, 8, 8))
SERIES, ROWS, CATEGORIES = Inputs("series", (2, 21)), Inputs("table", (6,)), Inputs("table", (6,), 0, (3, 30))
CODER: dict[str, Any] = {"channels": [8, 16], "hidden": [16], "latent": 4}
VIT: dict[str, Any] = {"family": "vit", "width": 32, "layers": 2, "heads": 4, "patch_size": 4}
CASES: dict[str, tuple[Any, Inputs, Outputs]] = {
    "mlp": (MLPConfig(family="mlp", hidden=[32, 16], activation="elu"), CATEGORIES, Outputs(3)),
    "resnet": (ResNetConfig(depth=14, width=8, activation="silu"), IMAGES, Outputs(3)),
    "resnet prelu": (ResNetConfig(depth=50, width=8, activation="prelu", drop_path=0.1), IMAGES, Outputs(3)),
    "cnn": (CNNConfig(family="cnn", channels=[8, 16], hidden=[16], activation="tanh"), IMAGES, Outputs(3)),
    "cnn series": (CNNConfig(family="cnn", channels=[8, 16], hidden=[], features="mean"), SERIES, Outputs(3)),
    "unet": (UNetConfig(family="unet", width=8, depth=2), IMAGES, Outputs(3, "pixels")),
    "unet without norm": (UNetConfig(family="unet", width=8, depth=1, norm="none"), SQUARE, Outputs(3, "input")),
    "autoencoder": (AutoencoderConfig(family="autoencoder", **CODER), IMAGES, Outputs(1, "input")),
    "autoencoder series": (AutoencoderConfig(family="autoencoder", **CODER), SERIES, Outputs(1, "input")),
    "autoencoder rows": (AutoencoderConfig(family="autoencoder", **CODER), ROWS, Outputs(1, "input")),
    "vae": (VAEConfig(family="vae", **CODER), IMAGES, Outputs(1, "input")),
    "vit": (ViTConfig(**VIT), SQUARE, Outputs(3)),
    "vit mean": (ViTConfig(**VIT, pooling="mean", positions="sinusoidal"), SQUARE, Outputs(3)),
    "vit maps": (ViTConfig(**VIT), SQUARE, Outputs(2, "pixels")),
}


def randomize_(module: nn.Module) -> None:
    """No weight or statistic is what a fresh model has: one or zero."""
    generator = torch.Generator().manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.running_mean.uniform_(-0.2, 0.2, generator=generator)
            child.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


class NormOfWhatIsLeft(nn.Module):
    """A LayerNorm over the channels that stay; the others come out as zero."""

    def __init__(self, norm: nn.LayerNorm, stays: Tensor) -> None:
        super().__init__()
        self.norm, self.stays = norm, stays

    def forward(self, x: Tensor) -> Tensor:
        left = x[..., self.stays]
        weight, bias = self.norm.weight[self.stays], self.norm.bias[self.stays]
        out = torch.zeros_like(x)
        out[..., self.stays] = nn.functional.layer_norm(left, left.shape[-1:], weight, bias, self.norm.eps)
        return out


@torch.no_grad()
def silence_(groups: tuple[Any, ...]) -> list[tuple[nn.LayerNorm, Tensor]]:
    """Set the chosen channels to zero where they are made and where they are read, without touching a shape.

    Both are needed, since not every activation of zero is zero. The LayerNorms that would lose channels are returned.
    """
    norms = []
    for group in groups:
        for dep, indices in group:
            layer, makes = dep.target.module, dep.handler.__name__ == "prune_out_channels"
            if isinstance(layer, nn.LayerNorm):
                norms.append((layer, torch.tensor([i for i in range(layer.weight.numel()) if i not in set(indices)])))
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and makes:
                layer.weight[indices] = 0
                if layer.bias is not None:
                    layer.bias[indices] = 0
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                layer.weight[:, indices] = 0
            elif isinstance(layer, nn.Parameter):
                layer[..., indices] = 0
    return norms


def outputs_of(module: nn.Module, x: Tensor, norms: list[tuple[nn.LayerNorm, Tensor]]) -> Tensor:
    """As they are without the silenced channels, also for LayerNorm, which would count them."""
    names = {layer: name for name, layer in module.named_modules()}
    for norm, stays in norms:
        module.set_submodule(names[norm], NormOfWhatIsLeft(norm, stays))
    outputs: Tensor = module(x)
    for norm, _ in norms:
        module.set_submodule(names[norm], norm)
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_sliced_equals_silenced(case: str) -> None:
    torch.set_num_threads(1)
    config, inputs, outputs = CASES[case]
    module = new_model(config, inputs, outputs, seed=0).module.eval()
    randomize_(module)
    x = inputs.example(4, seed=2)
    plan = plan_pruning(module.requires_grad_(True), inputs, PruneConfig(round_to=2))
    before = sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        full = module(x)
        expected = outputs_of(module, x, silence_(plan.chosen))
    assert not torch.allclose(full, expected, rtol=1e-3), "silence changed nothing: the test would prove nothing"
    plan.execute_()
    error = (module(x).detach() - expected).abs().max() / expected.abs().max()
    assert float(error) <= TOLERANCE
    assert sum(p.numel() for p in module.parameters()) < 0.6 * before or case == "mlp"


KEPT: dict[str, Callable[[nn.Module], int]] = {
    "autoencoder": lambda module: module.latent.out_features,
    "vae": lambda module: module.latent.out_features,
    "vit": lambda module: module.head.out_features,
}


@pytest.mark.parametrize("case", KEPT)
def test_outputs_that_mean_something_stay(case: str) -> None:
    config, inputs, outputs = CASES[case]
    module = new_model(config, inputs, outputs, seed=0).module.eval()
    before = KEPT[case](module)
    plan_pruning(module, inputs, PruneConfig(ratio=0.75, round_to=1)).execute_()
    assert KEPT[case](module) == before
    if case == "vae":
        assert module.training_outputs(inputs.example(2))["kl"].shape == (2,)
