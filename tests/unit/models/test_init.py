"""Initial weights: their statistics against torch's formulas, what each layer gets, and LSUV."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.config.registry import INITS
from scaledl.config.schema import CNNConfig, MLPConfig, ResNetConfig
from scaledl.models.activations import activation_gain
from scaledl.models.attention import SelfAttention
from scaledl.models.blank import blank_parameters
from scaledl.models.init import LSUV_TOLERANCE, lsuv_
from scaledl.models.structure import new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGES = Inputs("image", (1, 8, 8))
GAIN = math.sqrt(2)
FAN_IN, FAN_OUT = 400, 300
STD = {
    "kaiming_normal": GAIN / math.sqrt(FAN_IN),
    "kaiming_uniform": GAIN / math.sqrt(FAN_IN),
    "truncated_normal": GAIN / math.sqrt(FAN_IN),
    "lecun_normal": 1 / math.sqrt(FAN_IN),
    "xavier_normal": GAIN * math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_uniform": GAIN * math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "orthogonal": GAIN / math.sqrt(FAN_IN),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def filled(name: str, layer: nn.Module, gain: float = GAIN) -> Tensor:
    INITS.resolve(name)(layer, gain, IMAGES)
    assert layer.bias is None or not layer.bias.any()
    return layer.weight.detach()


@pytest.mark.parametrize("name", STD)
def test_spread_of_a_dense_layer(name: str) -> None:
    weight = filled(name, nn.Linear(FAN_IN, FAN_OUT))
    assert float(weight.std()) == pytest.approx(STD[name], rel=0.02)
    assert abs(float(weight.mean())) < 0.02 * STD[name]


@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform", "truncated_normal", "lecun_normal"])
def test_a_convolutions_inputs_are_channels_times_kernel(name: str) -> None:
    weight = filled(name, nn.Conv2d(16, 64, 5, groups=2))
    assert float(weight.std()) == pytest.approx((1 if name == "lecun_normal" else GAIN) / math.sqrt(8 * 25), rel=0.02)


def test_a_transposed_convolution_sums_over_what_overlaps() -> None:
    layer = nn.ConvTranspose2d(32, 64, 4, stride=2, padding=1)
    filled("lecun_normal", layer)
    outputs = layer(torch.randn(8, 32, 16, 16))[:, :, 4:-4, 4:-4].detach()
    assert float(outputs.var()) == pytest.approx(1, rel=0.05)


TORCHS = {
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "xavier_normal": lambda weight: nn.init.xavier_normal_(weight, GAIN),
    "xavier_uniform": lambda weight: nn.init.xavier_uniform_(weight, GAIN),
    "orthogonal": lambda weight: nn.init.orthogonal_(weight, GAIN),
}


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(20, 30), lambda: nn.Conv1d(4, 6, 3), lambda: nn.Conv2d(4, 6, 3)])
def test_is_torchs_own_with_the_same_random_numbers(name: str, make: Any) -> None:
    layer, reference = make(), make().weight.detach()
    torch.manual_seed(1)
    ours = filled(name, layer)
    torch.manual_seed(1)
    torch.testing.assert_close(ours, TORCHS[name](reference))


def test_uniform_has_the_bound_that_belongs_to_its_spread() -> None:
    weight = filled("kaiming_uniform", nn.Linear(FAN_IN, FAN_OUT))
    assert float(weight.abs().max()) == pytest.approx(GAIN * math.sqrt(3 / FAN_IN), rel=0.01)


def test_truncated_has_nothing_beyond_two_standard_deviations() -> None:
    weight = filled("truncated_normal", nn.Linear(FAN_IN, FAN_OUT))
    assert float(weight.abs().max()) <= 2 * STD["truncated_normal"] / 0.8796


def test_layers_that_no_activation_follows_have_a_gain_of_one() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = SelfAttention(400, 4)
            self.dense = nn.Linear(400, 400)
            self.head = nn.Linear(400, 400)

    net = Net()
    INITS.resolve("kaiming_normal")(net, 2.0, IMAGES)
    net.requires_grad_(False)
    plain = [net.head, *net.attention.children()]
    assert all(float(layer.weight.std()) == pytest.approx(1 / 20, rel=0.02) for layer in plain)
    assert float(net.dense.weight.std()) == pytest.approx(2 / 20, rel=0.02)


CONFIGS = {
    "mlp": {"hidden": [64, 64]},
    "resnet": {"depth": 8, "width": 8},
    "cnn": {"channels": [8], "hidden": [32]},
}
SECTIONS = {"mlp": MLPConfig, "resnet": ResNetConfig, "cnn": CNNConfig}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", INITS.names())
def test_a_family_takes_every_name_and_is_the_same_for_the_same_seed(name: str, family: str) -> None:
    config = SECTIONS[family](family=family, init=name, **CONFIGS[family])
    first, again = (new_model(config, IMAGES, Outputs(3), seed=7).module for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first(IMAGES.example(4)).isfinite().all()


def test_selu_gets_the_weights_that_it_needs_by_default() -> None:
    config = MLPConfig(family="mlp", hidden=[256] * 12, activation="selu")
    module = new_model(config, (256,), 10, seed=0).module
    features = module.hidden(torch.randn(512, 256))
    assert abs(float(features.mean())) < 0.2
    assert float(features.var()) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "elu", "hardswish", "mish", "leaky_relu"])
def test_the_signal_keeps_its_scale_through_many_layers(activation: str) -> None:
    config = MLPConfig(family="mlp", hidden=[256] * 10, activation=activation)
    features = new_model(config, (256,), 10, seed=0).module.hidden(torch.randn(256, 256))
    assert 0.05 < float(features.square().mean()) < 20


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_lsuv_gives_every_layer_unit_variance(activation: str) -> None:
    module = new_model(MLPConfig(family="mlp", hidden=[64] * 6, activation=activation), (32,), 10, seed=0).module
    batch = 3 * torch.randn(64, 32) + 1
    lsuv_(module, batch)
    variances: list[float] = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda layer, x, y: variances.append(float(y.var())))
    module(batch)
    assert len(variances) == 7
    assert all(abs(variance - 1) <= LSUV_TOLERANCE for variance in variances)


def test_lsuv_leaves_modes_statistics_and_dead_layers_alone() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).train()
    before = {name: value.clone() for name, value in module[1].state_dict().items()}
    lsuv_(module, torch.zeros(4, 1, 8, 8))
    assert all(layer.training for layer in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module[1].state_dict().items())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_lsuv_by_name_takes_noise_and_gives_unit_variance_on_it() -> None:
    module = new_model(MLPConfig(family="mlp", hidden=[64, 64], init="lsuv"), (32,), 10, seed=0).module
    outputs = module(torch.randn(256, 32))
    assert float(outputs.var()) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("name", INITS.names())
def test_a_module_without_values_can_be_made(name: str) -> None:
    with blank_parameters():
        module = new_model(MLPConfig(family="mlp", hidden=[8], init=name), (4,), 3, seed=0).module
    assert all(parameter.is_meta for parameter in module.parameters())
    with torch.device("meta"):
        new_model(MLPConfig(family="mlp", hidden=[8], init=name), (4,), 3, seed=0)


def test_gains_are_what_a_family_uses() -> None:
    for activation in ("relu", "tanh", "gelu"):
        module = new_model(MLPConfig(family="mlp", hidden=[400], activation=activation), (400,), 3, seed=0).module
        assert float(module.hidden[0].weight.std()) == pytest.approx(activation_gain(activation) / 20, rel=0.02)
