"""What every family has to stand: other sizes, scripting, tracing, saving, pruning, int8, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.compress.prune import prune_model
from scaledl.config.registry import FAMILIES
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
from scaledl.errors import UsageError
from scaledl.models import quantized
from scaledl.models.accepts import ACCEPTS
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime.jit import script, script_and_freeze
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGES, SQUARE = Inputs("image", (1, 9, 8)), Inputs("image", (3, 8, 8))
SERIES, ROWS, CATEGORIES = Inputs("series", (2, 21)), Inputs("table", (6,)), Inputs("table", (6,), 0, (3, 300))
CODER: dict[str, Any] = {"channels": [8, 16], "hidden": [16], "latent": 4}
VIT: dict[str, Any] = {"family": "vit", "width": 32, "layers": 2, "heads": 4, "patch_size": 4}
CASES: dict[str, tuple[Any, Inputs, Outputs]] = {
    "mlp": (MLPConfig(family="mlp", hidden=[32, 16]), CATEGORIES, Outputs(3)),
    "resnet": (
        ResNetConfig(depth=8, width=8, activation="silu", dropout=0.2, dropout_kind="spatial", drop_path=0.2),
        IMAGES,
        Outputs(3),
    ),
    "cnn images": (CNNConfig(family="cnn", channels=[8, 16], hidden=[16], pool="avg"), IMAGES, Outputs(3)),
    "cnn series": (
        CNNConfig(family="cnn", channels=[32, 64], hidden=[], pool="none", features="mean", norm="group"),
        SERIES,
        Outputs(3),
    ),
    "vit": (ViTConfig(**VIT, dropout=0.1, drop_path=0.2), SQUARE, Outputs(3)),
    "vit maps": (ViTConfig(**VIT, positions="sinusoidal"), SQUARE, Outputs(3, "pixels")),
    "unet": (UNetConfig(family="unet", width=8, depth=2), IMAGES, Outputs(3, "pixels")),
    "autoencoder images": (AutoencoderConfig(family="autoencoder", **CODER), IMAGES, Outputs(1, "input")),
    "autoencoder series": (AutoencoderConfig(family="autoencoder", **CODER), SERIES, Outputs(1, "input")),
    "autoencoder rows": (AutoencoderConfig(family="autoencoder", **CODER), ROWS, Outputs(1, "input")),
    "vae": (VAEConfig(family="vae", **CODER), IMAGES, Outputs(1, "input")),
}
NOISE = 10 ** (-12 / 10)  # of int8, at most this share of the signal: 12 dB; a wrong kernel gives 5 and less


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(case: str) -> Model:
    """In eval mode, with statistics that are not those of a fresh one."""
    config, inputs, outputs = CASES[case]
    model = new_model(config, inputs, outputs, seed=0)
    for _ in range(20):
        model.module.train()(inputs.example(16))
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return Model(model.module.eval().requires_grad_(False), model.structure)


def reloaded(model: Model, directory: Path) -> Model:
    save_model(model, directory)
    return load_model(directory)


def calibrated(prepared: Model) -> Model:
    with quantized.calibrating(prepared.module), torch.no_grad():
        prepared.module(prepared.structure.inputs.example(64, seed=3))
    return prepared


def noise(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).square().mean() / expected.square().mean())


@pytest.mark.parametrize("case", CASES)
def test_shapes_scripts_traces_and_comes_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    model = made(case)
    _, inputs, outputs = CASES[case]
    for batch in (1, 3):
        x = inputs.example(batch)
        expected = model.module(x)
        assert expected.shape == (batch, *outputs.shape(inputs))
        assert expected.isfinite().all()
        assert torch.equal(script(model.module)(x), expected)
        assert torch.equal(torch.fx.symbolic_trace(model.module)(x), expected)
    assert torch.equal(reloaded(model, tmp_path).module(x), expected)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: str) -> None:
    config, inputs, outputs = CASES[case]
    module = new_model(config, inputs, outputs, seed=0).module.train()
    result = module.training_outputs(inputs.example(8)) if hasattr(module, "training_outputs") else {}
    sum(value.square().sum() for value in (result or {"output": module(inputs.example(8))}).values()).backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    skipped = {"stages.2.0"} if case == "resnet" else set()  # a block that this batch happens to skip
    assert not [name for name in idle if not any(name.startswith(part) for part in skipped)]


@pytest.mark.parametrize("case", CASES)
def test_is_pruned_for_real_comes_back_and_becomes_int8(case: str, tmp_path: Path) -> None:
    model = made(case)
    small = prune_model(model, PruneConfig(round_to=2), iter(()))
    count = [sum(p.numel() for p in m.module.parameters()) for m in (model, small)]
    assert count[1] < 0.6 * count[0] or case == "mlp"  # most of that one are embeddings, which stay
    small.module.requires_grad_(False)
    x = model.structure.inputs.example(3)
    again = reloaded(small, tmp_path)
    again.module.requires_grad_(False)
    assert torch.equal(again.module(x), small.module(x))
    assert again.module(x).shape == model.module(x).shape
    assert noise(quantized.convert(calibrated(quantized.prepare_ptq(again, "x86")))(x), again.module(x)) < NOISE
    twice = prune_model(again, PruneConfig(round_to=1), iter(()))
    assert torch.equal(reloaded(twice, tmp_path / "twice").module(x), twice.module(x))


@pytest.mark.parametrize("case", CASES)
def test_is_trained_for_int8_and_becomes_it(case: str, tmp_path: Path) -> None:
    model = made(case)
    x = model.structure.inputs.example(16)
    prepared = quantized.prepare_qat(model, "x86")
    prepared.module.train().requires_grad_(True)(x).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in prepared.module.parameters() if p.grad is not None)
    calibrated(prepared).module.requires_grad_(False)
    assert torch.equal(reloaded(prepared, tmp_path).module(x), prepared.module(x))
    int8 = quantized.convert(prepared)
    assert noise(int8(x), model.module(x)) < NOISE
    assert torch.equal(script_and_freeze(int8)(x), int8(x))
    float_layers = [name for name, layer in int8.named_modules() if type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d)]
    assert not float_layers


def test_every_family_says_what_it_accepts() -> None:
    assert {*ACCEPTS} <= {*FAMILIES.names()}
    assert {config.family for config, _, _ in CASES.values()} <= {*ACCEPTS}


REFUSED = {
    "vit of series": (ViTConfig(**VIT), SERIES, Outputs(3), "allowed: images, .*fix: model.family=cnn or .*mlp"),
    "cnn of rows": (CNNConfig(family="cnn"), ROWS, Outputs(3), "allowed: images, .*; or series, .*model.family=mlp"),
    "resnet for maps": (
        ResNetConfig(),
        SQUARE,
        Outputs(3, "pixels"),
        "'pixels' for image.*allowed: vector; .*unet or vit",
    ),
    "unet for a class": (UNetConfig(family="unet"), SQUARE, Outputs(3), "form 'vector'.*allowed: pixels, input"),
    "mlp of texts": (MLPConfig(family="mlp"), Inputs("text", (5,), 9), Outputs(3), "is a text; allowed: images"),
    "vae for a class": (VAEConfig(family="vae"), ROWS, Outputs(3), "form 'vector'.*allowed: input"),
    "autoencoder of categories": (
        AutoencoderConfig(family="autoencoder"),
        CATEGORIES,
        Outputs(1, "input"),
        "2 columns of the data hold categories",
    ),
    "autoencoder of rows without channels": (
        AutoencoderConfig(family="autoencoder", dropout=0.1, dropout_kind="spatial"),
        ROWS,
        Outputs(1, "input"),
        "no convolutions whose channels",
    ),
    "vit of odd patches": (
        ViTConfig(**{**VIT, "patch_size": 3}),
        SQUARE,
        Outputs(3),
        r"patch_size: got 3.*: 1, 2, 4, 8$",
    ),
    "vit of odd heads": (ViTConfig(**{**VIT, "heads": 3}), SQUARE, Outputs(3), r"model\.heads: got 3; allowed"),
    "vit that drops channels": (
        ViTConfig(**VIT, dropout_kind="spatial"),
        SQUARE,
        Outputs(3),
        "allowed: standard, alpha",
    ),
    "unet too deep": (
        UNetConfig(family="unet", depth=4),
        SQUARE,
        Outputs(3, "pixels"),
        "halved 3 times; allowed: 1 to 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_family_cannot_take_is_told(case: str) -> None:
    config, inputs, outputs, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        new_model(config, inputs, outputs, seed=0)
