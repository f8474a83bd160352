"""Every activation: its numbers, in every family of ours, through scripting, tracing and int8, and in a training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from scaledl.config.registry import ACTIVATIONS
from scaledl.config.schema import (
    AutoencoderConfig,
    CNNConfig,
    MLPConfig,
    ResNetConfig,
    UNetConfig,
    VAEConfig,
)
from scaledl.errors import UsageError
from scaledl.models import quantized
from scaledl.models.activations import activation_gain, build_activation
from scaledl.models.structure import Model, new_model
from scaledl.runtime.jit import script, script_and_freeze
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

NAMES = ACTIVATIONS.names()
IMAGES = Inputs("image", (1, 8, 8))
FAMILIES: dict[str, tuple[dict[str, Any], Any, Outputs]] = {
    "mlp": ({"hidden": [8]}, MLPConfig, Outputs(3)),
    "resnet": ({"depth": 8, "width": 4}, ResNetConfig, Outputs(3)),
    "cnn": ({"channels": [4], "hidden": [8]}, CNNConfig, Outputs(3)),
    "unet": ({"width": 4, "depth": 1}, UNetConfig, Outputs(2, "pixels")),
    "autoencoder": ({"channels": [4], "latent": 2}, AutoencoderConfig, Outputs(1, "input")),
    "vae": ({"channels": [4], "latent": 2}, VAEConfig, Outputs(1, "input")),
}
STAY_FLOAT = ("elu", "gelu", "mish", "prelu", "selu", "silu", "swish")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(family: str, activation: str) -> Model:
    keys, section, outputs = FAMILIES[family]
    model = new_model(section(family=family, activation=activation, **keys), IMAGES, outputs, seed=0)
    return Model(model.module.eval(), model.structure)


FORMULAS = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(0.0, x),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "hardswish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_is_its_papers_formula(name: str) -> None:
    x = torch.linspace(-4, 4, 33)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()])
    torch.testing.assert_close(build_activation(name)(x).detach(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("dim", "shape"), [(1, (2, 3, 4, 5)), (-1, (2, 4, 3))])
def test_softmax_is_over_the_channels(dim: int, shape: tuple[int, ...]) -> None:
    sums = build_activation("softmax", dim)(torch.randn(shape)).sum(dim)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_every_name_has_its_formula() -> None:
    assert {*FORMULAS, "softmax"} == set(NAMES)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UsageError, match=r"unknown activation 'gelo'; .*did you mean 'gelu'\?"):
        build_activation("gelo")


@pytest.mark.parametrize("name", ["elu", "gelu", "hardswish", "mish", "relu", "selu", "silu", "swish", "identity"])
def test_gain_keeps_the_second_moment(name: str) -> None:
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    moment = (build_activation(name)(x).square() * density).sum()
    assert activation_gain(name) == pytest.approx(float(moment**-0.5), rel=1e-4)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "leaky_relu"])
def test_gain_is_torchs_where_torch_has_one(name: str) -> None:
    assert activation_gain(name) == nn.init.calculate_gain(name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_swaps_in_every_family(name: str, family: str) -> None:
    module = make(family, name).module
    kinds = [type(layer) for layer in module.modules()]
    assert type(build_activation(name)) in kinds
    assert name == "relu" or nn.ReLU not in kinds
    x = IMAGES.example(2)
    assert torch.equal(torch.fx.symbolic_trace(module)(x), module(x))
    if family == "cnn":
        assert torch.equal(script(module)(x), module(x))


@pytest.mark.parametrize("name", NAMES)
def test_int8(name: str) -> None:
    model = make("cnn", name)
    prepared = quantized.prepare_ptq(model, "x86")
    x = IMAGES.example(256, seed=1)
    with quantized.calibrating(prepared.module), torch.no_grad():
        prepared.module(x)
    int8 = quantized.convert(prepared)
    expected = model.module(x)
    noise = (int8(x) - expected).square().mean() / expected.square().mean()
    assert noise < 10 ** (-20 / 10)  # of the signal: 20 dB
    leaves_int8 = sum(node.target == "dequantize" for node in int8.graph.nodes) > 1
    assert leaves_int8 == (name in STAY_FLOAT)
    assert torch.equal(script_and_freeze(int8)(x), int8(x))


DIGITS = load_digits(return_X_y=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_with_it_learns(name: str) -> None:
    x, y = torch.tensor(DIGITS[0][:400], dtype=torch.float32) / 8 - 1, torch.tensor(DIGITS[1][:400])
    module = new_model(MLPConfig(family="mlp", hidden=[32, 32], activation=name), (64,), 10, seed=0).module
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1 if name == "softmax" else 0.01)
    for _ in range(120):
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    correct = (module(x).argmax(1) == y).float().mean()
    assert correct > (0.8 if name == "softmax" else 0.95)  # a softmax between layers lets little through
